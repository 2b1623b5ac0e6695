"""The one training loop, for pretraining and for every kind of finetuning.

In: a model, a function that gives a step's loss, how many steps, rates. Out: the model's weights, trained, and
the curve. What a batch is and what is learned from it is the caller's; how it is learned stands here alone.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.train import parallel
from llm.train.averages import Weights, add_newest, averaging_weight, swapped_weights
from llm.train.checkpoint import RunState
from llm.train.curve import Curve, append_row, write_curve
from llm.train.optimizers import Optimizer
from llm.train.params import OptimizerParams, ScheduleParams
from llm.train.schedules import lr_factor
from llm.train.signals import defer_signals

__all__ = ["Curve", "TrainConfig", "train"]

# A run is lost when its loss is worse than that of chance by this many nats, on average over this many steps.
# A uniform guess is always within reach: a fresh model is within half a nat of it, and one that is confidently wrong
# pays without a limit. A single bad batch is no more than a twentieth of the average.
DIVERGENCE_MARGIN_NATS, LOST_STEPS = 1.0, 20


@dataclass(frozen=True)
class TrainConfig:
    """What one run of the loop does, besides the loss."""

    n_steps: int
    optimizer: OptimizerParams
    schedule: ScheduleParams
    eval_every_steps: int
    checkpoint_every_steps: int
    checkpoint_selection: Literal["last", "best"]
    weight_averaging: Literal["ema", "tail"] | None = None  # of the weights; what validation sees and what stays
    ema_half_life_fraction: float = 1.0  # of the steps
    tail_fraction: float = 1.0  # of the steps
    early_stopping_patience: int | None = None  # without a better validation loss
    lr_multipliers: Mapping[str, float] = field(default_factory=dict)  # of the rates, by a weight's name; else 1
    uniform_loss: float | None = None  # nats, of chance; None where a bad loss is no reason to stop
    divergence_hint: str = "lower rates, or a longer warm-up"  # for a user whose run is lost
    tokens_per_step: int = 0
    flops_per_step: float = 0.0
    peak_flops: float = 0.0  # a second, of the machine's matrix products
    label: str = "train"


def train(
    model: nn.Module,
    step_losses: Callable[[int], Iterable[Tensor]],
    val_loss: Callable[[], float] | None,
    plan: TrainConfig,
    machine: Machine,
    state: RunState | None,
    sample: Callable[[], str] | None = None,
) -> Curve:
    """Train `model` in place: at each step by the gradient of the sum of `step_losses(step)`, in nats.

    The parts of a step's loss are asked for one by one, and each one's graph is gone before the next is made.
    `val_loss` is asked every `eval_every_steps` and at the end, and so is `sample`, for a text to show. With a
    `state` the run is kept in it and goes on from there after a kill, to the same bytes; after SIGTERM or Ctrl-C it
    is kept at once, then SystemExit or KeyboardInterrupt ends the run. Where several processes train together, the
    `step_losses` of all of them add up to the loss, and the first one alone has a `state`. `keep` says whether the
    last weights stay, or those with the lowest validation loss. Weights that require no gradient stay as they are, and
    are not kept: a run that goes on takes them from its `model`. Raises UserError where the run is lost: a loss or
    gradient that is no number, or a loss far above the uniform one; it names the step and what to try.
    """
    run = _Run(model, plan, machine)
    if kept := parallel.broadcast_from_rank0(state.load() if state is not None else None):
        run.load_state_dict(kept)
        print(f"{plan.label}: resumed at step {run.done}", file=sys.stderr)
    if state is not None:
        write_curve(state.curve_path, run.curve.rows)
        print(f"{plan.label}: the curve grows in {state.curve_path}", file=sys.stderr)
    progress = tqdm(initial=run.done, total=plan.n_steps, desc=plan.label, unit=" steps")
    with defer_signals() as came, progress as bar:
        while not parallel.share_signals(came) and not run.is_over():
            loss = run.learn(step_losses(run.done))
            bar.set_postfix_str(_postfix(loss, plan, bar.format_dict), refresh=False)
            bar.update()
            if run.is_due(plan.eval_every_steps):
                row = run.evaluate(val_loss, sample)
                if state is not None:
                    append_row(state.curve_path, row)
            if run.is_due(plan.checkpoint_every_steps):
                run.keep(state)
        if parallel.share_signals(came):
            run.keep(state)
            how = "kept; run again to go on" if state is not None else "not kept"
            tqdm.write(f"{plan.label}: stopped at step {run.done}, {how}", file=sys.stderr)
            # Others wait for the one that keeps the state: the launcher's signal may still come, and end one that is
            # out of this block at once, its connections with it.
            parallel.wait_for_all()
    run.settle()
    return run.curve


class _Run:
    """All that changes while the loop runs, to be kept and taken back as a whole."""

    def __init__(self, model: nn.Module, plan: TrainConfig, machine: Machine):
        self.model, self.plan, self.machine = model, plan, machine
        self.optimizer = Optimizer(model, plan.optimizer, machine.dtype, machine.device, plan.lr_multipliers)
        self.done = 0  # steps
        self.curve = Curve()
        self.mean: Weights | None = None
        self.best: Weights | None = None
        self.sums = torch.zeros(2, dtype=torch.float64)  # of the losses since the last evaluation, and how many
        self.recent: list[float] = []  # the last losses

    def is_over(self) -> bool:
        patience = self.plan.early_stopping_patience
        return self.done == self.plan.n_steps or (patience is not None and self.curve.evals_since_best() >= patience)

    def is_due(self, every_steps: int) -> bool:
        return self.done % every_steps == 0 or self.done == self.plan.n_steps

    def learn(self, parts: Iterable[Tensor]) -> float:
        """One step down the gradient of the sum of `parts`; returns the sum. The weights of a lost run stay."""
        plan, step = self.plan, self.done
        loss = 0.0
        for part in parts:
            part.backward()
            loss += part.item()
        loss = parallel.sum_over_processes(loss)
        parallel.sum_gradients(self.optimizer.weights)
        self._refuse_if_no_number(loss, "loss")
        self.recent = [*self.recent, loss][-LOST_STEPS:]
        self._check_divergence()
        norm = self.optimizer.step(step, lr_factor(step, plan.n_steps, plan.schedule))
        self._refuse_if_no_number(norm, "gradient's norm")
        if plan.weight_averaging is not None:
            fraction = plan.ema_half_life_fraction if plan.weight_averaging == "ema" else plan.tail_fraction
            share = averaging_weight(step, plan.n_steps, plan.weight_averaging, fraction)
            self.mean = add_newest(self.mean, self.model, share)
        self.sums += torch.tensor([loss, 1], dtype=torch.float64)
        self.done += 1
        return loss

    def evaluate(self, val_loss: Callable[[], float] | None, sample: Callable[[], str] | None) -> dict[str, float]:
        """Add a row to the curve and return it; look at the mean of the weights where there is one."""
        plan = self.plan
        rate = lr_factor(self.done - 1, plan.n_steps, plan.schedule)
        row = {
            "step": self.done,
            "train_loss": round(float(self.sums[0] / self.sums[1]), 5),
            "lr_factor": round(rate, 5),
        }
        self.sums.zero_()
        with swapped_weights(self.model, self.mean):
            self.model.eval()
            if val_loss is not None:
                row["val_loss"] = round(val_loss(), 5)
                self._refuse_if_no_number(row["val_loss"], "validation loss")
            if sample is not None:
                tqdm.write(f"{plan.label}: step {self.done} writes {sample()!r}", file=sys.stderr)
            self.model.train()
            self.curve.rows.append(row)
            if plan.checkpoint_selection == "best" and self.curve.best() is row:
                self.best = {name: weight.detach().clone() for name, weight in self._learned().items()}
        return row

    def settle(self) -> None:
        """Leave the model with the weights that stay: the best ones, the mean, or the last."""
        if self.best is not None:
            self._set_learned(self.best)
        elif self.mean is not None:
            self.model.load_state_dict(self.mean, strict=False)  # a tied head is in it once

    def _learned(self) -> Weights:
        """What the loop may change, by name: all but the weights that require no gradient."""
        weights = self.model.named_parameters(remove_duplicate=False)
        frozen = {name for name, weight in weights if not weight.requires_grad}
        return {name: weight for name, weight in self.model.state_dict().items() if name not in frozen}

    def _set_learned(self, learned: Weights) -> None:
        assert learned.keys() == self._learned().keys()
        self.model.load_state_dict(learned, strict=False)

    def keep(self, state: RunState | None) -> None:
        """Save all of it in `state`, where there is one; every process has to ask."""
        kept = parallel.full_tensor(self.state_dict())
        if state is not None:
            state.save(kept)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self._learned(),
            "optimizer": self.optimizer.state_dict(),
            "done": self.done,
            "curve": self.curve.rows,
            "mean": self.mean,
            "best": self.best,
            "sums": self.sums,
            "recent": self.recent,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        own = self.model.state_dict()

        def own_parts(weights: Weights | None) -> Weights | None:
            return weights and {name: parallel.local_shard(weight, own[name]) for name, weight in weights.items()}

        self._set_learned(own_parts(state["model"]) or {})
        self.optimizer.load_state_dict(state["optimizer"])
        self.done, self.curve.rows = state["done"], state["curve"]
        self.sums, self.recent = state["sums"], state["recent"]
        self.mean, self.best = own_parts(state["mean"]), own_parts(state["best"])

    def _refuse_if_no_number(self, value: float, name: str) -> None:
        if not math.isfinite(value):
            plan = self.plan
            raise UserError(f"{plan.label}: the {name} is {value} at step {self.done}; try {plan.divergence_hint}")

    def _check_divergence(self) -> None:
        plan = self.plan
        all_after_warmup = self.done - plan.schedule.warmup_steps + 1 >= LOST_STEPS
        if plan.uniform_loss is None or not all_after_warmup:
            return
        average = sum(self.recent) / len(self.recent)
        if average > plan.uniform_loss + DIVERGENCE_MARGIN_NATS:
            raise UserError(
                f"{plan.label}: the loss is {average:.2f} on average over {LOST_STEPS} steps at step {self.done}, "
                f"where chance has {plan.uniform_loss:.2f}; try {plan.divergence_hint}"
            )


def _postfix(loss: float, plan: TrainConfig, bar: Mapping[str, Any]) -> str:
    parts = [f"loss {loss:.3f}"]
    steps_per_second = bar["rate"] or (bar["n"] - bar["initial"]) / bar["elapsed"]  # of late, or since the start
    if steps_per_second and plan.tokens_per_step:
        parts.append(f"{steps_per_second * plan.tokens_per_step:,.0f} tokens/s")
    if steps_per_second and plan.peak_flops:
        # Model FLOPs utilisation (Chowdhery et al. 2022, arXiv:2204.02311), of the peak that was measured here.
        parts.append(f"MFU {steps_per_second * plan.flops_per_step / plan.peak_flops:.0%}")
    return ", ".join(parts)
