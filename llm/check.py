"""The whole of params.yaml at once: every section, and what one section asks of another.

A stage checks its own sections; this is for `make repro` and for people, before hours of work begin.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from llm import params
from llm.errors import UserError
from llm.evaluate.memorisation import MemoriseParams
from llm.evaluate.params import ClozeParams, EvaluateParams
from llm.export.check import export_problems
from llm.export.params import ExportParams
from llm.finetune.params import ClassifyTask, FinetuneParams
from llm.model.config import ModelParams
from llm.params import Section
from llm.text.params import LabelParams, PrepareParams, SampleParams, TokenizeParams
from llm.train.params import PretrainParams


class Params(Section):
    """All of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**63)]
    prepare: PrepareParams
    label: LabelParams
    tokenize: TokenizeParams
    sample: SampleParams
    model: ModelParams
    pretrain: PretrainParams
    evaluate: EvaluateParams
    export: ExportParams
    memorise: MemoriseParams
    cloze: ClozeParams
    finetune: FinetuneParams


def check_params(path: Path) -> Params:
    """All of a params file, checked; UserError names every key that is wrong, in one line."""
    checked: Params = params.check(Params, params.read(path), "", path)
    context = checked.sample.context_length
    problems = export_problems(checked.export.formats, checked.model, checked.tokenize)
    if checked.evaluate.stride > context:
        problems.append(
            f"evaluate.stride: wanted at most sample.context_length {context}, given {checked.evaluate.stride}"
        )
    if checked.memorise.prefix_tokens > context:
        problems.append(
            f"memorise.prefix_tokens: wanted at most sample.context_length {context}, "
            f"given {checked.memorise.prefix_tokens}"
        )
    sources = [source.name for source in checked.prepare.sources]
    for name in checked.sample.weights.keys() - set(sources):
        problems.append(f"sample.weights.{name}: wanted the name of a source ({', '.join(sources)})")
    for name, task in checked.finetune.tasks.items():
        if not Path(task.data).suffix:
            problems.append(f"finetune.tasks.{name}.data: wanted a file, given {task.data}")
        if task.base == "models/export" and task.max_tokens > context:
            problems.append(
                f"finetune.tasks.{name}.max_tokens: wanted at most sample.context_length {context}, "
                f"given {task.max_tokens}"
            )
        is_given = not task.base.startswith("models/") and Path(task.base, "config.json").is_file()
        if is_given and not isinstance(task, ClassifyTask):
            from llm.finetune.jobs import formats_problem

            if problem := formats_problem(Path(task.base), checked.export.formats):
                problems.append(f"finetune.tasks.{name}.base: {problem}")
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}")
    return checked
