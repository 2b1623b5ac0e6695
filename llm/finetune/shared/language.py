"""What instruction models and those that learn from preferences share: a base, a method, a loss → a plain GPT."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm.core.device import Machine
from llm.finetune.params import MethodParams, TrainingParams
from llm.finetune.shared.adapters import apply_method, count_trained, merge
from llm.finetune.shared.fit import fit
from llm.model.gpt import GPT
from llm.train.curve import Curve


@dataclass(frozen=True)
class Trained:
    """A language model with nothing beside its own weights, its curve, and what it was made by."""

    model: GPT
    curve: Curve
    rate: float
    setting: dict[str, Any]


def train_language_model(
    load_base: Callable[[], GPT],
    step_loss: Callable[[GPT, int], Tensor],
    val_loss: Callable[[GPT], float],
    n_steps: int,
    method: MethodParams,
    training: TrainingParams,
    seed: int,
    machine: Machine,
    scratch: Path,
    name: str,
) -> Trained:
    """Train what the method says of a base that is read anew for each rate that is tried; the best on val stays.

    `seed` draws what the method adds. `name` keeps the run's state apart from others in `scratch`.
    """

    def make() -> GPT:
        model = load_base()
        apply_method(model, method, torch.Generator().manual_seed(seed))
        return model.to(machine.device)

    fitted = fit(make, step_loss, val_loss, n_steps, training, machine, scratch, name)
    model = fitted.model
    n_trained = count_trained(model)
    merge(model)
    setting = {
        "method": method.kind,
        "trained_weights": n_trained,
        "weights": model.n_parameters(),
        "rate": fitted.rate,
        "steps": n_steps,
        "val_loss_by_rate": fitted.tried,
    }
    return Trained(model, fitted.curve, fitted.rate, setting)
