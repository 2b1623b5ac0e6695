"""The knobs of training: the `pretrain` section, and what finetuning shares with it."""

from typing import Annotated, Literal

from pydantic import Field

from llm.params import Section

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


class OptimizerParams(Section):
    """Muon's rate for the matrices of the blocks, AdamW's for embedding, head and norms."""

    matrix_rate: Rate
    other_rate: Rate
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Rate


class ScheduleParams(Section):
    """Warm up, stay, decay to zero (Hägele et al. 2024, arXiv:2405.18392)."""

    warmup_steps: Annotated[int, Field(ge=0)]
    decay_share: Annotated[float, Field(ge=0, le=1)]


class PretrainParams(Section):
    """The `pretrain` section: a budget of steps, never of time."""

    max_steps: Count
    batch_size: Count
    clean_share: Annotated[float, Field(ge=0, le=1)]
    optimizer: OptimizerParams
    schedule: ScheduleParams
    eval_every_steps: Count
    eval_windows: Count
    checkpoint_every_steps: Count
    keep: Literal["last", "best"]
    compile: Literal["auto", "always", "never"]
