"""Choose the settings of a run from a text and a number of minutes: `python -m llm plan`.

    data/corpus ──pilot──► how predictable the text is ──────────┐
    shapes ──estimate──► seconds of a step on this machine ──────┼──► candidates ──► params.yaml
    planning_runs.tsv ──fit──► law of the bits per byte ─────────┘

Each shape gets as many steps as fit into the minutes, beside all other stages; the one with the lowest predicted bits
per byte is recommended, and shown with its neighbors. What the user's text is made of, tasks and rows stay.
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

import torch

from llm.commands.check import Params, check_params
from llm.commands.cost import START_SECONDS, Cost, estimate, minutes
from llm.commands.presets import edited, set_key
from llm.commands.sizes import Sizes, read_sizes
from llm.core import params
from llm.core.device import Machine
from llm.core.errors import UserError
from llm.core.outputs import write_json
from llm.experiments.pilot import Excerpt, Pilot, read_excerpt, run_pilot
from llm.experiments.planning_law import Predictor, Run
from llm.model.config import ModelConfig, ModelParams
from llm.model.gpt import GPT
from llm.report.metrics import flatten
from llm.report.tables import Table

PREDICTION = Path("metrics/runtime/predicted/plan.json")
CORPUS = Path("data/corpus")

CONTEXT, BATCH_SIZE, HEAD_WIDTH = 256, 8, 64  # as in the runs of the law
LADDER = ((64, 2), (128, 2), (192, 2), (192, 3), (256, 3), (256, 4), (320, 4), (384, 4), (384, 6), (512, 6), (512, 8))
PILOT_SHAPE = (128, 2)
FEWEST_STEPS, TIMED_STEPS, TIMING_SECONDS = 60, 1000, 1.0
VOCABULARIES = ((400_000, 1024), (4_000_000, 2048), (100_000_000, 4096), (math.inf, 8192))  # up to bytes of train
# A text that is read more than once is segmented anew in each epoch; one that is read often needs dropout too.
REPEATED_EPOCHS, MOST_SEGMENTATIONS, MERGE_DROPOUT = 1.5, 24, 0.1
DROPOUTS = ((16.0, 0.2), (6.0, 0.1))  # from so many epochs on
FINETUNE_FRACTION = 0.3  # of the time at most, where tasks would take longer
SHORT_MINUTES = 4.0  # below them less text is generated and probed
EXTRAS = {"evaluate.quality.texts": (200, 50), "memorise.prefixes": (200, 50), "cloze.items": (200, 50)}
SHORT_TRAIN_BYTES = 2_000_000  # for the baselines


@dataclass(frozen=True)
class Candidate:
    """A shape with its settings by dotted key, and what is expected of it."""

    changes: dict[str, Any]
    cost: Cost
    bits_per_byte: tuple[float, float, float]  # the value, and its interval
    n_parameters: int
    epochs: float

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
        columns = ["", "model", "parameters", "steps", "epochs", "dvc repro", "bits per byte of val", "memory", "file"]
        return str(Table(columns, rows))


class Text(NamedTuple):
    """What a plan needs of a text: an excerpt, a pilot run on it, and the sizes for costs."""

    excerpt: Excerpt
    pilot: Pilot
    sizes: Sizes
    model: ModelParams
    vocab_size: int

    @property
    def unique_tokens(self) -> float:
        """The tokens of train."""
        return self.excerpt.n_bytes["train"] / self.pilot.bytes_per_token

    def as_run(self) -> Run:
        """Return the pilot as a run of the law."""
        pilot = self.pilot
        return Run("", pilot.parameters, pilot.tokens, self.unique_tokens, pilot.bits_per_byte)


def make_plan(path: Path, budget: float, target_bytes: int | None, machine: Machine) -> Plan:
    """Return a plan for `budget` minutes; UserError where the text, the time or the bytes do not allow one."""
    checked = check_params(path)
    _check_plannable(checked, path)
    _prepare_corpus()
    predictor = Predictor.load()
    text = _examine(checked, machine)
    candidates = list(_candidates(path, budget * 60, target_bytes, text, predictor, machine))
    best = min(range(len(candidates)), key=lambda at: candidates[at].bits_per_byte[0])
    named: dict[str, Candidate] = {"recommended": candidates[best]}
    if best:
        named["smaller"] = candidates[best - 1]
    if best + 1 < len(candidates):
        named["larger"] = candidates[best + 1]
    pilot = f"corrected by a pilot run of {text.pilot.tokens / 1e6:.1f} million tokens: {text.pilot.bits_per_byte:.3f}"
    return Plan(named, f"{predictor.describe()}; {pilot} bits per byte of val")


def write_plan(path: Path, candidate: Candidate) -> list[str]:
    """Write a candidate's settings into a params file; return `key: old → new` for each change."""
    before = flatten(params.read(path))
    with edited(path) as content:
        for key, value in candidate.changes.items():
            set_key(content, key, value, Path("plan"))
        after = flatten(content)
    value, low, high = candidate.bits_per_byte
    prediction = {"seconds": round(candidate.cost.seconds), "bits_per_byte": value, "low": low, "high": high}
    write_json(PREDICTION, prediction | {"changes": candidate.changes})
    return [f"{key}: {before[key]} → {new}" for key, new in after.items() if new != before[key]]


def compare_with_outcome(path: Path, metrics: Path, prediction: Path = PREDICTION) -> str:
    """Return a line with the plan and the outcome; empty where params.yaml or the metrics are not of a plan."""
    evaluation = metrics / "evaluate.json"
    if not (prediction.is_file() and evaluation.is_file()):
        return ""
    planned, current = json.loads(prediction.read_bytes()), flatten(params.read(path))
    scores = json.loads(evaluation.read_bytes()).get("val", {}).get("model", {})
    if "bits_per_byte" not in scores or any(current.get(key) != value for key, value in planned["changes"].items()):
        return ""
    measured = [json.loads(file.read_bytes())["seconds"] for file in sorted((metrics / "runtime").glob("*.json"))]
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


def _prepare_corpus() -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet", "prepare"], check=False)
    if done.returncode:
        raise UserError(f"plan: expected a prepared corpus, dvc repro prepare ended with {done.returncode}")


def _examine(checked: Params, machine: Machine) -> Text:
    excerpt = read_excerpt(CORPUS)
    vocab_size = next(size for limit, size in VOCABULARIES if excerpt.n_bytes["train"] <= limit)
    shape = _shape(*PILOT_SHAPE, checked.model)
    pilot = run_pilot(
        excerpt, vocab_size, checked.tokenize.pattern, shape, checked.pretrain.optimizer, CONTEXT, checked.seed, machine
    )
    sizes = read_sizes(checked, Path(), {"tokenize"})
    held_out = sum(size for split, size in excerpt.n_bytes.items() if split != "train")
    sizes = replace(sizes, vocab_size=vocab_size, held_out_tokens=held_out / pilot.bytes_per_token)
    return Text(excerpt, pilot, sizes, checked.model, vocab_size)


def _shape(d_model: int, n_layers: int, model: ModelParams) -> ModelParams:
    return model.model_copy(update=_shape_keys(d_model, n_layers) | {"dropout": 0.0})


def _shape_keys(d_model: int, n_layers: int) -> dict[str, Any]:
    n_heads, d_ff = d_model // HEAD_WIDTH, math.ceil(d_model * 8 / 3 / 64) * 64
    return {"d_model": d_model, "n_layers": n_layers, "n_heads": n_heads, "n_kv_heads": n_heads, "d_ff": d_ff}


def _candidates(
    path: Path, seconds: float, target_bytes: int | None, text: Text, predictor: Predictor, machine: Machine
) -> Iterator[Candidate]:
    """Yield the shapes of the ladder that have enough steps in the time; UserError where none has."""
    found, least = 0, math.inf
    for shape in LADDER:
        n_parameters, n_in_blocks = _count(shape, text)
        if target_bytes is not None and 4 * n_parameters > target_bytes:
            break
        timed = _apply(path, _settings(shape, TIMED_STEPS, text, seconds))
        cost = estimate(timed, text.sizes, machine, TIMING_SECONDS)
        assert cost.step is not None
        step_seconds = cost.step.seconds(BATCH_SIZE)
        factor, other = _finetuning(cost, seconds)
        n_steps = int((seconds - (other - TIMED_STEPS * step_seconds)) / step_seconds)
        least = min(least, other - (TIMED_STEPS - FEWEST_STEPS) * step_seconds)
        if n_steps < FEWEST_STEPS:
            break
        changes = _settings(shape, n_steps, text, seconds) | _epochs(timed, factor)
        cost = estimate(_apply(path, changes), text.sizes, machine, step=cost.step)
        tokens = n_steps * BATCH_SIZE * CONTEXT
        bits = predictor.predict(text.as_run(), n_in_blocks, tokens)
        found += 1
        yield Candidate(changes, cost, bits, n_parameters, tokens / text.unique_tokens)
    if not found and least < math.inf:
        raise UserError(
            f"--minutes: expected at least {least / 60:.1f} for this text and machine, got {seconds / 60:g}"
        )
    if not found:
        raise UserError(f"--target-bytes: expected at least {4 * n_parameters:,}, got {target_bytes:,}")


def _settings(shape: tuple[int, int], n_steps: int, text: Text, seconds: float) -> dict[str, Any]:
    """Return what a shape, its steps and the size of the text decide, by dotted key."""
    epochs = n_steps * BATCH_SIZE * CONTEXT / text.unique_tokens
    repeated, short = epochs > REPEATED_EPOCHS, seconds < SHORT_MINUTES * 60
    found: dict[str, Any] = {f"model.{key}": value for key, value in _shape_keys(*shape).items()}
    found |= {
        "model.dropout": next((dropout for least, dropout in DROPOUTS if epochs >= least), 0.0),
        "tokenize.vocab_size": text.vocab_size,
        "tokenize.dropout": MERGE_DROPOUT if repeated else 0.0,
        "tokenize.segmentations": min(math.ceil(epochs), MOST_SEGMENTATIONS) if repeated else 1,
        "sample.context_length": CONTEXT,
        "pretrain.max_steps": n_steps,
        "pretrain.batch_size": BATCH_SIZE,
        "pretrain.optimizer.adamw_lr": 0.003 if repeated else 0.006,
        "pretrain.optimizer.weight_decay": 0.0 if repeated else 0.1,
        "baselines.train_bytes": SHORT_TRAIN_BYTES if short else None,
    }
    return found | {key: few if short else usual for key, (usual, few) in EXTRAS.items()}


def _finetuning(cost: Cost, seconds: float) -> tuple[float, float]:
    """Return the factor on the tasks' epochs that limits their time, and the seconds of all stages with it."""
    tasks = sum(of for name, of in cost.stages.items() if name.startswith("finetune@"))
    factor = min(1.0, FINETUNE_FRACTION * seconds / tasks) if tasks else 1.0
    return factor, cost.seconds - tasks * (1 - factor)


def _epochs(checked: Params, factor: float) -> dict[str, Any]:
    if factor == 1:
        return {}
    tasks = checked.finetune.tasks.items()
    return {f"finetune.tasks.{name}.training.epochs": round(of.training.epochs * factor, 2) for name, of in tasks}


def _apply(path: Path, changes: dict[str, Any]) -> Params:
    content = copy.deepcopy(params.read(path))
    for key, value in changes.items():
        set_key(content, key, value, Path("plan"))
    return check_params(path, content)


def _count(shape: tuple[int, int], text: Text) -> tuple[int, int]:
    """Return the parameters of a model of the user's family: all, and those of the blocks and the last norm."""
    model = _shape(*shape, text.model)
    with torch.device("meta"):
        gpt = GPT(ModelConfig(**model.model_dump(), vocab_size=text.vocab_size, context_length=CONTEXT))
    return gpt.n_parameters(), sum(weight.numel() for weight in [*gpt.blocks.parameters(), *gpt.norm.parameters()])
