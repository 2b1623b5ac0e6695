"""Collectives for data-parallel training; no-ops at world size 1.

Data-parallel training (Li et al. 2020, arXiv:2006.15704): every process has the full model and a part of the rows of
each batch; gradients are summed, so that all take the same step. All sums have the same bits in every process.

torch's DistributedDataParallel rebuilds its buckets after the first step: with three processes or more a resumed run
would add in another order and end in other weights than an uninterrupted one.
"""

import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from llm.core.errors import UserError
from llm.model.functions import IGNORED

Value = TypeVar("Value")


def n_processes() -> int:
    """Return the world size."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process; 0 saves the state and writes the outputs."""
    return dist.get_rank() if dist.is_initialized() else 0


def sum_over_processes(value: float) -> float:
    """Return the sum of all processes' values."""
    if not dist.is_initialized():
        return value
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return total.item()


def broadcast_from_rank0(value: Value) -> Value:
    """Return the value of rank 0."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values, src=0)
    return values[0]


@contextmanager
def defer_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C in a list; at the end of the block exit with 143, or raise KeyboardInterrupt.

    A second Ctrl-C interrupts at once.
    """
    received: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if signal.SIGTERM in received:
        sys.exit(128 + signal.SIGTERM)
    if received:
        raise KeyboardInterrupt


def share_signals(received: list[int]) -> list[int]:
    """Add a signal that any process has received to the list of each; return the list as of this exchange.

    All stop after the same step, for none can go on alone. So the answer must be the same in all of them: a signal
    that arrives during the exchange is in the answer of the next one.
    """
    if not dist.is_initialized():
        return received
    highest = torch.tensor(received[-1] if received else 0)
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    if not highest:
        return []
    received[:] = received or [int(highest)]
    return received


def check_same_on_all_nodes(**values: object) -> None:
    """Raise UserError in all processes that names a value that differs between them."""
    own = {name: repr(value) for name, value in values.items()}
    gathered: list[dict[str, str]] = [own] * n_processes()
    if dist.is_initialized():
        dist.all_gather_object(gathered, own)
    if differing := [name for name in own if len({of_rank[name] for of_rank in gathered}) > 1]:
        raise UserError(f"environment: expected the same params and inputs on every node, got different {differing[0]}")


def shard_rows(ids: Tensor, target: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return this process' rows of a batch (B, T), each (B / processes, T), and their share of its targets.

    The mean loss of the rows times the share, summed over the processes, is the mean loss of the batch.
    """
    if not dist.is_initialized():
        return ids, target, 1.0
    assert len(ids) % n_processes() == 0
    rows = slice(rank() * len(ids) // n_processes(), (rank() + 1) * len(ids) // n_processes())
    share = (target[rows] != IGNORED).sum() / (target != IGNORED).sum()
    return ids[rows], target[rows], float(share)


def round_robin_shard(items: Sequence[Value]) -> Iterator[tuple[Value, bool]]:
    """Yield this process' items, and whether each one counts.

    Every process has equally many, since sharded models compute together; an item that fills a gap does not count.
    """
    for begin in range(0, len(items), n_processes()):
        index = begin + rank()
        yield items[index % len(items)], index < len(items)


@torch.no_grad()
def sum_gradients(weights: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by the sum over the processes; a missing one counts as zeros."""
    pending = []
    for weight in weights if dist.is_initialized() else ():
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        if isinstance(weight.grad, DTensor):
            weight.grad.mul_(n_processes())  # FSDP has averaged it in its reduce-scatter
        else:
            pending.append(dist.all_reduce(weight.grad, async_op=True))
    for work in pending:
        work.wait()


def full_tensor(value: Any) -> Any:
    """Gather each sharded tensor in a value, a dict or a list; a collective."""
    if isinstance(value, dict):
        return {key: full_tensor(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [full_tensor(inner) for inner in value]
    return value.full_tensor() if isinstance(value, DTensor) else value


def local_shard(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a full tensor sharded as `like` is, on its device."""
    if not isinstance(like, DTensor):
        return tensor.to(like.device)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
