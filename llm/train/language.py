"""The language model's loss at a batch of windows, in the machine's precision, compiled where that pays."""

import sys
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from llm.model.gpt import GPT, next_token_loss
from llm.runtime import Machine

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
        self._rest: Callable[[Tensor, Tensor], Tensor] = self._after_embedding
        if compiled:
            self._rest = torch.compile(self._after_embedding, dynamic=False)

    def __call__(self, ids: Tensor, target: Tensor) -> Tensor:
        """The loss of one batch."""
        embedded = self.model.embedding(ids.to(self.machine.device))
        return self._rest(embedded.to(self.machine.dtype), target.to(self.machine.device))

    def _after_embedding(self, embedded: Tensor, target: Tensor) -> Tensor:
        with self.machine.autocast():
            hidden, _ = self.model.run_blocks(embedded)
            logits = self.model.head(hidden)
        return next_token_loss(logits, target)


def pays_to_compile(choice: Compile, flops: float, machine: Machine) -> bool:
    """Whether to compile a run of that much work; says so in a line when it would pay but can't be done."""
    wanted = choice == "always" or (choice == "auto" and flops >= COMPILE_FROM_FLOPS)
    if wanted and not machine.compiler:
        print(
            "no C++ compiler (g++ or clang++) is here: training runs uncompiled, about a third slower", file=sys.stderr
        )
    return wanted and machine.compiler
