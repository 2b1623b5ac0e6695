"""Choose the settings of a run from a text and a number of minutes: `python -m llm plan`.

    data/corpus ──pilot runs──► how predictable the text is ─────┐
    shapes ──estimate──► seconds of a step on this machine ──────┼──► candidates ──► params.yaml
    planning_runs.tsv ──fit──► law of the bits per byte ─────────┘

Each shape gets as many steps as fit into the minutes beside all other stages, or fewer where more would only memorize
a small text. The shape with the lowest predicted bits per byte is recommended, and shown with its neighbors. What the
user's text is made of, tasks and rows stay.
"""

import copy
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from llm.commands.check import Params, check_params
from llm.commands.cost import START_SECONDS, Cost, estimate, minutes
from llm.commands.outdated import upstream_stages
from llm.commands.presets import edited, set_key
from llm.commands.sizes import Sizes, read_sizes
from llm.core import params
from llm.core.device import Machine
from llm.core.errors import UserError
from llm.core.outputs import write_json
from llm.experiments.pilot import BATCH_SIZE, PilotShape, read_excerpt, run_pilots
from llm.experiments.planning_law import Pilots, Predictor
from llm.experiments.recipe import recipe_of
from llm.experiments.timing import StepCost
from llm.model.config import ModelConfig, ModelParams
from llm.model.gpt import GPT
from llm.report.metrics import flatten
from llm.report.tables import Table

NAMES = ("recommended", "smaller", "larger")
PREDICTION = Path("metrics/runtime/predicted/plan.json")
CORPUS = Path("data/corpus")
PREPARED = "label"  # the stage up to which a plan runs the pipeline, which no setting of it changes

CONTEXT, HEAD_WIDTH = 256, 64  # as in the runs of the law
LADDER = ((64, 2), (128, 2), (192, 2), (192, 3), (256, 3), (256, 4), (320, 4), (384, 4), (384, 6), (512, 6), (512, 8))
PILOT_SHAPE = (128, 2)
N_WORSE = 2  # shapes in a row that are larger and worse than the best one end the search
FEWEST_STEPS, TIMED_STEPS, TIMING_SECONDS = 60, 1000, 1.5
FRACTIONS = np.geomspace(0.05, 1, 40)  # of the steps that fit into the time, which are tried
VOCABULARIES = ((400_000, 1024), (4_000_000, 2048), (100_000_000, 4096), (math.inf, 8192))  # up to bytes of train
FINETUNE_FRACTION = 0.3  # of the time at most, where tasks would take longer
SHORT_MINUTES = 4.0  # below them less text is generated and probed
EXTRAS = {"evaluate.quality.texts": (200, 50), "memorise.prefixes": (200, 50), "cloze.items": (200, 50)}
SHORT_TRAIN_BYTES = 2_000_000  # for the baselines
SHORTENED = "more steps would fit, but with them the model would memorize this text, and be worse on other text"


@dataclass(frozen=True)
class Budget:
    """The seconds of `dvc repro`, or of `dvc repro UNTIL`, and the most bytes of the exported weights."""

    seconds: float
    until: str | None = None
    target_bytes: int | None = None


@dataclass(frozen=True)
class Candidate:
    """A shape with its settings by dotted key, and what is expected of it."""

    changes: dict[str, Any]
    cost: Cost
    bits_per_byte: tuple[float, float, float]  # the value, and its interval
    n_parameters: int
    epochs: float
    is_shortened: bool  # fewer steps than fit into the time

    @property
    def n_steps(self) -> int:
        """The steps of pretraining."""
        return int(self.changes["pretrain.max_steps"])

    @property
    def file_bytes(self) -> int:
        """The size of the exported weights, which are float32."""
        return 4 * self.n_parameters


@dataclass(frozen=True)
class Plan:
    """Candidates by name, and what the prediction rests on."""

    candidates: dict[str, Candidate]
    basis: str

    def table(self) -> str:
        """Return the candidates as a table."""
        rows: list[list[Any]] = []
        for name, of in self.candidates.items():
            shape = f"{of.changes['model.n_layers']} layers of {of.changes['model.d_model']}"
            value, low, high = of.bits_per_byte
            rows.append(
                [name, shape, of.n_parameters, of.n_steps, f"{of.epochs:.2g}", minutes(of.cost.seconds),
                 f"{value:.3f} [{low:.3f}, {high:.3f}]", f"{of.cost.peak_bytes / 1e9:.1f} GB",
                 f"{of.file_bytes / 1e6:.1f} MB"]
            )  # fmt: skip
        shortened = ", ".join(name for name, of in self.candidates.items() if of.is_shortened)
        columns = ["", "model", "parameters", "steps", "epochs", "dvc repro", "bits per byte of val", "memory", "file"]
        table = str(Table(columns, rows))
        return f"{table}\n{shortened}: {SHORTENED}" if shortened else table


class Text(NamedTuple):
    """What a plan needs of a text: the pilot runs on it, and the sizes for costs."""

    pilots: Pilots
    sizes: Sizes

    @property
    def unique_tokens(self) -> float:
        """The tokens of train."""
        return float(self.pilots.long.unique_tokens)


def make_plan(path: Path, budget: Budget, machine: Machine) -> Plan:
    """Return a plan for a params file; UserError where the text, the time or the bytes do not allow one."""
    checked = check_params(path)
    _check_plannable(checked, path)
    stages = upstream_stages(budget.until) - upstream_stages(PREPARED)  # which run before the plan
    if "pretrain" not in stages:
        raise UserError(f"--until: expected pretrain or a stage after it, got {budget.until}")
    epochs = _full_epochs(checked)
    _prepare_corpus()
    predictor, text = Predictor.load(), _examine(checked, machine)
    candidates = list(_Planner(path, checked.model, epochs, budget, stages, text, predictor, machine).candidates())
    best = min(range(len(candidates)), key=lambda at: candidates[at].bits_per_byte[0])
    places = {name: best + step for name, step in zip(NAMES, (0, -1, 1), strict=True)}
    named = {name: candidates[at] for name, at in places.items() if 0 <= at < len(candidates)}
    short, long = (
        f"{float(run.bits_per_byte):.3f} after {float(run.tokens) / 1e6:.2g} million tokens" for run in text.pilots
    )
    return Plan(named, f"pilot runs on this text: {short}, {long}\nlaw: {predictor.describe()}")


def write_plan(path: Path, candidate: Candidate) -> list[str]:
    """Write a candidate's settings into a params file; return `key: old → new` for each change."""
    before = flatten(params.read(path))
    full = _full_epochs(check_params(path))
    with edited(path) as content:
        _set_keys(content, candidate.changes)
        after = flatten(content)
    value, low, high = candidate.bits_per_byte
    prediction = {"seconds": round(candidate.cost.seconds), "bits_per_byte": value, "low": low, "high": high}
    stages = {name: round(seconds, 1) for name, seconds in candidate.cost.stages.items()}
    write_json(PREDICTION, prediction | {"stages": stages, "changes": candidate.changes, "epochs": full})
    return [f"{key}: {before.get(key)} → {new}" for key, new in after.items() if new != before.get(key)]


def compare_with_outcome(path: Path, metrics: Path, prediction: Path = PREDICTION) -> str:
    """Return a line with the plan and the outcome; empty where params.yaml or the metrics are not of a plan."""
    evaluation = metrics / "evaluate.json"
    if not (prediction.is_file() and evaluation.is_file()):
        return ""
    planned, current = json.loads(prediction.read_bytes()), flatten(params.read(path))
    scores = json.loads(evaluation.read_bytes()).get("val", {}).get("model", {})
    if "bits_per_byte" not in scores or any(current.get(key) != value for key, value in planned["changes"].items()):
        return ""
    files = [metrics / "runtime" / f"{name.replace('@', '-')}.json" for name in planned["stages"]]
    measured = [json.loads(file.read_bytes())["seconds"] for file in files if file.is_file()]
    seconds = sum(measured) + START_SECONDS * len(measured)
    low, high, value = planned["low"], planned["high"], planned["bits_per_byte"]
    return (
        f"planned: {minutes(planned['seconds'])}, {value:.3f} [{low:.3f}, {high:.3f}] bits per byte of val; "
        f"measured: {minutes(seconds)}, {scores['bits_per_byte']:.3f}"
    )


def _check_plannable(checked: Params, path: Path) -> None:
    given = checked.pretrain.init_from or checked.tokenize.pretrained
    if given is not None or checked.tokenize.kind != "bpe":
        got = f"{given}" if given else f"tokenize.kind {checked.tokenize.kind}"
        raise UserError(f"{path}: expected a BPE tokenizer and weights from scratch for a plan, got {got}")


def _full_epochs(checked: Params) -> dict[str, float]:
    """Return the epochs of the tasks by dotted key; those that the last plan has shortened as they were before it."""
    keys = {f"finetune.tasks.{name}.training.epochs": of.training.epochs for name, of in checked.finetune.tasks.items()}
    last: dict[str, Any] = json.loads(PREDICTION.read_bytes()) if PREDICTION.is_file() else {}
    full, shortened = last.get("epochs", {}), last.get("changes", {})
    return {key: full.get(key, of) if shortened.get(key) == of else of for key, of in keys.items()}


def _set_keys(content: Any, changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if key.startswith("finetune.tasks."):  # a task may leave its epochs to the defaults
            content["finetune"]["tasks"][key.split(".")[2]].setdefault("training", {})["epochs"] = value
        else:
            set_key(content, key, value, Path("plan"))


def _prepare_corpus() -> None:
    """Run what comes before the tokenizer: the size of the text and the number of built-in rows decide the time."""
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet", PREPARED], check=False)
    if done.returncode:
        raise UserError(f"plan: expected a prepared corpus, dvc repro {PREPARED} ended with {done.returncode}")


def _examine(checked: Params, machine: Machine) -> Text:
    excerpt = read_excerpt(CORPUS)
    vocab_size = vocab_size_of(excerpt.n_bytes["train"])
    model = shaped(*PILOT_SHAPE, checked.model)
    shape = PilotShape(model, vocab_size, checked.tokenize.pattern, CONTEXT, checked.pretrain.optimizer, checked.seed)
    pilots, bytes_per_token = run_pilots(excerpt, shape, machine)
    held_out = sum(size for split, size in excerpt.n_bytes.items() if split != "train")
    sizes = read_sizes(checked, Path(), {"tokenize"})
    return Text(pilots, replace(sizes, vocab_size=vocab_size, held_out_tokens=held_out / bytes_per_token))


def vocab_size_of(train_bytes: int) -> int:
    """Return the vocabulary for a text.

    >>> [vocab_size_of(n_bytes) for n_bytes in (170_000, 1_000_000, 15_000_000)]
    [1024, 2048, 4096]
    """
    return next(size for limit, size in VOCABULARIES if train_bytes <= limit)


def shaped(d_model: int, n_layers: int, model: ModelParams) -> ModelParams:
    """Return the params of a model of a shape, without dropout; the family and the like stay."""
    return model.model_copy(update=_shape_keys(d_model, n_layers) | {"dropout": 0.0})


def _shape_keys(d_model: int, n_layers: int) -> dict[str, Any]:
    n_heads, d_ff = d_model // HEAD_WIDTH, math.ceil(d_model * 8 / 3 / 64) * 64
    return {"d_model": d_model, "n_layers": n_layers, "n_heads": n_heads, "n_kv_heads": n_heads, "d_ff": d_ff}


@dataclass(frozen=True)
class _Planner:
    """The candidates of a text, a budget and a machine."""

    path: Path
    model: ModelParams
    epochs: dict[str, float]  # of the tasks, by dotted key, as long as no plan shortens them
    budget: Budget
    stages: set[str]
    text: Text
    predictor: Predictor
    machine: Machine

    def candidates(self) -> Iterator[Candidate]:
        """Yield the shapes of the ladder that have enough steps in the time; UserError where none has."""
        found, least, n_parameters = list[float](), math.inf, 0
        for shape in LADDER:
            if found and found.index(min(found)) < len(found) - N_WORSE:
                break
            n_parameters, n_in_blocks = self._count(shape)
            if self.budget.target_bytes is not None and 4 * n_parameters > self.budget.target_bytes:
                break
            try:
                step, factor, n_steps, other = self._fill(shape)
            except UserError:  # more than the memory holds
                if not found:
                    raise
                break
            least = min(least, other + FEWEST_STEPS * step.seconds(BATCH_SIZE))
            if n_steps < FEWEST_STEPS:
                break
            candidate = self._candidate(shape, n_steps, step, factor, n_parameters, n_in_blocks)
            found.append(candidate.bits_per_byte[0])
            yield candidate
        if not found and least < math.inf:
            got = f"{self.budget.seconds / 60:g}"
            raise UserError(
                f"--minutes: expected at least {least / 60:.1f} for this text and machine, got {got}; "
                "--until evaluate counts the stages up to the evaluation alone"
            )
        if not found:
            raise UserError(f"--target-bytes: expected at least {4 * n_parameters:,}, got {self.budget.target_bytes:,}")

    def _fill(self, shape: tuple[int, int]) -> tuple[StepCost, float, int, float]:
        """Return a shape's step, the factor on the tasks' epochs, the steps that fit, and the seconds of all else."""
        found = self._fill_by(shape, TIMED_STEPS)
        # The steps decide the dropout, which slows a step down.
        recipes = [recipe_of(self._epochs(of)) for of in (TIMED_STEPS, found[2])]
        return found if recipes[0].dropout == recipes[1].dropout else self._fill_by(shape, found[2])

    def _fill_by(self, shape: tuple[int, int], n_steps: int) -> tuple[StepCost, float, int, float]:
        """The same, with the settings of `n_steps`."""
        cost = self._cost(self._apply(self._settings(shape, n_steps)), None)
        assert cost.step is not None, "pretraining is among the stages"
        step_seconds = cost.step.seconds(BATCH_SIZE)
        tasks = sum(of for name, of in cost.stages.items() if name.startswith("finetune@"))
        factor = min(1.0, FINETUNE_FRACTION * self.budget.seconds / tasks) if tasks else 1.0
        other = cost.seconds - tasks * (1 - factor) - n_steps * step_seconds
        return cost.step, factor, max(int((self.budget.seconds - other) / step_seconds), 1), other

    def _candidate(
        self, shape: tuple[int, int], n_steps: int, step: StepCost, factor: float, n_parameters: int, n_in_blocks: int
    ) -> Candidate:
        """Return a shape with the best number of steps up to `n_steps`."""

        def predict(n_steps: int) -> tuple[float, float, float]:
            return self.predictor.predict(n_in_blocks, n_steps * BATCH_SIZE * CONTEXT, self.text.pilots)

        tried = [max(int(n_steps * of), FEWEST_STEPS) for of in FRACTIONS]
        best = min(tried, key=lambda of: (predict(of)[0], -of))
        changes = self._settings(shape, best)
        changes |= {key: round(of * factor, 2) for key, of in self.epochs.items()}
        cost = self._cost(self._apply(changes), step)
        return Candidate(changes, cost, predict(best), n_parameters, self._epochs(best), best < n_steps)

    def _settings(self, shape: tuple[int, int], n_steps: int) -> dict[str, Any]:
        """Return what a shape, its steps and the size of the text decide, by dotted key."""
        recipe, short = recipe_of(self._epochs(n_steps)), self.budget.seconds < SHORT_MINUTES * 60
        found: dict[str, Any] = {f"model.{key}": value for key, value in _shape_keys(*shape).items()}
        found |= {
            "model.dropout": recipe.dropout,
            "tokenize.vocab_size": self.text.sizes.vocab_size,
            "tokenize.dropout": recipe.merge_dropout,
            "tokenize.segmentations": recipe.segmentations,
            "sample.context_length": CONTEXT,
            "pretrain.max_steps": n_steps,
            "pretrain.batch_size": BATCH_SIZE,
            "pretrain.optimizer.adamw_lr": recipe.adamw_lr,
            "pretrain.optimizer.weight_decay": recipe.weight_decay,
            "baselines.train_bytes": SHORT_TRAIN_BYTES if short else None,
        }
        return found | {key: few if short else usual for key, (usual, few) in EXTRAS.items()} | self.epochs

    def _epochs(self, n_steps: int) -> float:
        return n_steps * BATCH_SIZE * CONTEXT / self.text.unique_tokens

    def _cost(self, changed: Params, step: StepCost | None) -> Cost:
        return estimate(changed, self.text.sizes, self.machine, TIMING_SECONDS, step).of(self.stages)

    def _apply(self, changes: dict[str, Any]) -> Params:
        content = copy.deepcopy(params.read(self.path))
        _set_keys(content, changes)
        return check_params(self.path, content)

    def _count(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the parameters of a model of the user's family: all, and those of the blocks and the last norm."""
        model = shaped(*shape, self.model)
        with torch.device("meta"):
            gpt = GPT(ModelConfig(**model.model_dump(), vocab_size=self.text.sizes.vocab_size, context_length=CONTEXT))
        return gpt.n_parameters(), sum(of.numel() for of in [*gpt.blocks.parameters(), *gpt.norm.parameters()])
