"""The skeleton of a task's job: a base, a fit with each seed, figures with mean and standard deviation over seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llm.core.device import Machine
from llm.export.hf import base as hf
from llm.finetune.data.labeled import describe_rows
from llm.finetune.params import TaskParams
from llm.finetune.shared.fit import Fitted, Model, Objective, Run, fit
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

Figures = dict[str, Any]
Outcome = tuple[Figures, Figures]  # metrics for Git, and the details that reports show in addition


@dataclass(frozen=True)
class Job:
    """Inputs (`held_out` is a corpus table), the folders `model` and `plots` to write, seeds, machine and scratch."""

    data: Path
    base: Path
    held_out: Path
    model: Path
    plots: Path
    seed: int
    n_seeds: int
    machine: Machine
    scratch: Path


class Base(NamedTuple):
    """A base's tokenizer with our special tokens, and a loader of its model."""

    tokenizer_file: Path
    tokenizer: Tokenizer
    load: Callable[[], GPT]


def open_base(job: Job) -> Base:
    """Open the base of a job; UserError in one line for an unsuitable folder."""
    tokenizer_file, load = hf.open_base(job.base, job.scratch / "tokenizer.json")
    return Base(tokenizer_file, Tokenizer.load(tokenizer_file), load)


def print_rows(counts: dict[str, Any], task: TaskParams) -> dict[str, Any]:
    """Print how the file was read; return the same lines for the details."""
    notes = describe_rows(counts, task.max_tokens)
    print("\n".join(notes), flush=True)
    return {"row_notes": notes}


def fit_seeds(
    job: Job,
    name: str,
    task: TaskParams,
    objective: Callable[[Run], Objective[Model]],
    measure: Callable[[Model, str], Figures],
    digits: int,
) -> tuple[Fitted[Model], Figures]:
    """Fit with each seed; return the model of the first one and its figures, with several seeds also `mean_and_std`.

    The first seed searches the learning rate for the others.
    """
    run = Run(name, job.seed, job.machine, job.scratch)
    first = fit(objective(run), task.method, task.training, run)
    of_seeds = [measure(first.model, "after")]
    tuned = task.training.model_copy(update={"learning_rates": [first.setting["learning_rate"]]})
    for seed in range(job.seed + 1, job.seed + job.n_seeds):
        run = run._replace(name=f"{name} seed {seed}", seed=seed)
        of_seeds.append(measure(fit(objective(run), task.method, tuned, run).model, f"seed {seed}"))
    return first, of_seeds[0] | (mean_and_std(of_seeds, digits) if job.n_seeds > 1 else {})


def mean_and_std(runs: list[Figures], digits: int) -> Figures:
    """Return the mean and the standard deviation, of a sample, of each figure over runs; not of bounds of intervals.

    >>> mean_and_std([{"a": 1.0, "a_low": 0.5}, {"a": 3.0, "a_low": 2.0}], 4)
    {'a_mean': 2.0, 'a_std': 1.4142}
    """
    found: Figures = {}
    for name in runs[0]:
        if not name.endswith(("_low", "_high")):
            values = np.array([run[name] for run in runs])
            found[f"{name}_mean"] = round(float(values.mean()), digits)
            found[f"{name}_std"] = round(float(values.std(ddof=1)), digits)
    return found
