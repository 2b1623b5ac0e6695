"""Define the section `pretrain` of params.yaml, and what finetuning shares with it."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llm.core.derived import derive
from llm.core.params import Count, Section

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]


class OptimizerParams(Section):
    """Muon for the matrices of the blocks and AdamW for the rest, or AdamW for all.

    Weight decay is decoupled from the gradient (Loshchilov and Hutter 2019, arXiv:1711.05101) and applies to the
    matrices of the blocks alone, not to norms, biases, the embedding or the head.
    """

    kind: Literal["muon", "adamw"]
    muon_lr: Positive
    adamw_lr: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Positive


class ScheduleParams(Section):
    """The learning rate over the steps, after a linear warm-up.

    `wsd` (warm up, stay, decay: Hägele et al. 2024, arXiv:2405.18392) stays at 1 and decays linearly over the last
    part of the steps; `cosine` decays along half a wave (Loshchilov and Hutter 2017, arXiv:1608.03983).
    """

    kind: Literal["wsd", "cosine", "constant"]
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    decay_fraction: Fraction
    final_lr_fraction: Fraction

    def warmup_of(self, n_steps: int) -> int:
        """Return the steps of the warm-up; null derives them from all steps."""
        return derive("pretrain.schedule.warmup_steps", n_steps, self.warmup_steps)

    def lr_factor(self, step: int, n_steps: int) -> float:
        """Return the learning rate of a step as a fraction of the full one, never 0.

        `final_lr_fraction` is what the decay would reach at step n_steps, one after the last.

        >>> schedule = ScheduleParams(kind="wsd", warmup_steps=2, decay_fraction=0.5, final_lr_fraction=0.0)
        >>> [schedule.lr_factor(step, 8) for step in range(8)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
        """
        warmup = self.warmup_of(n_steps)
        up = (step + 1) / warmup if warmup else 1.0
        left = 1.0
        if self.kind == "wsd" and self.decay_fraction:
            left = (n_steps - step) / (self.decay_fraction * n_steps)
        elif self.kind == "cosine":
            left = (1 + math.cos(math.pi * max(step - warmup, 0) / max(n_steps - warmup, 1))) / 2
        return min(1.0, up, self.final_lr_fraction + (1 - self.final_lr_fraction) * left)


class LoopParams(Section):
    """What the training loop does between the first step and the last, whatever it trains."""

    optimizer: OptimizerParams
    schedule: ScheduleParams
    weight_averaging: Literal["ema", "tail"] | None  # the mean is validated and returned
    ema_half_life_fraction: PositiveFraction = 0.1  # of the steps
    tail_fraction: PositiveFraction = 0.1  # of the steps
    eval_every_steps: Count | None = None  # null derives it from the number of steps
    early_stopping_patience: Count | None  # evaluations without a better validation loss
    checkpoint_every_steps: Count | None = None  # likewise
    checkpoint_selection: Literal["last", "best"]


class PretrainParams(LoopParams):
    """The section `pretrain`: a budget of steps, never of time."""

    max_steps: Count
    batch_size: Count
    micro_batch_size: Count | None = None
    final_no_dropout_fraction: Fraction | None = None  # null: a fifth, but about an epoch at most
    init: Literal["random", "previous_token_heads"] | None = None
    init_from: str | None = None
    eval_windows: Count
    compile: Literal["auto", "always", "never"]

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        micro, selection = self.micro_batch_size, self.checkpoint_selection
        if micro is not None and self.batch_size % micro:
            raise ValueError(f"expected batch_size divisible by micro_batch_size, got {self.batch_size} and {micro}")
        if self.init_from is not None and self.init is not None:
            raise ValueError(f"expected init null where init_from is a folder, got init {self.init}")
        if self.early_stopping_patience is not None and selection != "best":
            raise ValueError(f"expected checkpoint_selection best with early_stopping_patience, got {selection}")
        return self
