"""Measure what pretraining is worth in labeled rows: the quality of a classification task by the rows it learns from.

    fractions of train × seeds × {pretrained, random_weights, tfidf} → accuracy and macro-F1 on test, mean and std

Test and val are the task's own and whole. A fraction begins with a row of every label, and contains the smaller ones
of its seed. The first seed tunes the learning rate for each fraction and system on val.
"""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from llm.core import params
from llm.core.device import Machine
from llm.core.errors import UserError
from llm.core.outputs import write_json
from llm.export.hf.base import open_base
from llm.finetune.classify.baselines import score_baselines
from llm.finetune.classify.classifier import Prepared, Rows, make_objective, prepare_rows, score_split
from llm.finetune.classify.measures import measure
from llm.finetune.data.labeled import read_classify
from llm.finetune.params import ClassifyTask, load_task
from llm.finetune.shared.job import Run, fit
from llm.model.gpt import GPT
from llm.report.experiments import draw_learning_curve, learning_curve_table
from llm.tokens.tokenizer import Tokenizer

SYSTEMS = ("pretrained", "random_weights", "tfidf")
# A twentieth of the rows is a few batches: every fraction trains for at least MIN_STEPS, over several epochs.
MIN_STEPS = 60


class Outcome(NamedTuple):
    """The figures of a run on test; baselines have no steps and no learning rate."""

    rows: int
    steps: int | None
    learning_rate: float | None
    accuracy: float
    macro_f1: float


def write_learning_curve(params_file: Path, name: str, fractions: Sequence[float], n_seeds: int) -> str:
    """Measure a task of params.yaml, write metrics and a picture, and return a table.

    UserError where the task is missing or no classification, or for an impossible fraction.
    """
    task = load_task(params_file, name)
    if not isinstance(task, ClassifyTask):
        raise UserError(f"{params_file}: finetune.tasks.{name}.kind: expected classify, got {task.kind}")
    if wrong := [fraction for fraction in fractions if not 0 < fraction <= 1]:
        raise UserError(f"--fraction: expected numbers above 0 and up to 1, got {', '.join(map(str, wrong))}")
    points = run_learning_curve(task, params.load(params_file, "seed", int), fractions, n_seeds)
    details = {"task": name, "points": points}
    metrics, picture = Path(f"metrics/learning_curve/{name}.json"), Path(f"plots/learning_curve/{name}.svg")
    write_json(metrics, details)
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(draw_learning_curve(details), encoding="utf-8")
    return f"{learning_curve_table(details)}\nwritten: {metrics}, {picture}"


def run_learning_curve(task: ClassifyTask, seed: int, fractions: Sequence[float], n_seeds: int) -> list[dict[str, Any]]:
    """Run every system at every fraction of train with `n_seeds` seeds; return a point for each system and fraction."""
    grid, points = list(product(SYSTEMS, sorted(fractions))), []
    with tempfile.TemporaryDirectory() as scratch, tqdm(total=len(grid) * n_seeds, unit=" runs") as bar:
        tokenizer_file, load_base = open_base(Path(task.base), Path(scratch) / "tokenizer.json")
        tokenizer, labeled = Tokenizer.load(tokenizer_file), read_classify(Path(task.data), task, seed)
        prepared = prepare_rows(labeled, task, tokenizer, load_base().config.context_length)
        runner = _Runner(task, prepared, load_base, tokenizer.pad, Path(scratch))
        for system, fraction in grid:
            outcomes: list[Outcome] = []
            for of_seed in range(seed, seed + n_seeds):
                rates = [outcomes[0].learning_rate] if outcomes else task.training.learning_rates
                outcomes.append(runner.run(system, fraction, of_seed, rates))
                bar.update()
            points.append({"system": system, "fraction": fraction} | summarize(outcomes))
    return points


@dataclass(frozen=True)
class _Runner:
    task: ClassifyTask
    prepared: Prepared
    load_base: Callable[[], GPT]
    pad_id: int
    scratch: Path

    def run(self, system: str, fraction: float, seed: int, learning_rates: Sequence[float | None]) -> Outcome:
        train = self.prepared.rows["train"]
        chosen = draw_rows(train.labels, fraction, seed)
        subset = Rows([train.ids[n] for n in chosen], [train.texts[n] for n in chosen], train.labels[chosen])
        prepared = replace(self.prepared, rows=self.prepared.rows | {"train": subset})
        if system == "tfidf":
            figures = measure(score_baselines(prepared, seed)["tfidf"].test, 1.0, seed)
            return Outcome(len(chosen), None, None, figures["accuracy"], figures["macro_f1"])
        batch_size = min(self.task.training.batch_size, len(chosen))
        epochs = max(self.task.training.epochs, MIN_STEPS / -(-len(chosen) // batch_size))
        changes = {"epochs": epochs, "batch_size": batch_size, "learning_rates": list(learning_rates)}
        training, method, make = self.task.training.model_copy(update=changes), self.task.method, self.load_base
        if system == "random_weights":
            method, make = method.model_copy(update={"kind": "full"}), partial(_draw_model, self.load_base, seed)
        run = Run(f"{system} {fraction} seed {seed}", seed, Machine.find(), self.scratch)
        task = self.task.model_copy(update={"training": training, "method": method})
        fitted = fit(make_objective(make, prepared, task, self.pad_id, run), method, training, run)
        test = score_split(fitted.model, prepared.rows["test"], self.pad_id, batch_size, run.machine)
        figures = measure(test, 1.0, seed)
        return Outcome(
            len(chosen),
            fitted.setting["steps"],
            fitted.setting["learning_rate"],
            figures["accuracy"],
            figures["macro_f1"],
        )


def _draw_model(load_base: Callable[[], GPT], seed: int) -> GPT:
    return GPT(load_base().config, torch.Generator().manual_seed(seed))


def draw_rows(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """Return the row numbers of a fraction of labels (rows,) or (rows, labels), led by one row of every label.

    >>> draw_rows(np.array([0, 0, 0, 0, 1, 0, 0, 0]), 0.25, seed=1).tolist()
    [5, 4]
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    has = labels[order] == 1 if labels.ndim == 2 else np.eye(labels.max() + 1, dtype=bool)[labels[order]]
    leading = np.unique(has.argmax(axis=0)[has.any(axis=0)])
    order = np.concatenate([order[leading], np.delete(order, leading)])
    return order[: max(len(leading), round(fraction * len(labels)))]


def summarize(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return mean and standard deviation over the seeds."""
    first, found = outcomes[0], {}
    for name in ("accuracy", "macro_f1"):
        values = [getattr(outcome, name) for outcome in outcomes]
        found[f"{name}_mean"] = round(statistics.fmean(values), 4)
        found[f"{name}_std"] = round(statistics.stdev(values), 4) if len(values) > 1 else 0.0
    fitted = {"n_seeds": len(outcomes), "steps": first.steps, "learning_rate": first.learning_rate}
    return {"rows": first.rows} | found | fitted
