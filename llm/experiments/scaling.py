"""Plan the ladder of `make scaling` and run it: sizes and budgets in; a fitted law and a prediction out.

scaling.yaml → planned runs → experiments of DVC (llm.experiments.runs) → their metrics → a law → plots/scaling.md
"""

import copy
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from llm.core import params
from llm.core.errors import UserError
from llm.core.outputs import write_json
from llm.core.params import Count, Section
from llm.experiments.runs import PlannedRun, make_runs
from llm.experiments.scaling_law import MIN_VALUES, analyze
from llm.model.config import ModelConfig, ModelParams
from llm.model.gpt import GPT
from llm.report.experiments import draw_scaling, scaling_page
from llm.tokens.windows import WindowsInfo, read_info
from llm.train.params import PretrainParams

LADDERS, WINDOWS = Path("scaling.yaml"), Path("data/windows")
PAGE, PICTURE, METRICS = Path("plots/scaling.md"), Path("plots/scaling.svg"), Path("metrics/scaling.json")
SECTIONS = ("model", "pretrain", "seed")  # of params.yaml, the ones of the stage pretrain


class Size(Section):
    """The keys of `model` that make its size."""

    d_model: Count
    n_layers: Count
    n_heads: Count
    n_kv_heads: Count
    d_ff: Count


class Predicted(Section):
    """The run that is held out of the fit."""

    size: Size
    max_steps: Count


class Ladder(Section):
    """One setting of scaling.yaml: every size is trained for every number of steps."""

    jobs: Count
    sizes: Annotated[list[Size], Field(min_length=MIN_VALUES)]
    max_steps: Annotated[list[Count], Field(min_length=MIN_VALUES)]
    predicted: Predicted
    warmup_fraction: Annotated[float, Field(ge=0, le=1)]
    params: dict[str, Any]


def run_ladder(setting: str, root: Path) -> tuple[str, list[str]]:
    """Make the runs of a ladder that do not exist, fit, predict, and write the page, the picture and the metrics.

    Returns the page, and the names of failed runs; their reasons are printed on stderr. UserError for a wrong value, or
    too few runs for a fit.
    """
    ladder = read_ladder(root / LADDERS, setting)
    plans = plan_runs(ladder, params.read(root / "params.yaml"), read_info(root / WINDOWS), f"{LADDERS}: {setting}")
    made, failed = make_runs(plans, ladder.jobs, root)
    for name, reason in failed.items():
        print(f"scaling: {name} failed: {reason}", file=sys.stderr)
    *rungs, held_out = plans
    runs, outcome = [made[plan.name] for plan in rungs if plan.name in made], made.get(held_out.name)
    details = {"setting": setting, **analyze(runs, held_out.parameters, held_out.tokens)}
    details["outcome"] = asdict(outcome) if outcome else None
    write_json(root / METRICS, details)
    (root / PAGE).parent.mkdir(parents=True, exist_ok=True)
    page = scaling_page(details)
    (root / PAGE).write_text(page, encoding="utf-8")
    (root / PICTURE).write_text(draw_scaling(details), encoding="utf-8")
    return page, list(failed)


def read_ladder(path: Path, setting: str) -> Ladder:
    """Return a setting of the file; UserError lists the settings, or names the wrong key."""
    content = params.read(path)
    if setting not in content:
        raise UserError(f"{path}: expected one of {', '.join(map(str, content))}, got {setting}")
    ladder: Ladder = params.check(Ladder, content[setting], setting, path)
    return ladder


def plan_runs(ladder: Ladder, content: dict[str, Any], info: WindowsInfo, where: str) -> list[PlannedRun]:
    """Plan the runs of a ladder with the content of params.yaml; the last is held out.

    UserError names an invalid model or training, and two runs of one name.
    """
    shapes = [(size, steps) for size in ladder.sizes for steps in ladder.max_steps]
    shapes.append((ladder.predicted.size, ladder.predicted.max_steps))
    plans = [_plan(size, steps, ladder, content, info, where) for size, steps in shapes]
    names = [plan.name for plan in plans]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{where}: expected runs that differ in their rounded size or tokens, got {repeated} twice")
    largest, predicted = max(plan.parameters for plan in plans[:-1]), plans[-1].parameters
    if predicted <= largest:
        raise UserError(f"{where}.predicted.size: expected more than {largest:,} parameters, got {predicted:,}")
    return plans


def _plan(
    size: Size, max_steps: int, ladder: Ladder, content: dict[str, Any], info: WindowsInfo, where: str
) -> PlannedRun:
    changes = ladder.params | {f"model.{key}": value for key, value in size.model_dump().items()}
    changes |= {f"pretrain.{key}": max_steps for key in ("max_steps", "eval_every_steps", "checkpoint_every_steps")}
    changes["pretrain.schedule.warmup_steps"] = round(ladder.warmup_fraction * max_steps)
    sections = copy.deepcopy({key: params.find(content, key, Path("params.yaml")) for key in SECTIONS})
    for key, value in changes.items():
        if key.split(".")[0] not in SECTIONS:
            raise UserError(f"{where}.params.{key}: expected a key of {', '.join(SECTIONS)}")
        params.find(content, key, Path(f"{where}.params"))
        above, _, last = key.rpartition(".")
        (params.find(sections, above, Path()) if above else sections)[last] = value
    model = params.check(ModelParams, sections["model"], "model", where)
    pretrain = params.check(PretrainParams, sections["pretrain"], "pretrain", where)
    with torch.device("meta"):  # shapes without memory
        gpt = GPT(ModelConfig(**model.model_dump(), vocab_size=info.vocab_size, context_length=info.context_length))
    parameters = sum(weight.numel() for weight in [*gpt.blocks.parameters(), *gpt.norm.parameters()])
    tokens = max_steps * pretrain.batch_size * info.context_length
    name = f"scaling-{_short(parameters)}-{_short(tokens)}"
    return PlannedRun(name, parameters, tokens, float(gpt.flops_per_token()) * tokens, changes, sections)


def _short(count: int) -> str:
    """Return a count in millions with two digits.

    >>> [_short(count) for count in (37_664, 990_208, 2_214_592, 26_214_400)]
    ['0.038M', '0.99M', '2.2M', '26M']
    """
    return f"{float(f'{count:.2g}') / 1e6:g}M"
