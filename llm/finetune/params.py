"""The `finetune` section of params.yaml: defaults that tasks share, and for each task what differs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model, model_validator
from pydantic.fields import FieldInfo

from llm.core import params
from llm.core.errors import UserError
from llm.core.params import Count, EncodingName, Name, Section
from llm.train.params import Fraction, Positive, PositiveFraction

FITTING = 0.999  # of the rows of train, without being truncated or dropped
MAX_ROW_TOKENS = 1024  # unless a task states more: a base may read far longer rows than memory allows to train on
Target = Literal["query", "key", "value", "output", "gate", "up", "down"]


class MethodParams(Section):
    """Which weights are trained. Every kind has all keys, so that an experiment changes `kind` alone.

    LoRA: Hu et al. 2021, arXiv:2106.09685. DoRA: Liu et al. 2024, arXiv:2402.09353.
    """

    kind: Literal["full", "lora", "dora", "head", "last_k_blocks"]
    rank: Count
    alpha: Positive
    targets: list[Target] = Field(min_length=1)
    k: Count


class TrainingParams(Section):
    """Duration and learning rates; of several rates, the one with the lowest loss on val after short runs is used."""

    epochs: Positive
    batch_size: Count
    learning_rates: list[Positive] = Field(min_length=1)
    lr_search_fraction: PositiveFraction = 0.25
    adamw_lr_ratio: Positive
    layerwise_lr_decay: PositiveFraction = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Positive = 10.0
    warmup_fraction: Fraction = 0.1
    decay_fraction: Fraction = 0.6
    n_evals: Count
    early_stopping_patience: Count | None = None


class TaskParams(Section):
    """Keys of every kind of task."""

    base: str
    data: str
    encoding: EncodingName | None = None  # null: detected
    split_column: str | None = None
    group_column: str | None = None
    on_error: Literal["fail", "skip"] = "fail"
    max_tokens: Count | None = None
    method: MethodParams
    training: TrainingParams

    def max_tokens_of(self, train_lengths: Sequence[int], context_length: int) -> int:
        """Return the most tokens that a row may have; null derives them from the lengths of the rows of train.

        At least `FITTING` of these rows fit, in a multiple of 64 tokens. UserError where more is stated than fits into
        the base's context.
        """
        if self.max_tokens is not None:
            if self.max_tokens > context_length:
                got = f"expected at most the base's context of {context_length}, got {self.max_tokens}"
                raise UserError(f"max_tokens: {got}")
            return self.max_tokens
        nearest_rank = sorted(train_lengths)[math.ceil(FITTING * len(train_lengths)) - 1] if train_lengths else 1
        return min(64 * math.ceil(nearest_rank / 64), context_length, MAX_ROW_TOKENS)


class ClassifyTask(TaskParams):
    """Predict one label, or any number of labels, of one text or two."""

    kind: Literal["classify"]
    header: bool = True
    text_columns: list[str] = Field(min_length=1, max_length=2)
    label_column: str
    label_separator: Annotated[str, Field(min_length=1)] | None = None
    min_rows_per_label: Count = 2
    class_weights: Literal["balanced"] | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    zero_shot: str | None = None

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        if self.zero_shot is not None and not self.zero_shot.endswith("{label}"):
            raise ValueError(f"expected zero_shot null or a template that ends in {{label}}, got {self.zero_shot!r}")
        if self.zero_shot is not None and self.label_separator is not None:
            raise ValueError("expected zero_shot null where a row has any number of labels (label_separator)")
        return self


class RowColumns(Section):
    """Columns of a conversation; `system` holds the text of a system message and may be empty in a row."""

    system: str | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that are read, the answer last."""
        return [column for name, column in self if name != "kind" and column is not None]

    @property
    def optional(self) -> set[str]:
        """The columns that may be empty in a row."""
        return {column for name, column in self if name in ("system", "input") and column is not None}


class AlpacaRows(RowColumns):
    """An instruction, an optional input, an answer."""

    kind: Literal["alpaca"]
    instruction: str
    input: str | None
    output: str


class PromptRows(RowColumns):
    """A prompt and its completion."""

    kind: Literal["prompt_completion"]
    prompt: str
    completion: str


class MessagesRows(RowColumns):
    """A list of {role, content}; roles are system, user and assistant."""

    kind: Literal["messages"]
    messages: str


class ShareGPTRows(RowColumns):
    """A list of {from, value}; senders are system, human and gpt."""

    kind: Literal["sharegpt"]
    conversations: str


MessageRows = Annotated[AlpacaRows | PromptRows | MessagesRows | ShareGPTRows, Field(discriminator="kind")]


class InstructTask(TaskParams):
    """Train a model that answers on conversations."""

    kind: Literal["instruct"]
    rows: MessageRows
    loss_on: Literal["assistant", "all"]
    on_overflow: Literal["drop", "truncate", "split"]
    packing: bool


class DPOTask(TaskParams):
    """Direct preference optimization on pairs of answers (Rafailov et al. 2023, arXiv:2305.18290).

    `beta` limits the distance from the base. A text in `input_column` is appended to the prompt, as in alpaca rows.
    """

    kind: Literal["dpo"]
    prompt_column: str
    input_column: str | None = None
    chosen_column: str
    rejected_column: str
    beta: Positive


Task = Annotated[ClassifyTask | InstructTask | DPOTask, Field(discriminator="kind")]
KINDS: dict[str, type[TaskParams]] = {"classify": ClassifyTask, "instruct": InstructTask, "dpo": DPOTask}


class StatedTask(BaseModel):
    """The keys that every task states itself; others are merged from the defaults by `resolve_task`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")
    kind: Literal["classify", "instruct", "dpo"]
    base: str
    data: str


def _partial(model: type[BaseModel], without: tuple[str, ...] = ()) -> Any:
    """Return a model with the same keys, all of them optional, those of nested sections too."""
    fields: dict[str, Any] = {}
    for name in model.model_fields.keys() - without:
        field = model.model_fields[name]
        kind: Any = field.annotation
        kind = _partial(kind) if kind in (MethodParams, TrainingParams) else kind
        fields[name] = (kind, FieldInfo.merge_field_infos(field, annotation=kind, default=None))
    return create_model(f"Partial{model.__name__}", __base__=Section, **fields)


_STATED = (*StatedTask.model_fields, "rows")
# Keys of every kind, and below `classify`, `instruct` and `dpo` the keys of one kind.
_BY_KIND: dict[str, Any] = {kind: (_partial(of, _STATED), None) for kind, of in KINDS.items()}
Defaults: Any = create_model("Defaults", __base__=_partial(TaskParams, _STATED), **_BY_KIND)


class FinetuneParams(Section):
    """The whole `finetune` section, after `with_defaults`; a stage instance takes one task of it."""

    n_seeds: Count
    defaults: Defaults
    tasks: dict[Name, Task]


def with_defaults(finetune: Any) -> Any:
    """Return the plain `finetune` section with defaults merged into each task; without tasks where they are wrong."""
    if not isinstance(finetune, dict) or not isinstance(finetune.get("tasks"), dict):
        return finetune
    defaults, tasks = finetune.get("defaults"), finetune["tasks"]
    try:
        TypeAdapter(Defaults | None).validate_python(defaults)  # None: a file that is older than the key
    except ValidationError:
        return finetune | {"tasks": {}}
    return finetune | {"tasks": {name: merge_defaults(task, defaults) for name, task in tasks.items()}}


def merge_defaults(task: Any, defaults: Any) -> Any:
    """Return a plain task with the defaults of its kind, merged by key in nested sections.

    >>> merge_defaults({"kind": "dpo", "a": {"x": 1}}, {"a": {"x": 0, "y": 2}, "dpo": {"beta": 0.1}})
    {'a': {'x': 1, 'y': 2}, 'beta': 0.1, 'kind': 'dpo'}
    """
    if not isinstance(task, dict) or not isinstance(defaults, dict):
        return task
    shared = {key: value for key, value in defaults.items() if key not in KINDS}
    return _merge(_merge(shared, defaults.get(task.get("kind", "")) or {}), task)


def _merge(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {key: _merge(below.get(key), value) for key, value in above.items()}


def resolve_task(task: Any, defaults: Any, name: str, path: Path | str = "params.yaml") -> Any:
    """Return the task `name` of a params file as its params class; UserError names the keys that are wrong."""
    return params.check(Task, merge_defaults(task, defaults), f"finetune.tasks.{name}", path)


def load_task(path: Path, name: str) -> Any:
    """Return a task of a params file."""
    content = params.read(path)
    task = params.find(content, f"finetune.tasks.{name}", path)
    return resolve_task(task, content["finetune"].get("defaults"), name, path)
