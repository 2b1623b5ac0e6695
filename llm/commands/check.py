"""The whole of params.yaml at once: every section, and what one section asks of another.

Each stage runs this at its start under DVC, so that the first stage of a run refuses what a later one would, before
hours of work begin. What hangs on the text itself is for the stages.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from llm.core import params
from llm.core.errors import UserError
from llm.core.params import Section
from llm.corpus.params import LabelParams, PrepareParams
from llm.evaluate.memorization import MemoriseParams
from llm.evaluate.params import BaselinesParams, ClozeParams, EvaluateParams
from llm.export.check import export_problems
from llm.export.params import ExportParams
from llm.finetune.params import ClassifyTask, FinetuneParams, Task
from llm.model.config import ModelParams
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
    memorise: MemoriseParams
    cloze: ClozeParams
    finetune: FinetuneParams


EXPORT = "models/export"  # of the stage export, as a task names it
FINETUNED, GIVEN, WIRING = Path("models/finetuned"), Path("data/given"), Path("dvc.yaml")


def check_params(path: Path) -> Params:
    """Return all of a params file, checked; UserError names every key that is wrong, in one line."""
    checked: Params = params.check(Params, params.read(path), "", path)
    problems = [*_text_problems(checked), *_pretrain_problems(checked)]
    # A tokenizer with a problem of its own cannot be exported either: one line is enough.
    if not problems:
        problems += export_problems(checked.export.formats, checked.model, checked.tokenize)
    for name, task in checked.finetune.tasks.items():
        problems += [f"finetune.tasks.{name}.{problem}" for problem in _task_problems(task, checked)]
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}")
    return checked


def _text_problems(checked: Params) -> Iterator[str]:
    context, sample = checked.sample.context_length, checked.sample
    lengths = {
        "evaluate.stride": checked.evaluate.stride,
        "memorise.prefix_tokens": checked.memorise.prefix_tokens,
    }
    for key, given in lengths.items():
        if given > context:
            yield f"{key}: wanted at most sample.context_length {context}, given {given}"
    sources = [source.name for source in checked.prepare.sources]
    for name in sample.weights.keys() - set(sources):
        yield f"sample.weights.{name}: wanted the name of a source ({', '.join(sources)})"
    if not any(sample.weights.get(name, 1.0) for name in sources):
        yield "sample.weights: expected a source to train on, got 0 for each one"
    label = checked.label
    if label.min_chars > label.max_chars:
        yield f"label.min_chars: expected at most label.max_chars {label.max_chars}, got {label.min_chars}"


def _pretrain_problems(checked: Params) -> Iterator[str]:
    pretrain, split = checked.pretrain, checked.prepare.split
    if pretrain.early_stopping_patience is not None and not split.val:
        yield "pretrain.early_stopping_patience: expected held-out text (prepare.split.val above 0) to stop by, got 0"
    if pretrain.init == "previous_token_heads" and not checked.model.can_look_back:
        yield (
            "pretrain.init: expected random or null for a model without causal attention and rotary positions, "
            "got previous_token_heads"
        )
    for key, given in {
        "tokenize.pretrained": checked.tokenize.pretrained,
        "pretrain.init_from": pretrain.init_from,
    }.items():
        if given is None:
            continue
        if ".." in Path(given).parts or not Path(given).is_relative_to(GIVEN):
            yield f"{key}: expected a path under {GIVEN}, got {given}"
        elif not _is_there(Path(given)):
            yield f"{key}: expected a file or folder, there is no {given}"


def _task_problems(task: Task, checked: Params) -> Iterator[str]:
    """What is wrong with a finetuning task; what stages before it make need not be there yet."""
    data, base, context = Path(task.data), Path(task.base), checked.sample.context_length
    if not data.suffix:
        yield f"data: wanted a file, given {task.data}"
    elif not _is_there(data):
        yield f"data: expected a file, there is no {task.data}"
    if task.base != EXPORT:
        if not (base.parent == FINETUNED and base.name in checked.finetune.tasks) and not _is_there(base):
            yield f"base: expected a Hugging Face folder, there is no {task.base}"
        elif not isinstance(task, ClassifyTask) and (base / "config.json").is_file() and base.parts[0] != "models":
            from llm.finetune.shared.jobs import formats_problem

            if problem := formats_problem(base, checked.export.formats):
                yield f"base: {problem}"
        return
    if task.max_tokens > context:
        yield f"max_tokens: wanted at most sample.context_length {context}, given {task.max_tokens}"
    method, model = task.method, checked.model
    if method.kind == "last_k_blocks" and method.k > model.n_layers:
        yield f"method.k: expected at most model.n_layers {model.n_layers}, got {method.k}"
    if method.kind in ("lora", "dora") and method.rank > model.d_model:
        yield f"method.rank: expected at most model.d_model {model.d_model}, got {method.rank}"


def _is_there(path: Path) -> bool:
    """Whether a file or folder exists, a stage makes it, or DVC, which tracks it or a folder above it, can."""
    if path.exists() or not WIRING.exists():
        return True
    is_made = path.as_posix() in WIRING.read_text(encoding="utf-8")
    return is_made or any(Path(f"{part}.dvc").exists() for part in (path, *path.parents))
