"""Rates are tried, the best is taken, and a killed run ends where it would have ended."""

import pytest
import torch
from torch import nn

from llm.finetune.shared.adapters import apply_method, merge
from llm.finetune.shared.fit import fit
from llm.model.gpt import GPT, next_token_loss
from llm.train.checkpoint import RunState

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


@pytest.fixture
def training(make_task):
    """A maker of a training's params."""

    def make(rates, **changes):
        own = {"learning_rates": list(rates), "adamw_lr_ratio": 1.0, "n_evals": 12} | changes
        return make_task("classify", {f"training.{key}": value for key, value in own.items()}).training

    return make


@pytest.fixture
def fit_hill(training, plain_cpu):
    """Fit a hill: what came of it, how many models were made, and how many steps were done."""

    def run(scratch, rates=(0.001, 0.02), kill_at: int | None = None, **changes):
        made, steps = [], []

        def make() -> Hill:
            made.append(Hill())
            return made[-1]

        def step_loss(model: Hill, step: int) -> torch.Tensor:
            if len(steps) == kill_at:
                raise Killed
            steps.append(step)
            return model.train_loss(step)

        params = training(rates, **changes)
        fitted = fit(make, step_loss, Hill.val_loss, N_STEPS, params, plain_cpu, scratch, "hill")
        return fitted, len(made), len(steps)

    return run


def test_the_rate_with_the_lowest_loss_on_val_is_taken(tmp_path, fit_hill):
    fitted, _, _ = fit_hill(tmp_path, (0.0001, 0.02, 0.0003))
    assert fitted.tried.keys() == {"0.0001", "0.02", "0.0003"}
    assert fitted.tried[str(fitted.rate)] == min(fitted.tried.values())
    assert fitted.rate == 0.02


def test_every_run_starts_from_a_model_of_its_own_and_takes_its_share_of_steps(tmp_path, fit_hill):
    _, n_models, n_steps = fit_hill(tmp_path)
    assert n_models == 3
    assert n_steps == 2 * N_STEPS // 2 + N_STEPS


def test_a_single_rate_is_not_tried_first(tmp_path, fit_hill):
    fitted, n_models, n_steps = fit_hill(tmp_path, (0.02,))
    assert (fitted.rate, fitted.tried, n_models, n_steps) == (0.02, {}, 1, N_STEPS)


def test_the_weights_that_were_best_on_val_stay(tmp_path, fit_hill):
    fitted, _, _ = fit_hill(tmp_path)
    best = min(row["val_loss"] for row in fitted.curve.rows)
    assert fitted.model.val_loss() == pytest.approx(best, abs=1e-5)
    assert fitted.curve.rows[-1]["val_loss"] > 2 * best


# In the first search, at its end, in the second one, and in the run itself before and after it was first kept.
@pytest.mark.parametrize("kill_at", [30, 60, 115, 140, 190])
def test_resumed_equals_uninterrupted(tmp_path, fit_hill, kill_at):
    whole, _, n_steps = fit_hill(tmp_path / "whole")
    with pytest.raises(Killed):
        fit_hill(tmp_path / "killed", kill_at=kill_at)
    resumed, _, n_resumed = fit_hill(tmp_path / "killed")
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert (resumed.curve, resumed.tried, resumed.rate) == (whole.curve, whole.tried, whole.rate)
    if kill_at >= 50:
        assert n_resumed < n_steps - 49


def test_a_run_ends_where_val_gets_no_better(tmp_path, fit_hill):
    fitted, _, n_steps = fit_hill(tmp_path, (0.02,), early_stopping_patience=2)
    losses = [row["val_loss"] for row in fitted.curve.rows]
    assert losses.index(min(losses)) == len(losses) - 3
    assert n_steps == len(losses) * N_STEPS // 12 < N_STEPS


KINDS = ("full", "lora", "dora", "head", "last_k_blocks")
GPT_STEPS = 70  # the state is kept every 50
IDS = torch.randint(0, 320, (40, 9), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def fit_gpt(draw_gpt, make_task, training, plain_cpu):
    """Fit a language model by a method; it is killed at a step, perhaps."""

    def run(scratch, kind, kill_at=None, **changes):
        method = make_task("classify", {"method.kind": kind}).method

        def make() -> GPT:
            model = draw_gpt()
            apply_method(model, method, torch.Generator().manual_seed(3))
            return model

        def loss(model: GPT, rows: torch.Tensor) -> torch.Tensor:
            return next_token_loss(model(rows[:, :-1]), rows[:, 1:])

        def step_loss(model: GPT, step: int) -> torch.Tensor:
            if step == kill_at:
                raise Killed
            return loss(model, IDS[step % 8 * 4 : step % 8 * 4 + 4])

        def val_loss(model: GPT) -> float:
            with torch.no_grad():
                return loss(model, IDS[32:]).item()

        params = training([0.02], **({"n_evals": 4} | changes))
        return fit(make, step_loss, val_loss, GPT_STEPS, params, plain_cpu, scratch, "gpt"), val_loss

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_learn_stays_and_what_was_best_on_val_is_left_whole(tmp_path, fit_gpt, draw_gpt, kind):
    fitted, val_loss = fit_gpt(tmp_path, kind)
    before = dict(draw_gpt().named_parameters())
    for name, weight in fitted.model.named_parameters():
        assert name not in before or torch.equal(weight, before[name]) is not weight.requires_grad
    rows = fitted.curve.rows
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    best = fitted.curve.best()["val_loss"]
    assert val_loss(fitted.model) == pytest.approx(best, abs=1e-5)
    merge(fitted.model)
    assert val_loss(fitted.model) == pytest.approx(best, abs=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_of_every_method_ends_in_the_same_bytes(tmp_path, fit_gpt, kind):
    whole, _ = fit_gpt(tmp_path / "whole", kind)
    with pytest.raises(Killed):
        fit_gpt(tmp_path / "killed", kind, kill_at=60)
    resumed, _ = fit_gpt(tmp_path / "killed", kind)
    assert resumed.curve == whole.curve
    assert all(map(torch.equal, resumed.model.parameters(), whole.model.parameters()))


def test_what_is_kept_of_a_run_is_what_learns(tmp_path, fit_gpt, plain_cpu):
    fitted, _ = fit_gpt(tmp_path, "lora")
    kept = RunState(tmp_path / plain_cpu.key() / "gpt-").load()
    trained = {name for name, weight in fitted.model.named_parameters() if weight.requires_grad}
    assert kept["model"].keys() == kept["best"].keys() == trained
    assert kept["optimizer"]["adam"] == {}


def test_low_blocks_learn_less_where_the_rate_decays(tmp_path, fit_gpt, draw_gpt):
    before = dict(draw_gpt().named_parameters())

    def moved(folder, decay):
        fitted, _ = fit_gpt(tmp_path / folder, "full", layerwise_lr_decay=decay, early_stopping_patience=1)
        return {name: (weight - before[name]).norm().item() for name, weight in fitted.model.named_parameters()}

    alike, decayed = moved("alike", 1.0), moved("decayed", 0.01)
    low, top = "blocks.0.feed_forward.up.weight", "blocks.1.feed_forward.up.weight"
    assert 0.5 < alike[low] / alike[top] < 2
    assert 0.005 < decayed[low] / decayed[top] < 0.02
    assert decayed["embedding.weight"] < 0.01 * alike["embedding.weight"]
