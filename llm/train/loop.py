"""Train a model: the one loop for pretraining and every kind of finetuning.

In: a model, a function that gives a step's loss, a number of steps, learning rates. Out: the trained model and its
learning curve. What a batch is and which loss it has is the caller's.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import torch
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm

from llm.core.derived import derive
from llm.core.device import Machine
from llm.core.errors import UserError
from llm.train import parallel
from llm.train.averages import Weights, averaging_weight, swapped_weights, update_mean
from llm.train.checkpoint import Checkpoint
from llm.train.curve import Curve
from llm.train.optimizers import Optimizer
from llm.train.params import LoopParams

# A run has diverged when its loss exceeds that of chance by this many nats, on average over this many steps. A fresh
# model is within half a nat of chance, and a single bad batch is only a twentieth of the average.
DIVERGENCE_MARGIN_NATS, DIVERGENCE_STEPS = 1.0, 20


class TrainConfig(LoopParams):
    """Settings of one run of the loop."""

    n_steps: int
    lr_multipliers: dict[str, float] = Field(default_factory=dict)  # by a weight's name; 1 where missing
    uniform_loss: float | None = None  # nats, of chance; None checks for no divergence
    divergence_hint: str = "lower learning rates, or a longer warm-up"
    tokens_per_step: int = 0
    flops_per_step: float = 0.0
    peak_flops: float = 0.0  # per second, of the machine's matrix products
    label: str = "train"


def train(
    model: nn.Module,
    step_losses: Callable[[int], Iterable[Tensor]],
    val_loss: Callable[[], float] | None,
    config: TrainConfig,
    machine: Machine,
    checkpoint: Checkpoint | None,
    sample: Callable[[], str] | None = None,
) -> Curve:
    """Train `model` in place by the gradient of the sum of `step_losses(step)`, in nats, and return its curve.

    Micro-batch losses are consumed lazily, so only one autograd graph is alive at a time. Every `eval_every_steps`
    and at the end `val_loss` is called, and `sample`, whose text is printed. With a checkpoint a killed run resumes to
    the same bytes; SIGTERM and Ctrl-C save it at once, then raise SystemExit or KeyboardInterrupt. With several
    processes the losses of all add up, and rank 0 alone has a checkpoint. Frozen weights are not saved: a resumed run
    takes them from `model`. Raises UserError, with the step and a hint, where a loss or gradient is not finite or the
    loss is far above that of chance.
    """
    run = _Run(model, config, machine, checkpoint)
    eval_every = derive("pretrain.eval_every_steps", config.n_steps, config.eval_every_steps)
    save_every = derive("pretrain.checkpoint_every_steps", config.n_steps, config.checkpoint_every_steps)
    run.resume()
    progress = tqdm(initial=run.step, total=config.n_steps, desc=config.label, unit=" steps")
    with parallel.defer_signals() as received, progress as bar:
        while not parallel.share_signals(received) and not run.is_over():
            loss = run.train_step(step_losses(run.step))
            bar.set_postfix_str(_postfix(loss, config, bar.format_dict), refresh=False)
            bar.update()
            if run.is_due(eval_every):
                run.evaluate(val_loss, sample)
            if run.is_due(save_every):
                run.save_checkpoint()
        if parallel.share_signals(received):
            run.stop()
    run.load_final_weights()
    return run.curve


class _Run:
    """The state of the loop."""

    def __init__(self, model: nn.Module, config: TrainConfig, machine: Machine, checkpoint: Checkpoint | None):
        self.model, self.config, self.checkpoint = model, config, checkpoint
        self.optimizer = Optimizer(model, config.optimizer, machine.dtype, machine.device, config.lr_multipliers)
        self.step = 0
        self.curve = Curve()
        self.mean: Weights | None = None
        self.best: Weights | None = None
        self.sums = torch.zeros(2, dtype=torch.float64)  # of the losses since the last evaluation, and their number
        self.recent: list[float] = []  # the last losses

    def resume(self) -> None:
        """Continue from the checkpoint, where there is one."""
        label = self.config.label
        if state := parallel.broadcast_from_rank0(self.checkpoint.load() if self.checkpoint else None):
            self._load_state_dict(state)
            print(f"{label}: resumed at step {self.step}", file=sys.stderr)
        if self.checkpoint:
            self.curve.write(self.checkpoint.curve_path)
            print(f"{label}: learning curve in {self.checkpoint.curve_path}", file=sys.stderr)

    def is_over(self) -> bool:
        patience = self.config.early_stopping_patience
        return self.step == self.config.n_steps or (patience is not None and self.curve.evals_since_best() >= patience)

    def is_due(self, every_steps: int) -> bool:
        return self.step % every_steps == 0 or self.step == self.config.n_steps

    def train_step(self, losses: Iterable[Tensor]) -> float:
        """Take one step down the gradient of the sum of the losses; return the sum."""
        config, step = self.config, self.step
        total = 0.0
        for loss in losses:
            loss.backward()
            total += loss.item()
        total = parallel.sum_over_processes(total)
        parallel.sum_gradients(self.optimizer.weights)
        self._check_loss(total)
        norm = self.optimizer.step(step, config.schedule.lr_factor(step, config.n_steps))
        self._check_finite(norm, "gradient's norm")
        if config.weight_averaging is not None:
            fraction = config.ema_half_life_fraction if config.weight_averaging == "ema" else config.tail_fraction
            share = averaging_weight(step, config.n_steps, config.weight_averaging, fraction)
            self.mean = update_mean(self.mean, self.model, share)
        self.sums += torch.tensor([total, 1], dtype=torch.float64)
        self.step += 1
        return total

    def evaluate(self, val_loss: Callable[[], float] | None, sample: Callable[[], str] | None) -> None:
        """Add a row to the curve; of the mean of the weights where there is one."""
        config = self.config
        row: dict[str, float] = {"step": self.step, "train_loss": round(float(self.sums[0] / self.sums[1]), 5)}
        row["lr_factor"] = round(config.schedule.lr_factor(self.step - 1, config.n_steps), 5)
        self.sums.zero_()
        with swapped_weights(self.model, self.mean):
            self.model.eval()
            if val_loss is not None:
                row["val_loss"] = round(val_loss(), 5)
                self._check_finite(row["val_loss"], "validation loss")
            if sample is not None:
                tqdm.write(f"{config.label}: step {self.step} writes {sample()!r}", file=sys.stderr)
            self.model.train()
            self.curve.rows.append(row)
            if config.checkpoint_selection == "best" and self.curve.best() is row:
                self.best = {name: weight.detach().clone() for name, weight in self._trained().items()}
        if self.checkpoint:
            self.curve.write(self.checkpoint.curve_path)

    def stop(self) -> None:
        """Save the state after a signal."""
        self.save_checkpoint()
        result = "checkpoint saved; run again to resume" if self.checkpoint else "no checkpoint"
        tqdm.write(f"{self.config.label}: stopped at step {self.step}, {result}", file=sys.stderr)
        # A process that leaves dies of the launcher's signal, with its connections: wait for rank 0, which saves.
        parallel.sum_over_processes(0)

    def load_final_weights(self) -> None:
        """Give the model its final weights: the best ones, the mean, or the last."""
        if final := self.best or self.mean:
            self.model.load_state_dict(final, strict=False)  # the mean has a tied head once

    def save_checkpoint(self) -> None:
        """Save the state where there is a checkpoint; a collective."""
        values = {name: getattr(self, name) for name in ("step", "sums", "recent", "mean", "best")}
        values |= {"rows": self.curve.rows, "model": self._trained(), "optimizer": self.optimizer.state_dict()}
        state = parallel.full_tensor(values)
        if self.checkpoint:
            self.checkpoint.save(state)

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        like = self.model.state_dict()

        def shards(weights: Weights | None) -> Weights | None:
            return weights and {name: parallel.local_shard(weight, like[name]) for name, weight in weights.items()}

        assert state["model"].keys() == self._trained().keys()
        self.model.load_state_dict(shards(state["model"]) or {}, strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.sums, self.recent = state["step"], state["sums"], state["recent"]
        self.mean, self.best, self.curve.rows = shards(state["mean"]), shards(state["best"]), state["rows"]

    def _trained(self) -> Weights:
        """Return what the loop may change, by name: all but frozen weights."""
        weights = self.model.named_parameters(remove_duplicate=False)
        frozen = {name for name, weight in weights if not weight.requires_grad}
        return {name: weight for name, weight in self.model.state_dict().items() if name not in frozen}

    def _check_loss(self, loss: float) -> None:
        self._check_finite(loss, "loss")
        self.recent = [*self.recent, loss][-DIVERGENCE_STEPS:]
        chance, average = self.config.uniform_loss, sum(self.recent) / len(self.recent)
        all_after_warmup = self.step - self.config.schedule.warmup_of(self.config.n_steps) + 1 >= DIVERGENCE_STEPS
        if chance and all_after_warmup and average > chance + DIVERGENCE_MARGIN_NATS:
            self._refuse(f"average loss of {DIVERGENCE_STEPS} steps", f"{average:.2f} (chance: {chance:.2f})")

    def _check_finite(self, value: float, name: str) -> None:
        if not math.isfinite(value):
            self._refuse(name, str(value))

    def _refuse(self, name: str, value: str) -> NoReturn:
        hint = self.config.divergence_hint
        raise UserError(f"{self.config.label}: the {name} is {value} at step {self.step}; try {hint}")


def _postfix(loss: float, config: TrainConfig, bar: Mapping[str, Any]) -> str:
    parts = [f"loss {loss:.3f}"]
    steps_per_second = bar["rate"] or (bar["n"] - bar["initial"]) / bar["elapsed"]  # recent, or since the start
    if steps_per_second and config.tokens_per_step:
        parts.append(f"{steps_per_second * config.tokens_per_step:,.0f} tokens/s")
    if steps_per_second and config.peak_flops:
        # Model FLOPs utilization (Chowdhery et al. 2022, arXiv:2204.02311), of the measured peak.
        parts.append(f"MFU {steps_per_second * config.flops_per_step / config.peak_flops:.0%}")
    return ", ".join(parts)
