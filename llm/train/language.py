"""The language model's loss at a batch of windows, in the machine's precision, compiled where that pays."""

import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from llm.core.device import Machine
from llm.model.gpt import GPT, next_token_loss
from llm.train.batches import IGNORED

# A cold compilation takes about 45 s on two cores and saves a third of the time afterwards: below about this
# much work (two minutes of it at 200 GFLOP/s) a run is over sooner without.
COMPILE_FROM_FLOPS = 2.5e13

Compile = Literal["auto", "always", "never"]


class LanguageLoss:
    """Callable: inputs and targets (B, T) → the mean loss in nats, ready for `backward`.

    Targets of -100 do not count. The embedding is looked up outside of the compiled graph: inside, its backward
    pass adds gradients up in an order that changes from run to run on two threads.
    """

    def __init__(self, model: GPT, machine: Machine, compiled: bool):
        self.model, self.machine = model, machine
        self._rest: Callable[[Tensor, Tensor, Tensor | None], Tensor] = self._after_embedding
        if compiled:
            self._rest = torch.compile(self._after_embedding, dynamic=False, options=compile_options(machine))

    def __call__(self, ids: Tensor, target: Tensor, dropout_keys: Tensor | None = None) -> Tensor:
        """The loss of one batch; without the keys that `model.dropout_keys` draws nothing is dropped."""
        embedded = self.model.embedding(ids.to(self.machine.device))
        return self._rest(embedded.to(self.machine.dtype), target.to(self.machine.device), dropout_keys)

    def _after_embedding(self, embedded: Tensor, target: Tensor, dropout_keys: Tensor | None) -> Tensor:
        with self.machine.autocast():
            hidden = self.model.run_blocks(embedded, dropout_keys=dropout_keys)
            logits = self.model.head(hidden)
        return next_token_loss(logits, target)


def compile_options(machine: Machine) -> dict[str, Any] | None:
    """Return inductor's options; on a GPU those that make the same bytes in every run.

    Inductor otherwise picks the block sizes of GPU reductions by timing them, and other blocks add up in another order.
    """
    if machine.device != "cuda":
        return None
    import torch._inductor

    return (
        {"deterministic": True} if "deterministic" in torch._inductor.list_options() else None
    )  # torch 2.10 and newer


def split_loss(
    loss: LanguageLoss,
    ids: Tensor,
    target: Tensor,
    micro_batch_size: int,
    dropout_keys: Callable[[int], Tensor | None] = lambda part: None,
) -> Iterator[Tensor]:
    """The loss of a batch (B, T) in parts of up to `micro_batch_size` rows, which add up to that of the whole.

    A part weighs as much as it has targets that count. Each is made when it is asked for, so that only one
    part's graph is held in memory at a time. `dropout_keys` gives those of each part by its number.
    """
    if micro_batch_size >= len(ids):
        yield loss(ids, target, dropout_keys(0))
        return
    n_counting = (target != IGNORED).sum()
    rows = zip(ids.split(micro_batch_size), target.split(micro_batch_size), strict=True)
    for part, (some_ids, some_target) in enumerate(rows):
        share = float((some_target != IGNORED).sum() / n_counting)
        yield loss(some_ids, some_target, dropout_keys(part)) * share


def pays_to_compile(choice: Compile, flops: float, machine: Machine) -> bool:
    """Whether to compile a run of that much work; says so in a line when it would pay but can't be done."""
    wanted = choice == "always" or (choice == "auto" and flops >= COMPILE_FROM_FLOPS)
    if wanted and not machine.compiler:
        print(
            "no C++ compiler (g++ or clang++) is here: training runs uncompiled, about a third slower", file=sys.stderr
        )
    return wanted and machine.compiler
