"""The `finetune.tasks` of params.yaml: one section a task, tagged by its kind."""

from typing import Annotated, Literal

from pydantic import Field

from llm.params import Section

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class TrainingParams(Section):
    """How long and how fast; the rate is picked on val from `rates`, after short runs."""

    epochs: Rate
    batch_size: Count
    rates: list[Rate] = Field(min_length=1)
    search_share: Annotated[float, Field(gt=0, le=1)]
    other_rate_ratio: Rate
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Rate
    warmup_share: Share
    decay_share: Share
    evals: Count


class ClassifyTask(Section):
    """Text → one of the labels in the file."""

    kind: Literal["classify"]
    data: str
    base: str
    text_column: str
    label_column: str
    split_column: str | None
    max_tokens: Count
    training: TrainingParams


class InstructTask(Section):
    """Instruction, and maybe an input → an answer."""

    kind: Literal["instruct"]
    data: str
    base: str
    instruction_column: str
    input_column: str | None
    output_column: str
    split_column: str | None
    max_tokens: Count
    training: TrainingParams


Task = Annotated[ClassifyTask | InstructTask, Field(discriminator="kind")]
TaskName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class FinetuneParams(Section):
    """The whole `finetune` section; a stage instance takes one task of it."""

    tasks: dict[TaskName, Task]
