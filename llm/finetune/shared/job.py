"""The skeleton of a task's job: a base, a fit with each seed, figures with mean and standard deviation over seeds.

base ──apply_method──► a part is trainable ──wrap──► model ──train──► best weights on val ──merge──► plain weights
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from llm.core.device import Machine
from llm.export.hf import base as hf
from llm.finetune.data.labeled import describe_rows
from llm.finetune.params import MethodParams, TaskParams, TrainingParams
from llm.finetune.shared.adapters import apply_method, count_trained, lr_multipliers, merge
from llm.model import kernels
from llm.model.classifier import Classifier
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer
from llm.train.checkpoint import Checkpoint
from llm.train.curve import Curve
from llm.train.loop import TrainConfig, train
from llm.train.params import OptimizerParams, ScheduleParams

Model = TypeVar("Model", bound=GPT | Classifier)
Figures = dict[str, Any]
Outcome = tuple[Figures, Figures]  # metrics for Git, and the details that reports show in addition


@dataclass(frozen=True)
class Objective(Generic[Model]):
    """A model around the base and its losses: `step_loss` of a training step by number, `val_loss` of all of val."""

    load_base: Callable[[], GPT]
    step_loss: Callable[[Model, int], Tensor]
    val_loss: Callable[[Model], float]
    steps_per_epoch: int
    wrap: Callable[[GPT], Any] = lambda trunk: trunk  # to a Model


class Run(NamedTuple):
    """Name, seed and place of a fit; a killed one resumes from a state in `scratch` under its name."""

    name: str
    seed: int
    machine: Machine
    scratch: Path


@dataclass(frozen=True)
class Fitted(Generic[Model]):
    """A trained model without adapters, its curve, and its setting for the details, with its learning rate."""

    model: Model
    curve: Curve
    setting: dict[str, Any]


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


def print_rows(counts: dict[str, Any], max_tokens: int) -> dict[str, Any]:
    """Print how the file was read; return the same lines for the details."""
    notes = describe_rows(counts, max_tokens)
    print("\n".join(notes), flush=True)
    return {"row_notes": notes}


def fit(objective: Objective[Model], method: MethodParams, training: TrainingParams, run: Run) -> Fitted[Model]:
    """Train at the learning rate with the lowest loss on val; the weights with the lowest loss on val are returned.

    Of several rates each first trains for `lr_search_fraction` of the steps, with a whole schedule of its own. Every
    run starts from a base that is loaded anew; `run.seed` draws what the method adds.
    """
    n_steps = max(1, round(training.epochs * objective.steps_per_epoch))
    n_search = max(1, round(n_steps * training.lr_search_fraction))
    lr, val_losses = training.learning_rates[0], {}
    if len(training.learning_rates) > 1:
        for lr in training.learning_rates:
            searching = run._replace(name=f"{run.name} rate {lr}")
            val_losses[lr] = _train(objective, method, training, searching, lr, n_search)[1].best()["val_loss"]
        lr = min(val_losses, key=val_losses.__getitem__)
    model, curve = _train(objective, method, training, run, lr, n_steps)
    n_trained = count_trained(model)
    merge(model)
    setting = {
        "method": method.kind,
        "trained_weights": n_trained,
        "weights": model.n_parameters(),
        "learning_rate": lr,
        "steps": n_steps,
        "val_loss_by_learning_rate": {str(each): loss for each, loss in val_losses.items()},
    }
    return Fitted(model, curve, setting)


def _train(
    objective: Objective[Model], method: MethodParams, training: TrainingParams, run: Run, lr: float, n_steps: int
) -> tuple[Model, Curve]:
    base = objective.load_base()
    apply_method(base, method, torch.Generator().manual_seed(run.seed))
    model = objective.wrap(base)
    model.to(run.machine.device)
    config = TrainConfig(
        n_steps=n_steps,
        # For adapters too, so that `learning_rates` has one meaning: AdamW was not better. On `library`, rank 24, two
        # seeds, it reached 0.87 and 0.97 nats on test, Muon 0.80 and 0.91; at rank 8 they were equal.
        optimizer=OptimizerParams(
            kind="muon",
            muon_lr=lr,
            adamw_lr=lr * training.adamw_lr_ratio,
            weight_decay=training.weight_decay,
            max_grad_norm=training.max_grad_norm,
        ),
        schedule=ScheduleParams(
            kind="wsd",
            warmup_steps=round(n_steps * training.warmup_fraction),
            decay_fraction=training.decay_fraction,
            final_lr_fraction=0.0,
        ),
        eval_every_steps=max(1, n_steps // training.n_evals),
        checkpoint_every_steps=50,
        checkpoint_selection="best",
        weight_averaging=None,
        ema_half_life_fraction=1.0,
        tail_fraction=1.0,
        early_stopping_patience=training.early_stopping_patience,
        lr_multipliers=lr_multipliers(model, training.layerwise_lr_decay),
        divergence_hint="lower training.learning_rates or a larger training.warmup_fraction",
        label=run.name,
    )
    state = Checkpoint(run.scratch / f"{run.machine.key()}{kernels.key()}" / run.name.replace(" ", "-"))

    def losses(step: int) -> list[Tensor]:
        return [objective.step_loss(model, step)]

    return model, train(model, losses, lambda: objective.val_loss(model), config, run.machine, state)


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
