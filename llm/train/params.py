"""The knobs of training: the `pretrain` section, and what finetuning shares with it."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llm.core.params import Section

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PartOfRun = Annotated[float, Field(gt=0, le=1)]


class OptimizerParams(Section):
    """Muon for the matrices of the blocks and AdamW for the rest, or AdamW for all.

    Weight decay is decoupled from the gradient (Loshchilov and Hutter 2019, arXiv:1711.05101) and takes the
    matrices of the blocks alone: norms, biases, the embedding and the head, its twin, keep their size.
    """

    kind: Literal["muon", "adamw"]
    muon_lr: Rate
    adamw_lr: Rate
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Rate


class ScheduleParams(Section):
    """How the rate moves after its warm-up; `llm.train.schedules` says what each kind does."""

    kind: Literal["wsd", "cosine", "constant"]
    warmup_steps: Annotated[int, Field(ge=0)]
    decay_fraction: Share
    final_lr_fraction: Share


class PretrainParams(Section):
    """The `pretrain` section: a budget of steps, never of time."""

    max_steps: Count
    batch_size: Count
    micro_batch_size: Count | None
    final_no_dropout_fraction: Share
    init: Literal["random", "previous_token_heads"] | None
    init_from: str | None
    optimizer: OptimizerParams
    schedule: ScheduleParams
    weight_averaging: Literal["ema", "tail"] | None
    ema_half_life_fraction: PartOfRun
    tail_fraction: PartOfRun
    eval_every_steps: Count
    eval_windows: Count
    early_stopping_patience: Count | None
    checkpoint_every_steps: Count
    checkpoint_selection: Literal["last", "best"]
    compile: Literal["auto", "always", "never"]

    @model_validator(mode="after")
    def _micro_batches_divide(self) -> Self:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"wanted batch_size divisible by micro_batch_size, given {self.batch_size} and {self.micro_batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _weights_have_one_origin(self) -> Self:
        if self.init_from is not None and self.init is not None:
            raise ValueError(f"wanted init null where init_from is a folder, given init {self.init}")
        return self

    @model_validator(mode="after")
    def _an_early_stop_keeps_the_best(self) -> Self:
        if self.early_stopping_patience is not None and self.checkpoint_selection != "best":
            raise ValueError(
                f"wanted keep best where early_stopping_patience is a number, given keep {self.checkpoint_selection}"
            )
        return self
