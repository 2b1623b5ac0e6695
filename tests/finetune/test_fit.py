"""Rates are tried, the best is taken, and a killed run ends where it would have ended."""

import pytest
import torch
from torch import nn

from llm.finetune.fit import fit
from llm.finetune.params import TrainingParams

N_STEPS = 120


class Hill(nn.Module):
    """Two weights; the loss on train is least at 1, the one on val at 0.5, which is passed on the way."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def train_loss(self, step: int) -> torch.Tensor:
        noise = torch.sin(torch.tensor([step * 1.7, step * 2.3]))
        return (self.weight - 1 - 0.1 * noise).square().sum()

    def val_loss(self) -> float:
        return float((self.weight.detach() - 0.5).square().sum())


class Killed(Exception):  # noqa: N818 (it is what happens to a run, and no mistake)
    """The end of a run in its middle."""


def _training(rates: list[float]) -> TrainingParams:
    shape = {"epochs": 1.0, "batch_size": 1, "search_share": 0.5, "other_rate_ratio": 1.0, "weight_decay": 0.0}
    return TrainingParams(rates=rates, clip_norm=10.0, warmup_share=0.1, decay_share=0.5, evals=12, **shape)


def _fit(scratch, machine, rates=(0.001, 0.02), kill_at: int | None = None):
    """The fit, how many models were made, and how many steps were done."""
    made, steps = [], []

    def make() -> Hill:
        made.append(Hill())
        return made[-1]

    def step_loss(model: Hill, step: int) -> torch.Tensor:
        if len(steps) == kill_at:
            raise Killed
        steps.append(step)
        return model.train_loss(step)

    training = _training(list(rates))
    return fit(make, step_loss, Hill.val_loss, N_STEPS, training, machine, scratch, "hill"), len(made), len(steps)


def test_the_rate_with_the_lowest_loss_on_val_is_taken(tmp_path, plain_cpu):
    fitted, _, _ = _fit(tmp_path, plain_cpu, (0.0001, 0.02, 0.0003))
    assert fitted.tried.keys() == {"0.0001", "0.02", "0.0003"}
    assert fitted.tried[str(fitted.rate)] == min(fitted.tried.values())
    assert fitted.rate == 0.02


def test_every_run_starts_from_a_model_of_its_own_and_takes_its_share_of_steps(tmp_path, plain_cpu):
    _, n_models, n_steps = _fit(tmp_path, plain_cpu)
    assert n_models == 3
    assert n_steps == 2 * N_STEPS // 2 + N_STEPS


def test_a_single_rate_is_not_tried_first(tmp_path, plain_cpu):
    fitted, n_models, n_steps = _fit(tmp_path, plain_cpu, (0.02,))
    assert (fitted.rate, fitted.tried, n_models, n_steps) == (0.02, {}, 1, N_STEPS)


def test_the_weights_that_were_best_on_val_stay(tmp_path, plain_cpu):
    fitted, _, _ = _fit(tmp_path, plain_cpu)
    best = min(row["val_loss"] for row in fitted.curve.rows)
    assert fitted.model.val_loss() == pytest.approx(best, abs=1e-5)
    assert fitted.curve.rows[-1]["val_loss"] > 2 * best


# In the first search, at its end, in the second one, and in the run itself before and after it was first kept.
@pytest.mark.parametrize("kill_at", [30, 60, 115, 140, 190])
def test_resumed_equals_uninterrupted(tmp_path, plain_cpu, kill_at):
    whole, _, n_steps = _fit(tmp_path / "whole", plain_cpu)
    with pytest.raises(Killed):
        _fit(tmp_path / "killed", plain_cpu, kill_at=kill_at)
    resumed, _, n_resumed = _fit(tmp_path / "killed", plain_cpu)
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert (resumed.curve, resumed.tried, resumed.rate) == (whole.curve, whole.tried, whole.rate)
    if kill_at >= 50:
        assert n_resumed < n_steps - 49
