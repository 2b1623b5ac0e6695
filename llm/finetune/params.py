"""The `finetune` section of params.yaml: one section a task, tagged by its kind."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llm.core.params import EncodingName, Section

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Target = Literal["query", "key", "value", "output", "gate", "up", "down"]


class MethodParams(Section):
    """Which weights learn. All keys stand there for every kind, so that an experiment changes `kind` alone.

    `lora` adds two narrow matrices to each target (Hu et al. 2021, arXiv:2106.09685), `dora` a length for each of its
    rows too (Liu et al. 2024, arXiv:2402.09353).
    """

    kind: Literal["full", "lora", "dora", "head", "last_k_blocks"]
    rank: Count
    alpha: Rate
    targets: list[Target] = Field(min_length=1)
    k: Count


class TrainingParams(Section):
    """How long and how fast; the rate is picked on val from `learning_rates`, after short runs."""

    epochs: Rate
    batch_size: Count
    learning_rates: list[Rate] = Field(min_length=1)
    lr_search_fraction: Annotated[float, Field(gt=0, le=1)]
    adamw_lr_ratio: Rate
    layerwise_lr_decay: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Rate
    warmup_fraction: Share
    decay_fraction: Share
    n_evals: Count
    early_stopping_patience: Count | None


class TaskParams(Section):
    """What every kind of task has: a base, a file of rows with their splits, a method, a training."""

    base: str
    weights: str
    data: str
    encoding: EncodingName | None = None  # null: found, and told where it is a guess
    split_column: str | None
    group_column: str | None
    on_error: Literal["fail", "skip"]
    max_tokens: Count
    method: MethodParams
    training: TrainingParams


class ClassifyTask(TaskParams):
    """One text or two → one of the labels in the file, or any number of them."""

    kind: Literal["classify"]
    header: bool
    text_columns: list[str] = Field(min_length=1, max_length=2)
    label_column: str
    label_separator: Annotated[str, Field(min_length=1)] | None
    min_rows_per_label: Count
    class_weights: Literal["balanced"] | None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    zero_shot: str | None

    @model_validator(mode="after")
    def _the_template_has_its_places(self) -> Self:
        if self.zero_shot is not None and not self.zero_shot.endswith("{label}"):
            raise ValueError("wanted zero_shot to end in {label}, or null")
        return self


class _Rows(Section):
    """A column that every kind of rows may have: the text of a system message, empty in rows without one."""

    system: str | None = None


class AlpacaRows(_Rows):
    """An instruction, perhaps an input, an answer."""

    kind: Literal["alpaca"]
    instruction: str
    input: str | None
    output: str


class PromptRows(_Rows):
    """A prompt and its completion."""

    kind: Literal["prompt_completion"]
    prompt: str
    completion: str


class MessagesRows(_Rows):
    """A list of {role, content}; roles are system, user and assistant."""

    kind: Literal["messages"]
    messages: str


class ShareGPTRows(_Rows):
    """A list of {from, value}; senders are system, human and gpt."""

    kind: Literal["sharegpt"]
    conversations: str


MessageRows = Annotated[AlpacaRows | PromptRows | MessagesRows | ShareGPTRows, Field(discriminator="kind")]


class InstructTask(TaskParams):
    """Conversations → a model that answers."""

    kind: Literal["instruct"]
    rows: MessageRows
    loss_on: Literal["assistant", "all"]
    on_overflow: Literal["drop", "truncate", "split"]
    packing: bool


class DPOTask(TaskParams):
    """A prompt with a better and a worse answer → a model that gives the better one more weight.

    Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290); `beta` keeps the model near its base.
    What `input_column` holds comes behind the prompt, as in rows of the kind alpaca; it may be empty.
    """

    kind: Literal["dpo"]
    prompt_column: str
    input_column: str | None = None
    chosen_column: str
    rejected_column: str
    beta: Rate


Task = Annotated[ClassifyTask | InstructTask | DPOTask, Field(discriminator="kind")]
TaskName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class FinetuneParams(Section):
    """The whole `finetune` section; a stage instance takes one task of it."""

    n_seeds: Count
    tasks: dict[TaskName, Task]
