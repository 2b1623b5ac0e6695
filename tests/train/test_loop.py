from dataclasses import replace

import numpy as np
import pytest
import torch

from llm.errors import UserError
from llm.model.gpt import GPT
from llm.text.windows import Windows
from llm.train.batches import WindowBatches
from llm.train.checkpoint import RunState
from llm.train.language import LanguageLoss
from llm.train.loop import Curve, Plan, train
from llm.train.params import OptimizerParams, ScheduleParams

PLAN = Plan(
    n_steps=11,
    optimizer=OptimizerParams(matrix_rate=0.02, other_rate=0.01, weight_decay=0.01, clip_norm=10.0),
    schedule=ScheduleParams(warmup_steps=3, decay_share=0.5),
    eval_every_steps=3,
    checkpoint_every_steps=2,
    keep="last",
    label="test",
)


class _Run:
    """A small language model, what it learns from, and a record of what the loop asked for."""

    def __init__(self, config, machine, seed=1):
        self.model = GPT(config, torch.Generator().manual_seed(seed))
        self.machine = machine
        self.loss = LanguageLoss(self.model, machine, compiled=False)
        stream = np.arange(200, dtype=np.uint16) ** 2 % config.vocab_size
        starts = np.arange(0, 180, 5, dtype=np.int64)
        n, length = len(starts), config.context_length
        windows = Windows(stream, starts, np.full(n, length, dtype=np.int32), np.ones(n, dtype=np.float32))
        self.batches = WindowBatches([windows], length, 3, pad=0, seed=1)
        self.losses = []
        self.at_evals = []

    def step_loss(self, step):
        assert self.model.training
        self.step = step
        loss = self.loss(*self.batches.at(step))
        self.losses.append(loss.item())
        return loss

    def val_loss(self):
        assert not self.model.training
        self.at_evals.append(self.weights())
        return self.loss(*self.batches.at(999)).item()

    def val_loss_best_at_step_6(self):
        return self.val_loss() + 100 * (self.step >= 6)

    def weights(self):
        return {name: weight.detach().clone() for name, weight in self.model.state_dict().items()}

    def train(self, plan=PLAN, state=None, **change):
        asked = {"step_loss": self.step_loss, "val_loss": self.val_loss} | change
        return train(self.model, **asked, plan=plan, machine=self.machine, state=state)


@pytest.fixture
def start(config, plain_cpu):
    return lambda seed=1: _Run(config, plain_cpu, seed)


def _same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_model_learns(start):
    run = start()
    curve = run.train(replace(PLAN, n_steps=40))
    assert run.losses[-1] < run.losses[0] - 1
    assert curve.rows[-1]["val_loss"] < curve.rows[0]["val_loss"]


def test_there_is_a_row_at_every_evaluation_and_at_the_end(start):
    curve = start().train()
    assert [row["step"] for row in curve.rows] == [3, 6, 9, 11]
    assert [row["rate"] for row in curve.rows] == [1.0, 1.0, 0.54545, 0.18182]


def test_a_rows_training_loss_is_the_mean_since_the_row_before(start):
    run = start()
    curve = run.train()
    means = [np.mean(run.losses[a:b]) for a, b in ((0, 3), (3, 6), (6, 9), (9, 11))]
    assert [row["train_loss"] for row in curve.rows] == pytest.approx(means, abs=1e-5)


def test_without_validation_the_rows_tell_training_alone_and_the_last_weights_stay(start):
    runs = {keep: start() for keep in ("last", "best")}
    for keep, run in runs.items():
        curve = run.train(replace(PLAN, keep=keep), val_loss=None)
        assert all(row.keys() == {"step", "train_loss", "rate"} for row in curve.rows)
        assert curve.best() is curve.rows[-1]
    assert _same(runs["last"].weights(), runs["best"].weights())


@pytest.mark.parametrize(("keep", "kept"), [("best", 1), ("last", 3)])
def test_the_weights_that_stay_are_the_best_or_the_last(start, keep, kept):
    run = start()
    scripted = iter([3.0, 1.0, 2.0, 1.5])

    def val_loss():
        run.val_loss()
        return next(scripted)

    curve = run.train(replace(PLAN, keep=keep), val_loss=val_loss)
    assert _same(run.weights(), run.at_evals[kept])
    assert curve.best()["step"] == 6


def test_of_equally_good_rows_the_first_is_the_best():
    assert Curve([{"step": 1, "val_loss": 2.0}, {"step": 2, "val_loss": 2.0}]).best()["step"] == 1


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("stops", [[0], [1], [5], [6], [10], [3, 4, 9]], ids=str)
def test_an_interrupted_run_goes_on_to_the_same_bytes_and_curve(start, tmp_path, keep, stops):
    plan = replace(PLAN, keep=keep)
    whole = start()
    expected = whole.train(plan, val_loss=whole.val_loss_best_at_step_6)
    assert expected.best()["step"] == 6

    for place, stop in enumerate(stops):
        run = start(seed=place + 1)

        def step_loss(step, run=run, stop=stop):
            if step == stop:
                raise KeyboardInterrupt
            return run.step_loss(step)

        with pytest.raises(KeyboardInterrupt):
            run.train(plan, RunState(tmp_path), step_loss=step_loss, val_loss=run.val_loss_best_at_step_6)

    # What the resumed model began with must not matter, unless there was nothing to resume.
    resumed = start(seed=1 if stops in ([0], [1]) else 99)
    curve = resumed.train(plan, RunState(tmp_path), val_loss=resumed.val_loss_best_at_step_6)
    assert curve.rows == expected.rows
    assert _same(resumed.weights(), whole.weights())
    assert resumed.losses == whole.losses[-len(resumed.losses) :]
    assert len(resumed.losses) == PLAN.n_steps - stops[-1] // 2 * 2


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_run_that_was_through_when_it_was_stopped_learns_nothing_more(start, tmp_path, keep):
    plan = replace(PLAN, keep=keep)
    whole, again = start(), start(seed=99)
    expected = whole.train(plan, RunState(tmp_path), val_loss=whole.val_loss_best_at_step_6)
    curve = again.train(plan, RunState(tmp_path))
    assert curve.rows == expected.rows
    assert again.losses == []
    assert _same(again.weights(), whole.weights())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_and_names_the_step(start, tmp_path, bad):
    run = start()
    with pytest.raises(UserError, match=r"step 5.*0\.02 and 0\.01") as caught:
        run.train(
            state=RunState(tmp_path),
            step_loss=lambda step: run.step_loss(step) * (bad if step == 5 else 1),
        )
    assert "\n" not in str(caught.value)
    kept = RunState(tmp_path).load()
    assert kept["step"] == 4
    assert all(weight.isfinite().all() for weight in kept["model"].values())


def test_a_gradient_that_is_no_number_ends_the_run_and_names_the_step(start):
    run = start()

    def step_loss(step):
        # The root's value at zero is fine, its slope is not.
        weight = run.model.norm.weight
        return run.step_loss(step) + ((weight - weight.detach()).sum().sqrt() if step == 2 else 0)

    with pytest.raises(UserError, match="step 2"):
        run.train(step_loss=step_loss)
