"""Time and memory of a training step, measured on this machine with random tokens in a few seconds.

    ModelConfig, OptimizerParams ──measure_step──► seconds of a window and of an update, bytes of a window

A step of B windows then takes B × `window_seconds` + `update_seconds`. Windows are added while time and memory allow:
a step of one, of two, and of as many as train together, so that a shape that is too large is not run.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from llm.core.device import Machine
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.train.language import LanguageLoss
from llm.train.optimizers import Optimizer
from llm.train.params import OptimizerParams

LONGEST_STEP = 0.5  # seconds; fewer windows are timed where a whole micro-batch takes longer
MOST_STEPS = 50
RESERVED_BYTES = 1 << 29  # of memory that the timed steps leave free


@dataclass(frozen=True)
class StepCost:
    """The cost of a training step of a shape.

    `window_seconds` is the forward and backward pass of a window, `forward_seconds` a forward pass without gradients.
    `fixed_bytes` is the memory of the process with the model, the state of its optimizer and one window.
    """

    window_seconds: float
    update_seconds: float
    forward_seconds: float
    window_bytes: float
    fixed_bytes: int

    def seconds(self, n_windows: int) -> float:
        """Return the seconds of a step with `n_windows`."""
        return n_windows * self.window_seconds + self.update_seconds

    def peak_bytes(self, n_windows: int) -> int:
        """Return the peak memory of the process with `n_windows` in memory at a time."""
        return self.fixed_bytes + round((n_windows - 1) * self.window_bytes)


def state_bytes(config: ModelConfig, optimizer: OptimizerParams) -> int:
    """Return the bytes of weights, gradients and the optimizer's state, without making the model."""
    with torch.device("meta"):
        gpt = GPT(config)
    # Muon has one average of a matrix in the blocks, AdamW two of any weight.
    n_matrices = sum(weight.numel() for weight in gpt.blocks.parameters() if weight.ndim == 2)
    return 16 * gpt.n_parameters() - (4 * n_matrices if optimizer.kind == "muon" else 0)


def measure_step(
    config: ModelConfig, optimizer: OptimizerParams, n_windows: int, machine: Machine, seconds: float = 3.0
) -> StepCost:
    """Return the cost of a step with `n_windows` in memory at a time, after about `seconds` of steps, uncompiled."""
    machine.retain_freed_memory()
    gc.collect()
    machine.reset_peak_memory()
    timer, end = _Timer(config, optimizer, machine), time.perf_counter() + seconds
    found = [timer.step(1)]  # memory is allocated, and kernels are built
    if timer.has_time(end):
        found = [timer.step(1)]
    n_timed, fixed_bytes, window_bytes = 1, machine.peak_memory(), 0.0
    if n_windows > 1 and timer.has_time(end):
        found, n_timed = [timer.step(2)], 2
        window_bytes = max(0.0, machine.peak_memory() - fixed_bytes)
        n_timed = max(2, min(n_windows, _fitting(window_bytes, machine), int(2 * LONGEST_STEP / sum(found[0]))))
        found = [timer.step(n_timed)]
        window_bytes = max(0.0, machine.peak_memory() - fixed_bytes) / (n_timed - 1)
    while timer.has_time(end):
        found.append(timer.step(n_timed))
    passes, updates = (_undisturbed(values) for values in zip(*found, strict=True))
    forward = _undisturbed([timer.forward(n_timed) for _ in range(4)]) if len(found) > 1 else passes / 3
    return StepCost(passes / n_timed, updates, forward / n_timed, window_bytes, fixed_bytes)


def _fitting(window_bytes: float, machine: Machine) -> int:
    """Return the windows that fit into the free memory."""
    return 2 + int(max(0, machine.available_memory() - RESERVED_BYTES) / max(window_bytes, 1.0))


def _undisturbed(seconds: Sequence[float]) -> float:
    """Return the lower quartile: other processes only ever add to a time."""
    return sorted(seconds)[len(seconds) // 4]


class _Timer:
    """A fresh model and its optimizer on random tokens."""

    def __init__(self, config: ModelConfig, optimizer: OptimizerParams, machine: Machine):
        generator = Generator().manual_seed(0)
        self.machine, self.config, self.n_steps = machine, config, 0
        self.gpt = GPT(config, generator).to(machine.device)
        self.loss = LanguageLoss(self.gpt, machine, compiled=False)
        self.optimizer = Optimizer(self.gpt, optimizer, machine.dtype, machine.device)
        self.ids = partial(torch.randint, 0, config.vocab_size, generator=generator)

    def step(self, n_windows: int) -> tuple[float, float]:
        """Return the seconds of the passes and of the update in one step."""
        ids = self.ids((n_windows, self.config.context_length + 1))
        keys = self.gpt.dropout_keys(0, self.n_steps)
        passes = self._timed(lambda: self.loss(ids[:, :-1], ids[:, 1:].contiguous(), keys).backward())
        update = self._timed(lambda: self.optimizer.step(self.n_steps, 1.0))
        self.n_steps += 1
        return passes, update

    def has_time(self, end: float) -> bool:
        """Return whether another step is taken: before `end`, and not after `MOST_STEPS`."""
        return time.perf_counter() < end and self.n_steps < MOST_STEPS

    @torch.no_grad()
    def forward(self, n_windows: int) -> float:
        """Return the seconds of a forward pass."""
        ids = self.ids((n_windows, self.config.context_length + 1))
        return self._timed(lambda: self.loss(ids[:, :-1], ids[:, 1:].contiguous()))

    def _timed(self, run: Callable[[], Tensor | float | None]) -> float:
        start = time.perf_counter()
        run()
        self.machine.synchronize()
        return time.perf_counter() - start
