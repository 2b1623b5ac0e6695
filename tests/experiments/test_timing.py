"""The cost of a training step is measured with the real loss and optimizer, and within the time that it may take."""

import itertools

import pytest
import torch

from llm.core.device import Machine
from llm.experiments import timing
from llm.experiments.timing import StepCost, measure_step, state_bytes
from llm.model.gpt import GPT
from llm.train.optimizers import Optimizer
from llm.train.params import OptimizerParams


def optimizer(kind: str) -> OptimizerParams:
    return OptimizerParams(kind=kind, muon_lr=0.02, adamw_lr=0.01, weight_decay=0.1, max_grad_norm=1.0)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_state_bytes_are_those_of_a_trained_model(config, kind):
    gpt = GPT(config, torch.Generator().manual_seed(1))
    own = Optimizer(gpt, optimizer(kind), torch.float32, "cpu")
    gpt(torch.ones(1, 5, dtype=torch.long)).logsumexp(-1).sum().backward()
    own.step(0, 1.0)
    state = own.state_dict()
    averages = [of for group in state["adam"]["state"].values() for of in group.values() if of.ndim]
    tensors = [*gpt.parameters(), *gpt.parameters(), *state["momentum"], *averages]  # gradients are like weights
    assert state_bytes(config, optimizer(kind)) == 4 * sum(tensor.numel() for tensor in tensors)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_step_has_a_time_and_a_memory(config, plain_cpu, kind):
    cost = measure_step(config.model_copy(update={"dropout": 0.1}), optimizer(kind), 6, plain_cpu, seconds=0.1)
    assert 0 < cost.forward_seconds < 1 and 0 < cost.window_seconds < 1 and 0 < cost.update_seconds < 1
    assert 10e6 < cost.fixed_bytes < 10e9 and cost.window_bytes >= 0


def test_steps_and_memory_grow_with_the_windows():
    cost = StepCost(window_seconds=2.0, update_seconds=1.0, forward_seconds=0.5, window_bytes=10.0, fixed_bytes=100)
    assert [cost.seconds(n) for n in (1, 3)] == [3.0, 7.0]
    assert [cost.peak_bytes(n) for n in (1, 3)] == [100, 120]


@pytest.fixture
def timed(monkeypatch) -> list[int]:
    """The windows of each step that is taken."""
    found: list[int] = []
    step = timing._Timer.step
    monkeypatch.setattr(timing._Timer, "step", lambda self, n: found.append(n) or step(self, n))
    return found


CASES = [(0, 8, [1]), (9, 1, [1]), (9, 2, [1, 2]), (9, 5, [1, 2, 5])]


@pytest.mark.parametrize(("seconds", "n_windows", "sizes"), CASES)
def test_windows_are_added_while_time_allows(config, plain_cpu, timed, seconds, n_windows, sizes):
    measure_step(config, optimizer("adamw"), n_windows, plain_cpu, seconds)
    assert sorted(set(timed)) == sizes
    assert seconds or timed == [1]
    assert len(timed) <= timing.MOST_STEPS + 5


def test_windows_are_added_while_memory_allows(monkeypatch, config, plain_cpu, timed):
    peaks = itertools.count(10**6, 10**6)  # after one window, after two, at the end
    monkeypatch.setattr(Machine, "available_memory", lambda self: 0)
    monkeypatch.setattr(Machine, "peak_memory", lambda self: next(peaks))
    assert measure_step(config, optimizer("adamw"), 64, plain_cpu, 0.1).window_bytes == 2 * 10**6
    assert max(timed) == 2
