"""What the processes of one run tell each other. Each of these does nothing where there is only one.

Data-parallel training (Li et al. 2020, arXiv:2006.15704): every process has the whole model and takes its share of
the rows of each batch; the gradients are summed over the processes, so that all take the same step and keep the same
weights. All sums come out in the same bits everywhere.

torch's DistributedDataParallel is not used: it lays its buckets out anew after its first step, and so with three
processes or more a resumed run added in another order and ended in other weights than an uninterrupted one.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from llm.core.errors import UserError
from llm.train.batches import IGNORED

Value = TypeVar("Value")

BUCKET_ELEMENTS = 2**25  # of gradients that travel together: more gains nothing, and they are copied for it


def n_processes() -> int:
    """How many take part."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This one's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the one that keeps the state and writes the outputs."""
    return rank() == 0


def sum_over_processes(value: float) -> float:
    """The sum of every process' value."""
    if not dist.is_initialized():
        return value
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return total.item()


def broadcast_from_rank0(value: Value) -> Value:
    """The first process' value; the others' are not looked at."""
    if not dist.is_initialized():
        return value
    told = [value]
    dist.broadcast_object_list(told, src=0)
    return told[0]


def share_signals(came: list[int]) -> list[int]:
    """Note a signal that came to any process in the list of each; returns it.

    All stop after the same step, for none can go on alone.
    """
    if dist.is_initialized():
        highest = torch.tensor(came[-1] if came else 0)
        dist.all_reduce(highest, op=dist.ReduceOp.MAX)
        if highest and not came:
            came.append(int(highest))
    return came


def wait_for_all() -> None:
    """Return when every process has come here."""
    if dist.is_initialized():
        dist.all_reduce(torch.tensor(0))


def refuse_if_nodes_differ(**values: object) -> None:
    """UserError, in all of them, that names the values out of these that are not the same in every process."""
    told: list[dict[str, str]] = [{name: repr(value) for name, value in values.items()}] * n_processes()
    if dist.is_initialized():
        dist.all_gather_object(told, told[0])
    differing = [name for name in values if len({of_one[name] for of_one in told}) > 1]
    if differing:
        raise UserError(
            f"environment: wanted the same params and inputs on every node, given more than one {differing[0]}"
        )


def own_rows(ids: Tensor, target: Tensor) -> tuple[Tensor, Tensor, float]:
    """This process' rows of a batch (B, T), each (B / processes, T), and their share of the targets that count.

    A mean loss of the rows times that share, summed over the processes, is the mean loss of the batch.
    """
    if not dist.is_initialized():
        return ids, target, 1.0
    assert len(ids) % n_processes() == 0
    rows = slice(rank() * len(ids) // n_processes(), (rank() + 1) * len(ids) // n_processes())
    share = (target[rows] != IGNORED).sum() / (target != IGNORED).sum()
    return ids[rows], target[rows], float(share)


def round_robin_shard(items: Sequence[Value]) -> Iterator[tuple[Value, bool]]:
    """This process' items of those that go round, and whether each one counts here.

    Every process gets equally many, since sharded ones compute together; one that fills a gap does not count.
    """
    for begin in range(0, len(items), n_processes()):
        place = begin + rank()
        yield items[place % len(items)], place < len(items)


@torch.no_grad()
def sum_gradients(weights: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by the sum of every process' gradient; one that is missing counts as zeros."""
    if not dist.is_initialized():
        return
    for bucket in _buckets(weights):
        for weight in bucket:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        gradients = [weight.grad for weight in bucket if weight.grad is not None]
        if isinstance(gradients[0], DTensor):
            # Sharded ones were averaged while they were spread.
            for gradient in gradients:
                gradient.mul_(n_processes())
            continue
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))


def _buckets(weights: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for weight in weights:
        if bucket and sum(w.numel() for w in bucket) + weight.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket = []
        bucket.append(weight)
    if bucket:
        yield bucket


def full_tensor(value: Any) -> Any:
    """A value with each sharded tensor in it, in dicts and lists, put together; all processes have to ask."""
    if isinstance(value, dict):
        return {key: full_tensor(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [full_tensor(inner) for inner in value]
    return value.full_tensor() if isinstance(value, DTensor) else value


def local_shard(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process holds of `like`, on its device; all of it where that is whole."""
    if not isinstance(like, DTensor):
        return tensor.to(like.device)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
