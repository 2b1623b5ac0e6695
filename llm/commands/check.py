"""Check all of params.yaml: every section, and what the sections require of each other.

Under DVC each stage runs this at its start, so that the first stage of a run refuses what a later one would, before
hours of work. Stages check what depends on the text.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from llm.core import params
from llm.core.errors import UserError
from llm.core.params import Section
from llm.corpus.params import LabelParams, PrepareParams
from llm.evaluate.params import BaselinesParams, ClozeParams, EvaluateParams, MemoriseParams
from llm.export.formats import ExportParams, export_problems, folder_problems
from llm.finetune.params import ClassifyTask, FinetuneParams, Task, with_defaults
from llm.model.config import ModelParams
from llm.page.params import PageParams
from llm.tokens.params import TokenizeParams, WindowParams
from llm.train.params import PretrainParams


class Params(Section):
    """All of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**63)]
    prepare: PrepareParams
    label: LabelParams
    tokenize: TokenizeParams
    sample: WindowParams
    model: ModelParams
    pretrain: PretrainParams
    baselines: BaselinesParams
    evaluate: EvaluateParams
    export: ExportParams
    page: PageParams
    memorise: MemoriseParams
    cloze: ClozeParams
    finetune: FinetuneParams


# Each key is at most the value of another one; those of a task hold for our own model as its base.
LIMITS = {"evaluate.stride": "sample.context_length", "memorise.prefix_tokens": "sample.context_length"}
LIMITS |= {"label.min_chars": "label.max_chars"}
TASK_LIMITS = {"max_tokens": "sample.context_length", "method.k": "model.n_layers", "method.rank": "model.d_model"}
METHODS = {"method.k": ("last_k_blocks",), "method.rank": ("lora", "dora")}  # that use the key
SHAPE = ("d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff")  # of the model; null under pretrain.init_from
EXPORT = "models/export/hf"  # of the stage export, as a task names it
FINETUNED, GIVEN, WIRING = Path("models/finetuned"), Path("data/given"), Path("dvc.yaml")


def check_params(path: Path, content: dict[str, Any] | None = None) -> Params:
    """Return all of a params file, or of `content` in its place, checked; UserError names every wrong key."""
    content = params.read(path) if content is None else content
    content["model"] = _with_given_shape(content)
    if "finetune" in content:
        content["finetune"] = with_defaults(content["finetune"])
    checked: Params = params.check(Params, content, "", path)
    problems = [*_section_problems(checked), *_given_problems(checked)]
    # A tokenizer with a problem of its own cannot be exported either: one line is enough.
    if not problems:
        problems += export_problems(checked.export.formats, checked.model, checked.tokenize)
    for name, task in checked.finetune.tasks.items():
        problems += [f"finetune.tasks.{name}.{problem}" for problem in _task_problems(task, checked)]
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}")
    return checked


def _with_given_shape(content: dict[str, Any]) -> Any:
    """Return the section `model`; where it has null for a key of weights that are given, the value of their folder."""
    model, pretrain = content.get("model"), content.get("pretrain")
    given = pretrain.get("init_from") if isinstance(pretrain, dict) else None
    if not isinstance(given, str) or not isinstance(model, dict) or None not in (model.get(key) for key in SHAPE):
        return model
    from llm.export.hf.base import resolve_shape

    return resolve_shape(model, Path(given)).model_dump()


def _too_large(section: Section, limits: dict[str, str], checked: Params) -> Iterator[str]:
    content = checked.model_dump()
    for key, limit_key in limits.items():
        value, limit = params.find(section.model_dump(), key, Path()), params.find(content, limit_key, Path())
        if value is not None and value > limit:
            yield f"{key}: expected at most {limit_key} {limit}, got {value}"


def _section_problems(checked: Params) -> Iterator[str]:
    weights, pretrain = checked.sample.weights, checked.pretrain
    yield from _too_large(checked, LIMITS, checked)
    sources = [source.name for source in checked.prepare.sources]
    for name in weights.keys() - set(sources):
        yield f"sample.weights.{name}: expected the name of a source ({', '.join(sources)})"
    if not any(weights.get(name, 1.0) for name in sources):
        yield "sample.weights: expected a source to train on, got 0 for each one"
    if pretrain.early_stopping_patience is not None and not checked.prepare.split.val:
        yield "pretrain.early_stopping_patience: expected held-out text (prepare.split.val above 0) to stop by, got 0"
    if pretrain.init == "previous_token_heads" and not checked.model.supports_previous_token_heads:
        expected = "random or null for a model without causal attention and rotary positions"
        yield f"pretrain.init: expected {expected}, got previous_token_heads"


def _given_problems(checked: Params) -> Iterator[str]:
    paths = {"tokenize.pretrained": checked.tokenize.pretrained, "pretrain.init_from": checked.pretrain.init_from}
    for key, given in ((key, Path(given)) for key, given in paths.items() if given is not None):
        if ".." in given.parts or not given.is_relative_to(GIVEN):
            yield f"{key}: expected a path under {GIVEN}, got {given}"
        elif not _exists(given):
            yield f"{key}: expected a file or folder, there is no {given}"


def _task_problems(task: Task, checked: Params) -> Iterator[str]:
    """Yield the problems of a finetuning task; outputs of earlier stages need not exist yet."""
    if not Path(task.data).suffix:
        yield f"data: expected a file, got {task.data}"
    elif not _exists(Path(task.data)):
        yield f"data: expected a file, there is no {task.data}"
    if task.base != EXPORT:
        yield from _base_problems(task, checked)
        return
    limits = {key: of for key, of in TASK_LIMITS.items() if task.method.kind in METHODS.get(key, [task.method.kind])}
    yield from _too_large(task, limits, checked)


def _base_problems(task: Task, checked: Params) -> Iterator[str]:
    base = Path(task.base)
    if not (base.parent == FINETUNED and base.name in checked.finetune.tasks) and not _exists(base):
        yield f"base: expected a Hugging Face folder, there is no {task.base}"
    elif not isinstance(task, ClassifyTask) and (base / "config.json").is_file() and base.parts[0] != "models":
        yield from (f"base: {base}: {problem}" for problem in folder_problems(checked.export.formats, base))


def _exists(path: Path) -> bool:
    """Return whether a path exists, is made by a stage, or is tracked by DVC, itself or a folder above it."""
    if path.exists() or not WIRING.exists():
        return True
    is_made = path.as_posix() in WIRING.read_text(encoding="utf-8")
    return is_made or any(Path(f"{part}.dvc").exists() for part in (path, *path.parents))
