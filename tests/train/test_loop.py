import re
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from llm.core.errors import UserError
from llm.model.gpt import GPT, uniform_loss
from llm.tokens.windows import Windows
from llm.train.batches import WindowBatches
from llm.train.checkpoint import Checkpoint
from llm.train.language import LanguageLoss
from llm.train.loop import DIVERGENCE_MARGIN_NATS, LOST_STEPS, TrainConfig, train
from llm.train.params import OptimizerParams, ScheduleParams

PLAN = TrainConfig(
    n_steps=11,
    optimizer=OptimizerParams(kind="muon", muon_lr=0.02, adamw_lr=0.01, weight_decay=0.01, max_grad_norm=10.0),
    schedule=ScheduleParams(kind="wsd", warmup_steps=3, decay_fraction=0.5, final_lr_fraction=0.0),
    eval_every_steps=3,
    checkpoint_every_steps=2,
    checkpoint_selection="last",
    divergence_hint="something else",
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
        self.at_steps = []
        self.at_evals = []

    def step_loss(self, step):
        assert self.model.training
        self.step = step
        self.at_steps.append(self.weights())
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

    def train(self, plan=PLAN, state=None, step_loss=None, **change):
        asked = {"step_losses": lambda step: [(step_loss or self.step_loss)(step)], "val_loss": self.val_loss} | change
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
    assert [row["lr_factor"] for row in curve.rows] == [1.0, 1.0, 0.54545, 0.18182]


def test_a_rows_training_loss_is_the_mean_since_the_row_before(start):
    run = start()
    curve = run.train()
    means = [np.mean(run.losses[a:b]) for a, b in ((0, 3), (3, 6), (6, 9), (9, 11))]
    assert [row["train_loss"] for row in curve.rows] == pytest.approx(means, abs=1e-5)


def test_without_validation_the_rows_tell_training_alone_and_the_last_weights_stay(start):
    runs = {keep: start() for keep in ("last", "best")}
    for keep, run in runs.items():
        curve = run.train(replace(PLAN, checkpoint_selection=keep), val_loss=None)
        assert all(row.keys() == {"step", "train_loss", "lr_factor"} for row in curve.rows)
        assert curve.best() is curve.rows[-1]
    assert _same(runs["last"].weights(), runs["best"].weights())


@pytest.mark.parametrize(("keep", "kept"), [("best", 1), ("last", 3)])
def test_the_weights_that_stay_are_the_best_or_the_last(start, keep, kept):
    run = start()
    scripted = iter([3.0, 1.0, 2.0, 1.5])

    def val_loss():
        run.val_loss()
        return next(scripted)

    curve = run.train(replace(PLAN, checkpoint_selection=keep), val_loss=val_loss)
    assert _same(run.weights(), run.at_evals[kept])
    assert curve.best()["step"] == 6


@pytest.mark.parametrize("average", [None, "ema", "tail"])
@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("stops", [[0], [1], [5], [6], [10], [3, 4, 9]], ids=str)
def test_an_interrupted_run_goes_on_to_the_same_bytes_and_curve(start, tmp_path, average, keep, stops):
    plan = replace(
        PLAN, checkpoint_selection=keep, weight_averaging=average, ema_half_life_fraction=0.4, tail_fraction=0.4
    )
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
            run.train(plan, Checkpoint(tmp_path), step_loss=step_loss, val_loss=run.val_loss_best_at_step_6)

    # What the resumed model began with must not matter, unless there was nothing to resume.
    resumed = start(seed=1 if stops in ([0], [1]) else 99)
    curve = resumed.train(plan, Checkpoint(tmp_path), val_loss=resumed.val_loss_best_at_step_6)
    assert curve.rows == expected.rows
    assert _same(resumed.weights(), whole.weights())
    assert resumed.losses == whole.losses[-len(resumed.losses) :]
    assert len(resumed.losses) == PLAN.n_steps - stops[-1] // 2 * 2


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_run_that_was_through_when_it_was_stopped_learns_nothing_more(start, tmp_path, keep):
    plan = replace(PLAN, checkpoint_selection=keep)
    whole, again = start(), start(seed=99)
    expected = whole.train(plan, Checkpoint(tmp_path), val_loss=whole.val_loss_best_at_step_6)
    curve = again.train(plan, Checkpoint(tmp_path))
    assert curve.rows == expected.rows
    assert again.losses == []
    assert _same(again.weights(), whole.weights())


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("average", [None, "tail"])
def test_what_requires_no_gradient_stays_and_is_not_kept_and_a_resumed_run_has_it_from_its_model(
    start, tmp_path, keep, average
):
    plan = replace(
        PLAN, checkpoint_selection=keep, weight_averaging=average, ema_half_life_fraction=0.5, tail_fraction=0.5
    )
    frozen = {"embedding.weight", "blocks.0.attention.query.weight", "norm.weight"}
    whole, run, resumed = start(), start(), start()
    for each in (whole, run, resumed):
        for name, weight in each.model.named_parameters():
            weight.requires_grad_(name not in frozen)
    before = whole.weights()
    expected = whole.train(plan, val_loss=whole.val_loss_best_at_step_6)
    assert {name for name, weight in whole.weights().items() if torch.equal(weight, before[name])} == frozen

    def step_loss(step):
        if step == 9:
            raise KeyboardInterrupt
        return run.step_loss(step)

    with pytest.raises(KeyboardInterrupt):
        run.train(plan, Checkpoint(tmp_path), step_loss=step_loss, val_loss=run.val_loss_best_at_step_6)
    kept = Checkpoint(tmp_path).load()
    assert kept["model"].keys() == before.keys() - frozen
    assert keep == "last" or kept["best"].keys() == before.keys() - frozen
    curve = resumed.train(plan, Checkpoint(tmp_path), val_loss=resumed.val_loss_best_at_step_6)
    assert curve.rows == expected.rows
    assert _same(resumed.weights(), whole.weights())


def test_a_weight_without_its_rate_stays(start):
    run = start()
    before = run.weights()
    run.train(replace(PLAN, lr_multipliers={"norm.weight": 0.0, "blocks.1.attention.value.weight": 0.0}))
    same = {name for name, weight in run.weights().items() if torch.equal(weight, before[name])}
    assert same == {"norm.weight", "blocks.1.attention.value.weight"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_and_names_the_step(start, tmp_path, bad):
    run = start()
    with pytest.raises(UserError, match=rf"^test: the loss is {bad} at step 5; try something else$"):
        run.train(
            state=Checkpoint(tmp_path),
            step_loss=lambda step: run.step_loss(step) * (bad if step == 5 else 1),
        )
    assert _same(run.weights(), run.at_steps[5])
    kept = Checkpoint(tmp_path).load()
    assert kept["done"] == 4
    assert all(weight.isfinite().all() for weight in kept["model"].values())


def test_a_gradient_that_is_no_number_ends_the_run_and_names_the_step(start):
    run = start()

    def step_loss(step):
        # The root's value at zero is fine, its slope is not.
        weight = run.model.norm.weight
        return run.step_loss(step) + ((weight - weight.detach()).sum().sqrt() if step == 2 else 0)

    with pytest.raises(UserError, match=r"^test: the gradient's norm is (inf|nan) at step 2; try something else$"):
        run.train(step_loss=step_loss)
    assert _same(run.weights(), run.at_steps[2])


def test_a_validation_loss_that_is_no_number_ends_the_run(start):
    with pytest.raises(UserError, match=r"^test: the validation loss is nan at step 3; try something else$"):
        start().train(val_loss=lambda: float("nan"))


# Warm-up is over at step 3, and the first twenty steps after it at step 22.
LONG = replace(PLAN, n_steps=30, uniform_loss=uniform_loss(97))


def _worse(run, from_step, to_step, nats):
    return lambda step: run.step_loss(step) + (nats if from_step <= step < to_step else 0.0)


@pytest.mark.parametrize("stop", [None, 15])
def test_a_loss_well_over_that_of_guessing_ends_the_run_after_the_warm_up(start, tmp_path, stop):
    if stop is not None:
        run = start()

        def killed(step):
            if step == stop:
                raise KeyboardInterrupt
            return run.step_loss(step) + 4.0

        with pytest.raises(KeyboardInterrupt):
            run.train(LONG, Checkpoint(tmp_path), step_loss=killed)
    again = start()
    with pytest.raises(UserError, match=r"on average over 20 steps at step 22, where chance has 4\.57; try"):
        again.train(LONG, Checkpoint(tmp_path), step_loss=_worse(again, 0, 99, 4.0))
    assert _same(again.weights(), again.at_steps[-1])


@pytest.mark.parametrize(
    ("from_step", "to_step", "nats"),
    [(0, 99, 0.0), (0, 3, 50.0), (23, 24, DIVERGENCE_MARGIN_NATS * LOST_STEPS)],
    ids=["none", "in_warm_up", "one_bad_batch"],
)
def test_a_loss_that_is_bad_for_a_moment_does_not_end_the_run(start, from_step, to_step, nats):
    run = start()
    run.train(LONG, step_loss=_worse(run, from_step, to_step, nats))
    assert len(run.losses) == LONG.n_steps


def test_where_guessing_has_no_known_loss_a_bad_one_does_not_end_the_run(start):
    run = start()
    run.train(replace(LONG, uniform_loss=None), step_loss=_worse(run, 0, 99, 50.0))
    assert len(run.losses) == LONG.n_steps


def test_a_loss_in_parts_is_their_sum_and_one_part_is_there_at_a_time(start):
    whole, split = start(), start()
    asked = []

    def in_parts(step):
        for share in (0.25, 0.75):
            # The part before has left its gradient, and the step before has taken the one before that.
            assert (split.model.head.weight.grad is None) == (share == 0.25)
            asked.append(step)
            yield split.step_loss(step) * share

    expected = whole.train(val_loss=None)
    curve = split.train(step_losses=in_parts, val_loss=None)
    assert asked == [step for step in range(PLAN.n_steps) for _ in range(2)]
    torch.testing.assert_close(split.weights(), whole.weights(), atol=1e-4, rtol=1e-3)
    for row, other in zip(curve.rows, expected.rows, strict=True):
        assert row == pytest.approx(other, abs=1e-3)


def test_a_tail_of_weights_is_validated_and_stays_and_training_does_not_see_it(start):
    plain, run = start(), start()
    plain.train()
    run.train(replace(PLAN, weight_averaging="tail", tail_fraction=4 / 11))
    assert run.losses == plain.losses
    after = [*plain.at_steps[1:], plain.weights()]  # each of the eleven steps
    for name, weight in run.weights().items():
        torch.testing.assert_close(weight, torch.stack([step[name] for step in after[-4:]]).mean(dim=0))
    # The evaluations after steps 3 and 6 come before the tail, the one after step 9 has two steps of it.
    assert _same(run.at_evals[1], after[5])
    torch.testing.assert_close(run.at_evals[2], {name: (after[7][name] + after[8][name]) / 2 for name in after[7]})
    assert _same(run.at_evals[3], run.weights())


def test_the_best_mean_of_weights_stays_where_the_best_is_to_be_kept(start):
    run = start()
    run.train(
        replace(PLAN, checkpoint_selection="best", weight_averaging="ema", ema_half_life_fraction=0.2),
        val_loss=run.val_loss_best_at_step_6,
    )
    assert _same(run.weights(), run.at_evals[1])
    assert not _same(run.at_evals[1], run.at_steps[6])


def test_a_run_ends_when_the_validation_loss_gets_no_better(start, tmp_path):
    plan = replace(PLAN, n_steps=30, checkpoint_selection="best", early_stopping_patience=2)

    def train_on(run, state):
        def val_loss():
            run.val_loss()
            return {2: 3.0, 5: 1.0, 8: 1.0, 11: 2.0}[run.step]

        return run.train(plan, state, val_loss=val_loss)

    run = start()
    curve = train_on(run, Checkpoint(tmp_path))
    assert [row["step"] for row in curve.rows] == [3, 6, 9, 12]
    assert _same(run.weights(), run.at_evals[1])
    again = start(seed=99)
    assert train_on(again, Checkpoint(tmp_path)).rows == curve.rows
    assert again.losses == []
    assert _same(again.weights(), run.weights())


def test_the_curve_grows_in_a_file_and_a_resumed_run_has_each_row_once(start, tmp_path, capsys):
    state = Checkpoint(tmp_path)
    steps = []

    def look(run, stop):
        def step_loss(step):
            if step == stop:
                raise KeyboardInterrupt
            lines = state.curve_path.read_text(encoding="utf-8").splitlines()
            steps.append((step, [int(line.split("\t")[0]) for line in lines[1:]]))
            return run.step_loss(step)

        return step_loss

    run, again = start(), start()
    with pytest.raises(KeyboardInterrupt):
        run.train(state=state, step_loss=look(run, 9))  # kept at step 8, a row at step 9
    again.train(state=state, step_loss=look(again, None))
    assert steps[:9] == [(step, list(range(3, step + 1, 3))) for step in range(9)]
    assert steps[9:] == [(8, [3, 6]), (9, [3, 6, 9]), (10, [3, 6, 9])]
    assert state.curve_path.read_text(encoding="utf-8").splitlines()[-1].startswith("11\t")
    assert f"test: the curve grows in {state.curve_path}" in capsys.readouterr().err


def test_a_text_is_shown_at_every_evaluation(start, capsys):
    run = start()

    def sample():
        assert not run.model.training
        return f"after\nstep {run.step}"

    run.train(sample=sample)
    shown = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if " writes " in line]
    assert shown == [f"test: step {step} writes 'after\\nstep {step - 1}'" for step in (3, 6, 9, 11)]


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("at", [0, 4, 10])
def test_a_run_that_is_asked_to_stop_is_kept_first_and_goes_on_to_the_same_bytes(
    start, tmp_path, capsys, number, error, at
):
    whole, run, again = start(), start(), start()
    expected = whole.train()

    def step_loss(step):
        if step == at:
            signal.raise_signal(number)
        return run.step_loss(step)

    with pytest.raises(error):
        run.train(state=Checkpoint(tmp_path), step_loss=step_loss)
    assert len(run.losses) == at + 1
    assert f"test: stopped at step {at + 1}, kept; run again to go on" in capsys.readouterr().err
    assert again.train(state=Checkpoint(tmp_path)).rows == expected.rows
    assert again.losses == whole.losses[at + 1 :]
    assert _same(again.weights(), whole.weights())


def test_a_run_without_a_state_says_that_it_was_not_kept(start, capsys):
    run = start()

    def step_loss(step):
        signal.raise_signal(signal.SIGINT)
        return run.step_loss(step)

    with pytest.raises(KeyboardInterrupt):
        run.train(step_loss=step_loss)
    assert "test: stopped at step 1, not kept" in capsys.readouterr().err


def test_the_bar_tells_loss_speed_and_the_share_of_the_machines_peak(start, capsys):
    start().train(replace(PLAN, tokens_per_step=51, flops_per_step=1e6, peak_flops=1e12))
    last = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert "11/11" in last
    assert re.search(r"loss \d\.\d{3}, [\d,]+ tokens/s, MFU \d+%", last)
