"""Compute the language model's loss of a batch of windows, in the machine's precision, compiled on a GPU."""

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from llm.core.device import Machine
from llm.model.functions import IGNORED, head_loss
from llm.model.gpt import GPT
from llm.model.weights import set_weights
from llm.train.parallel import full_tensor, n_processes

# On one GPU a cold compilation took 36 s and saved 84 ms of a step of 1.4e13 FLOPs: below about this much work a run is
# over sooner without.
COMPILE_FROM_FLOPS = 6e15

Compile = Literal["auto", "always", "never"]


class LanguageLoss:
    """Callable: inputs and targets (B, T) → the mean loss in nats, ready for `backward`; targets of -100 are ignored.

    The embedding is outside of the compiled graph: inside, its backward pass would add gradients up in an order that
    changes from run to run on two threads.
    """

    def __init__(self, model: GPT, machine: Machine, compiled: bool):
        self.model, self.machine, self.compiled = model, machine, compiled
        self._rest: Callable[[Tensor, Tensor, Tensor | None], Tensor] = self._after_embedding
        if compiled:
            self._rest = torch.compile(self._after_embedding, dynamic=False, options=compile_options(machine))

    def __call__(self, ids: Tensor, target: Tensor, dropout_keys: Tensor | None = None) -> Tensor:
        """Return the loss of one batch; without keys from `model.dropout_keys` there is no dropout."""
        embedded = self.model.embedding(ids.to(self.machine.device))
        return self._rest(embedded.to(self.machine.dtype), target.to(self.machine.device), dropout_keys)

    def _after_embedding(self, embedded: Tensor, target: Tensor, dropout_keys: Tensor | None) -> Tensor:
        with self.machine.autocast():
            hidden = self.model.run_blocks(embedded, dropout_keys=dropout_keys)
            return head_loss(hidden, self.model.head.weight, target)


def compile_options(machine: Machine) -> dict[str, Any] | None:
    """Return options of inductor: on a GPU those that give the same bytes in every run (torch 2.10 and newer).

    Inductor otherwise times block sizes of GPU reductions, and other blocks add up in another order.
    """
    import torch._inductor

    has_option = machine.device == "cuda" and "deterministic" in torch._inductor.list_options()
    return {"deterministic": True} if has_option else None


def split_loss(
    loss: LanguageLoss,
    ids: Tensor,
    target: Tensor,
    micro_batch_size: int,
    dropout_keys: Callable[[int], Tensor | None] = lambda part: None,
) -> Iterator[Tensor]:
    """Yield the loss of a batch (B, T) in micro-batches of up to `micro_batch_size` rows; they add up to it.

    Each weighs as much as it has targets. They are made lazily, so that only one autograd graph is alive at a time.
    `dropout_keys` gives the keys of a micro-batch by its number.
    """
    if micro_batch_size >= len(ids):
        yield loss(ids, target, dropout_keys(0))
        return
    n_targets = (target != IGNORED).sum()
    parts = zip(ids.split(micro_batch_size), target.split(micro_batch_size), strict=True)
    for number, (part_ids, part_target) in enumerate(parts):
        share = float((part_target != IGNORED).sum() / n_targets)
        yield loss(part_ids, part_target, dropout_keys(number)) * share


def should_compile(choice: Compile, flops: float, machine: Machine) -> bool:
    """Return whether to compile a run of that much work on a GPU; print a line where only the compiler is missing."""
    pays = machine.device == "cuda" and (choice == "always" or (choice == "auto" and flops >= COMPILE_FROM_FLOPS))
    if pays and not machine.compiler:
        print("no C++ compiler (g++ or clang++) found: training uncompiled, about a third slower", file=sys.stderr)
    return pays and machine.compiler


class ShardedLoss(LanguageLoss):
    """The loss of a model on the CPU, which this shards over the processes block by block; never compiled.

    Fully sharded data parallelism (Zhao et al. 2023, arXiv:2304.11277): each process holds a part of every weight,
    gradient and average of AdamW. Muon's momentum is replicated: it works on full matrices.
    """

    def __init__(self, model: GPT, machine: Machine):
        super().__init__(model, machine, compiled=False)
        mesh = init_device_mesh(machine.device, (n_processes(),))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        # It warns of outputs that are changed in place afterwards; here nothing is, and keys and values are views.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
        # The rest, embedding, last norm and head, is freed after the forward pass as well: validation has no backward
        # pass, and would leave weights from before the next step.
        self._module = _LossModule(model, super().__call__)
        fully_shard(self._module, mesh=mesh, reshard_after_forward=True)

    def __call__(self, ids: Tensor, target: Tensor, dropout_keys: Tensor | None = None) -> Tensor:
        """Return the loss of one batch; a collective: each process calls it with its rows."""
        return self._module(ids, target, dropout_keys)


class _LossModule(nn.Module):
    """The loss as a module: FSDP gathers weights around `forward`, and the GPT's own is not called here."""

    def __init__(self, model: GPT, loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]):
        super().__init__()
        self.model, self.forward = model, loss


def unsharded(model: GPT) -> GPT:
    """Return the model with full weights on the CPU; a collective."""
    weights = {name: full_tensor(weight.detach()).cpu() for name, weight in model.named_parameters()}
    gathered = GPT(model.config)
    set_weights(gathered, weights, Path("sharded weights"))
    return gathered
