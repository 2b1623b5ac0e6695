"""What pretraining is worth in labeled rows: a classification task → quality against the number of rows it learns from.

    shares of train × seeds × {pretrained, random_weights, tfidf} → a table, a picture, metrics

Test and val are the task's own, whole ones. A share's rows begin with one of every label, then they are drawn; a
larger share holds the smaller ones of its seed. The first seed tunes a rate for each share and row on val.
"""

import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from llm.core import params
from llm.core.device import Machine
from llm.core.errors import UserError
from llm.export.hf.base import open_base
from llm.finetune.classify.baselines import score_baselines
from llm.finetune.classify.classifier import Prepared, Rows, prepare_rows, train_classifier
from llm.finetune.classify.measures import Scored, measure
from llm.finetune.data.labeled import read_classify
from llm.finetune.params import ClassifyTask, Task
from llm.model.gpt import GPT
from llm.report.plots import svg
from llm.tokens.tokenizer import Tokenizer

ROWS = ("pretrained", "random_weights", "tfidf")
TITLES = {"pretrained": "pretrained", "random_weights": "random weights", "tfidf": "TF-IDF, logistic regression"}
# A twentieth of the rows is a few batches: every share gets at least so many steps, over its rows again and again.
LEAST_STEPS = 60


@dataclass(frozen=True)
class Point:
    """One run: a row of the table, its share of train, its seed, and the rates to choose from."""

    row: str
    share: float
    seed: int
    rates: tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """What a run came to on test, and what it was made by."""

    point: Point
    n_rows: int
    n_steps: int | None
    rate: float | None
    accuracy: float
    macro_f1: float


def draw_share(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """The numbers of the rows that a share holds, of labels (rows,) or (rows, labels); one of every label leads them.

    >>> draw_share(np.array([0, 0, 0, 0, 1, 0, 0, 0]), 0.25, seed=1).tolist()
    [5, 4]
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    has = labels[order] == 1 if labels.ndim == 2 else np.eye(labels.max() + 1, dtype=bool)[labels[order]]
    leading = np.unique(has.argmax(axis=0)[has.any(axis=0)])
    order = np.concatenate([order[leading], np.delete(order, leading)])
    return order[: max(len(leading), round(share * len(labels)))]


def read_task(params_file: Path, name: str) -> tuple[ClassifyTask, int]:
    """The task of that name, and the seed; UserError where there is none, or it is no classification."""
    task = params.load(params_file, f"finetune.tasks.{name}", Task)
    if not isinstance(task, ClassifyTask):
        raise UserError(f"{params_file}: finetune.tasks.{name}.kind: wanted classify, given {task.kind}")
    return task, params.load(params_file, "seed", int)


def run_learning_curve(
    task: ClassifyTask, seed: int, shares: Sequence[float], n_seeds: int, jobs: int | None = None
) -> list[Outcome]:
    """Every row at every share of train with `n_seeds` seeds; on a processor with one run to each core."""
    if wrong := [share for share in shares if not 0 < share <= 1]:
        raise UserError(f"--shares: wanted numbers above 0 and up to 1, given {', '.join(map(str, wrong))}")
    on_cpu = Machine.find().device == "cpu"
    jobs = jobs or (len(os.sched_getaffinity(0)) if on_cpu else 1)
    _prepare(task, seed)  # What is wrong with the data is said here, once.
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as scratch,
        ProcessPoolExecutor(jobs, context, _start_worker, (jobs,)) as pool,
        tqdm(total=len(ROWS) * len(shares) * n_seeds, desc="learning curve", unit=" runs") as bar,
    ):
        # The long runs first, so that no core waits for one at the end.
        rates = tuple(task.training.learning_rates)
        order = sorted(shares, reverse=True)
        first = [Point(row, share, seed, rates) for share in order for row in ROWS]
        tuned = _run_all(pool, task, seed, first, Path(scratch), bar)
        rate_of = {(of.point.row, of.point.share): () if of.rate is None else (of.rate,) for of in tuned}
        others = [
            Point(row, share, seed + n, rate_of[row, share])
            for share in order
            for row in ROWS
            for n in range(1, n_seeds)
        ]
        return tuned + _run_all(pool, task, seed, others, Path(scratch), bar)


def _run_all(
    pool: Executor, task: ClassifyTask, split_seed: int, points: Iterable[Point], scratch: Path, bar: Any
) -> list[Outcome]:
    running = [pool.submit(_run, task, split_seed, point, scratch) for point in points]
    for _ in as_completed(running):
        bar.update()
    return [run.result() for run in running]


def _start_worker(jobs: int) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))


def _prepare(task: ClassifyTask, seed: int) -> tuple[Prepared, Any, int, Machine]:
    """The task's rows, a maker of the base, the id of padding, the machine; once in a process."""
    return _read(task.model_dump_json(), seed)


@cache
def _read(task_as_json: str, seed: int) -> tuple[Prepared, Any, int, Machine]:
    task = ClassifyTask.model_validate_json(task_as_json)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer_file, load_base = open_base(Path(task.base), Path(folder) / "tokenizer.json")
        tokenizer = Tokenizer.load(tokenizer_file)
    labeled = read_classify(Path(task.data), task, seed)
    prepared = prepare_rows(labeled, task, tokenizer, load_base().config.context_length)
    return prepared, load_base, tokenizer.pad, Machine.find()


def _run(task: ClassifyTask, split_seed: int, point: Point, scratch: Path) -> Outcome:
    prepared, load_base, pad_id, machine = _prepare(task, split_seed)
    chosen = draw_share(prepared.rows["train"].labels, point.share, point.seed)
    prepared = replace(prepared, rows=prepared.rows | {"train": _take(prepared.rows["train"], chosen)})
    if point.row == "tfidf":
        return _outcome(point, len(chosen), None, None, score_baselines(prepared, point.seed)["tfidf"].test)
    batch_size = min(task.training.batch_size, len(chosen))
    per_epoch = -(-len(chosen) // batch_size)
    epochs = max(task.training.epochs, LEAST_STEPS / per_epoch)
    changes = {"epochs": epochs, "batch_size": batch_size, "learning_rates": list(point.rates)}
    training = task.training.model_copy(update=changes)

    def draw() -> GPT:
        return GPT(load_base().config, torch.Generator().manual_seed(point.seed))

    make, kind = (load_base, task.method.kind) if point.row == "pretrained" else (draw, "full")
    method = task.method.model_copy(update={"kind": kind})
    name = f"{point.row} {point.share} seed {point.seed}"
    trained = train_classifier(make, prepared, task, method, training, pad_id, point.seed, machine, scratch, name)
    return _outcome(point, len(chosen), trained.setting["steps"], trained.rate, trained.test)


def _take(rows: Rows, chosen: NDArray[np.int64]) -> Rows:
    return Rows([rows.ids[n] for n in chosen], [rows.texts[n] for n in chosen], rows.labels[chosen])


def _outcome(point: Point, n_rows: int, n_steps: int | None, rate: float | None, test: Scored) -> Outcome:
    figures = measure(test, 1.0, point.seed)
    return Outcome(point, n_rows, n_steps, rate, figures["accuracy"], figures["macro_f1"])


def summarise(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """For each row and share, in the order of ROWS and of the shares: mean and spread (std) over the seeds."""
    lines = []
    for row in ROWS:
        for share in sorted({of.point.share for of in outcomes}):
            here = [of for of in outcomes if (of.point.row, of.point.share) == (row, share)]
            line: dict[str, Any] = {"row": row, "share": share, "rows": here[0].n_rows}
            for name in ("accuracy", "macro_f1"):
                values = np.array([getattr(of, name) for of in here])
                spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
                line[name] = {"mean": round(float(values.mean()), 4), "std": round(spread, 4)}
            lines.append(line | {"seeds": len(here), "steps": here[0].n_steps, "rate": here[0].rate})
    return lines


def write_metrics(path: Path, task: str, lines: Sequence[dict[str, Any]]) -> None:
    """The summary as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"task": task, "points": list(lines)}, indent=2) + "\n", encoding="utf-8")


def draw(path: Path, task: str, lines: Sequence[dict[str, Any]]) -> None:
    """Accuracy of test against the rows of train, a line a row with its spread over the seeds."""

    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        for row in ROWS:
            of_row = [line for line in lines if line["row"] == row]
            n_rows = [line["rows"] for line in of_row]
            mean = np.array([line["accuracy"]["mean"] for line in of_row])
            std = np.array([line["accuracy"]["std"] for line in of_row])
            (drawn,) = axes.plot(n_rows, mean, marker="o", label=TITLES[row])
            axes.fill_between(n_rows, mean - std, mean + std, color=drawn.get_color(), alpha=0.15)
        axes.set(
            xscale="log", xlabel="labeled rows", ylabel="accuracy on test", title=f"what pretraining is worth: {task}"
        )
        axes.set_xticks(n_rows, [f"{n:,}" for n in n_rows], minor=False)
        axes.minorticks_off()
        axes.legend()

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg(fill, 7, 4.2), encoding="utf-8")


def as_table(lines: Sequence[dict[str, Any]]) -> str:
    """The summary for a terminal and for Markdown."""
    shares = sorted({line["share"] for line in lines})
    cells = {(line["row"], line["share"]): line for line in lines}
    head = [f"{share:.0%} ({cells[ROWS[0], share]['rows']:,} rows)" for share in shares]
    table = [["accuracy", *head], ["---"] * (len(shares) + 1)]
    for row in ROWS:
        values = [cells[row, share]["accuracy"] for share in shares]
        table.append([TITLES[row], *(f"{value['mean']:.3f} ± {value['std']:.3f}" for value in values)])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table)
