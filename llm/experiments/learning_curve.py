"""Measure what pretraining is worth in labeled rows: the quality of a classification task by the rows it learns from.

    fractions of train × seeds × {pretrained, random_weights, tfidf} → accuracy and macro-F1 on test, mean and std

Test and val are the task's own and whole. A fraction begins with a row of every label, and contains the smaller ones
of its seed. The first seed tunes the learning rate for each fraction and system on val.
"""

import json
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from llm.core import params
from llm.core.device import Machine
from llm.core.errors import UserError
from llm.export.hf.base import open_base
from llm.finetune.classify.baselines import score_baselines
from llm.finetune.classify.classifier import Prepared, Rows, make_objective, prepare_rows, score_split
from llm.finetune.classify.measures import measure
from llm.finetune.data.labeled import read_classify
from llm.finetune.params import ClassifyTask, load_task
from llm.finetune.shared.fit import Run, fit
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

SYSTEMS = ("pretrained", "random_weights", "tfidf")
# A twentieth of the rows is a few batches: every fraction trains for at least so many steps, over several epochs.
MIN_STEPS = 60


class Point(NamedTuple):
    """One run: a system, its fraction of train, its seed, and the learning rates to choose from."""

    system: str
    fraction: float
    seed: int
    learning_rates: tuple[float, ...]


class Outcome(NamedTuple):
    """The figures of a run on test; baselines have no steps and no learning rate."""

    point: Point
    rows: int
    steps: int | None
    learning_rate: float | None
    accuracy: float
    macro_f1: float


def write_learning_curve(params_file: Path, name: str, fractions: Sequence[float], n_seeds: int) -> str:
    """Measure a task of params.yaml, write metrics and a picture, and return a table. UserError as `read_task`."""
    from llm.report.learning_curve import markdown, pictures

    outcomes = run_learning_curve(*read_task(params_file, name), fractions=fractions, n_seeds=n_seeds)
    details = {"task": name, "points": summarize(outcomes)}
    metrics, picture = Path(f"metrics/learning_curve/{name}.json"), Path(f"plots/learning_curve/{name}.svg")
    for path, content in ((metrics, json.dumps(details, indent=2) + "\n"), (picture, pictures(details)[name])):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return f"{markdown(details)}\nwritten: {metrics}, {picture}"


def read_task(params_file: Path, name: str) -> tuple[ClassifyTask, int]:
    """Return a classification task and the seed; UserError where it is missing or of another kind."""
    task = load_task(params_file, name)
    if not isinstance(task, ClassifyTask):
        raise UserError(f"{params_file}: finetune.tasks.{name}.kind: expected classify, got {task.kind}")
    return task, params.load(params_file, "seed", int)


def run_learning_curve(
    task: ClassifyTask, seed: int, fractions: Sequence[float], n_seeds: int, jobs: int | None = None
) -> list[Outcome]:
    """Run every system at every fraction of train with `n_seeds` seeds; on a CPU one run per core at a time."""
    if wrong := [fraction for fraction in fractions if not 0 < fraction <= 1]:
        raise UserError(f"--shares: expected numbers above 0 and up to 1, got {', '.join(map(str, wrong))}")
    jobs = jobs or (len(os.sched_getaffinity(0)) if Machine.find().device == "cpu" else 1)
    threads = max(1, torch.get_num_threads() // jobs)
    # The longest runs first, so that no core waits for one at the end.
    grid = [(system, fraction) for fraction in sorted(fractions, reverse=True) for system in SYSTEMS]
    with (
        tempfile.TemporaryDirectory() as scratch,
        ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (threads,)) as pool,
        tqdm(total=len(grid) * n_seeds, desc="learning curve", unit=" runs") as bar,
    ):
        run = partial(_run, task, *_prepare(task, seed), Path(scratch))

        def run_all(points: list[Point]) -> Iterator[Outcome]:
            for outcome in pool.map(run, points):
                bar.update()
                yield outcome

        tuned = list(run_all([Point(*of, seed, tuple(task.training.learning_rates)) for of in grid]))
        rates = [() if of.learning_rate is None else (of.learning_rate,) for of in tuned]
        others = [Point(*of, seed + n, rate) for of, rate in zip(grid, rates, strict=True) for n in range(1, n_seeds)]
        return [*tuned, *run_all(others)]


def _prepare(task: ClassifyTask, seed: int) -> tuple[Prepared, Callable[[], GPT], int]:
    """Return the task's rows, a maker of the base, and the id of padding."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer_file, load_base = open_base(Path(task.base), Path(folder) / "tokenizer.json")
        tokenizer = Tokenizer.load(tokenizer_file)
    labeled = read_classify(Path(task.data), task, seed)
    return prepare_rows(labeled, task, tokenizer, load_base().config.context_length), load_base, tokenizer.pad


def _run(
    task: ClassifyTask, prepared: Prepared, load_base: Callable[[], GPT], pad_id: int, scratch: Path, point: Point
) -> Outcome:
    train = prepared.rows["train"]
    chosen = draw_rows(train.labels, point.fraction, point.seed)
    subset = Rows([train.ids[n] for n in chosen], [train.texts[n] for n in chosen], train.labels[chosen])
    prepared = replace(prepared, rows=prepared.rows | {"train": subset})
    if point.system == "tfidf":
        figures = measure(score_baselines(prepared, point.seed)["tfidf"].test, 1.0, point.seed)
        return Outcome(point, len(chosen), None, None, figures["accuracy"], figures["macro_f1"])
    batch_size = min(task.training.batch_size, len(chosen))
    epochs = max(task.training.epochs, MIN_STEPS / -(-len(chosen) // batch_size))
    changes = {"epochs": epochs, "batch_size": batch_size, "learning_rates": list(point.learning_rates)}
    training, method, make = task.training.model_copy(update=changes), task.method, load_base
    if point.system == "random_weights":
        method, make = method.model_copy(update={"kind": "full"}), partial(_draw_model, load_base, point.seed)
    name, machine = f"{point.system} {point.fraction} seed {point.seed}", Machine.find()
    task = task.model_copy(update={"training": training, "method": method})
    run = Run(name, point.seed, machine, scratch)
    fitted = fit(make_objective(make, prepared, task, pad_id, run), method, training, run)
    test = score_split(fitted.model, prepared.rows["test"], pad_id, batch_size, machine)
    figures = measure(test, 1.0, point.seed)
    return Outcome(point, len(chosen), fitted.setting["steps"], fitted.lr, figures["accuracy"], figures["macro_f1"])


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


def summarize(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return mean and standard deviation over the seeds, for each system and fraction in ascending order."""
    by_point: dict[tuple[int, float], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_point[SYSTEMS.index(outcome.point.system), outcome.point.fraction].append(outcome)
    points: list[dict[str, Any]] = []
    for (system, fraction), group in sorted(by_point.items()):
        first = group[0]
        point: dict[str, Any] = {"system": SYSTEMS[system], "fraction": fraction, "rows": first.rows}
        for name in ("accuracy", "macro_f1"):
            values = [getattr(outcome, name) for outcome in group]
            point[f"{name}_mean"] = round(statistics.fmean(values), 4)
            point[f"{name}_std"] = round(statistics.stdev(values), 4) if len(values) > 1 else 0.0
        points.append(point | {"n_seeds": len(group), "steps": first.steps, "learning_rate": first.learning_rate})
    return points
