"""The one training loop, for pretraining and for every kind of finetuning.

In: a model, a function that gives a step's loss, how many steps, rates. Out: the model's weights, trained, and
the curve. What a batch is and what is learned from it is the caller's; how it is learned stands here alone.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from llm.errors import UserError
from llm.runtime import Machine
from llm.train.checkpoint import RunState
from llm.train.optimizers import Optimizer
from llm.train.params import OptimizerParams, ScheduleParams
from llm.train.schedules import rate_factor


@dataclass(frozen=True)
class Plan:
    """What one run of the loop does, besides the loss."""

    n_steps: int
    optimizer: OptimizerParams
    schedule: ScheduleParams
    eval_every_steps: int
    checkpoint_every_steps: int
    keep: Literal["last", "best"]
    tokens_per_step: int = 0
    label: str = "train"


@dataclass
class Curve:
    """The rows of a learning curve: one at every evaluation."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def best(self) -> dict[str, float]:
        """The row with the lowest validation loss; the last row where there was nothing to validate on."""
        scored = [row for row in self.rows if "val_loss" in row]
        return min(scored, key=lambda row: row["val_loss"]) if scored else self.rows[-1]


def train(
    model: nn.Module,
    step_loss: Callable[[int], Tensor],
    val_loss: Callable[[], float] | None,
    plan: Plan,
    machine: Machine,
    state: RunState | None,
) -> Curve:
    """Train `model` in place: at each step the gradient of `step_loss(step)`, a mean loss in nats.

    `val_loss` is asked every `eval_every_steps` and at the end. With a `state` the run is kept in it and goes on
    from there after a kill, to the same bytes. `keep` says whether the last weights stay, or those with the lowest
    validation loss. Raises UserError when the loss is no number: it names the step and what to try.
    """
    optimizer = Optimizer(model, plan.optimizer, machine.dtype, machine.device)
    curve = Curve()
    best: dict[str, Tensor] | None = None
    sums = torch.zeros(2, dtype=torch.float64)  # of the losses since the last evaluation, and how many
    first = 0
    if state is not None and (kept := state.load()):
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        curve.rows, best, sums, first = kept["curve"], kept["best"], kept["sums"], kept["step"]
        print(f"{plan.label}: resumed at step {first}", file=sys.stderr)
    bar = tqdm(range(first, plan.n_steps), initial=first, total=plan.n_steps, desc=plan.label, unit=" steps")
    for step in bar:
        loss = step_loss(step)
        loss.backward()
        value = loss.item()
        factor = rate_factor(step, plan.n_steps, plan.schedule)
        norm = optimizer.step(step, factor)
        if not math.isfinite(value) or not math.isfinite(norm):
            raise UserError(
                f"{plan.label}: the loss is {value} and the gradient {norm} at step {step}; "
                f"try half of the rates {plan.optimizer.matrix_rate} and {plan.optimizer.other_rate}, or more warm-up"
            )
        sums += torch.tensor([value, 1], dtype=torch.float64)
        done = step + 1
        bar.set_postfix_str(_postfix(value, plan.tokens_per_step, bar), refresh=False)
        if done % plan.eval_every_steps == 0 or done == plan.n_steps:
            row = {"step": done, "train_loss": round(float(sums[0] / sums[1]), 5), "rate": round(factor, 5)}
            sums.zero_()
            if val_loss is not None:
                model.eval()
                row["val_loss"] = round(val_loss(), 5)
                model.train()
            curve.rows.append(row)
            if plan.keep == "best" and curve.best() is row:
                best = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
        if state is not None and (done % plan.checkpoint_every_steps == 0 or done == plan.n_steps):
            state.save(_everything(model, optimizer, curve, best, sums, done))
    if best is not None:
        model.load_state_dict(best)
    return curve


def _everything(
    model: nn.Module, optimizer: Optimizer, curve: Curve, best: dict[str, Tensor] | None, sums: Tensor, step: int
) -> dict[str, Any]:
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "curve": curve.rows,
        "best": best,
        "sums": sums,
        "step": step,
    }


def _postfix(loss: float, tokens_per_step: int, bar: Any) -> str:
    rate = bar.format_dict["rate"]
    speed = f", {rate * tokens_per_step:,.0f} tokens/s" if rate and tokens_per_step else ""
    return f"loss {loss:.3f}{speed}"
