"""The training loop on a small language model: its curve, what it keeps, stops, resumes and refuses."""

import re
import signal

import numpy as np
import pytest
import torch

from llm.core.errors import UserError
from llm.model.gpt import GPT, uniform_loss
from llm.tokens.windows import Windows
from llm.train.batches import WindowBatches
from llm.train.checkpoint import Checkpoint
from llm.train.language import LanguageLoss
from llm.train.loop import DIVERGENCE_MARGIN_NATS, DIVERGENCE_STEPS, TrainConfig, train
from llm.train.params import OptimizerParams, ScheduleParams

CONFIG = TrainConfig(
    n_steps=11,
    optimizer=OptimizerParams(kind="muon", muon_lr=0.02, adamw_lr=0.01, weight_decay=0.01, max_grad_norm=10.0),
    schedule=ScheduleParams(kind="wsd", warmup_steps=3, decay_fraction=0.5, final_lr_fraction=0.0),
    weight_averaging=None,
    ema_half_life_fraction=0.4,
    tail_fraction=0.4,
    eval_every_steps=3,
    early_stopping_patience=None,
    checkpoint_every_steps=2,
    checkpoint_selection="last",
    divergence_hint="something else",
    label="test",
)


def _change(**change):
    return CONFIG.model_copy(update=change)


class _Run:
    """A small language model, its batches, and a record of the calls of the loop."""

    def __init__(self, config, machine, seed=1):
        self.model = GPT(config, torch.Generator().manual_seed(seed))
        self.machine = machine
        self.loss = LanguageLoss(self.model, machine, compiled=False)
        stream = np.arange(200, dtype=np.uint16) ** 2 % config.vocab_size
        starts = np.arange(0, 180, 5, dtype=np.int64)
        n, length = len(starts), config.context_length
        windows = Windows(stream, starts, np.full(n, length, dtype=np.int32), np.ones(n, dtype=np.float32))
        self.batches = WindowBatches([windows], length, 3, pad=0, seed=1)
        self.losses, self.at_steps, self.at_evals = [], [], []

    def step_loss(self, step):
        assert self.model.training
        self.step = step
        self.at_steps.append(self.weights())
        loss = self.loss(*self.batches.at(step))
        self.losses.append(loss.item())
        return loss

    def val_loss(self):
        """Return a loss that is best at the first evaluation."""
        assert not self.model.training
        self.at_evals.append(self.weights())
        return self.loss(*self.batches.at(999)).item() + 100 * (self.step >= 3)

    def weights(self):
        return {name: weight.detach().clone() for name, weight in self.model.state_dict().items()}

    def train(self, config=CONFIG, checkpoint=None, step_loss=None, at=None, **functions):
        """Train; `at` maps a step to a function that runs before it."""

        def losses(step):
            if at and step in at:
                at[step]()
            return [(step_loss or self.step_loss)(step)]

        functions = {"step_losses": losses, "val_loss": self.val_loss} | functions
        return train(self.model, **functions, config=config, machine=self.machine, checkpoint=checkpoint)


def _kill():
    raise KeyboardInterrupt


@pytest.fixture
def start(config, plain_cpu):
    return lambda seed=1: _Run(config, plain_cpu, seed)


def _same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_model_learns(start):
    run = start()
    run.train(_change(n_steps=40))
    assert run.losses[-1] < run.losses[0] - 1


def test_the_curve_has_a_row_at_every_evaluation_and_the_end(start):
    run = start()
    rows = run.train().rows
    assert [row["step"] for row in rows] == [3, 6, 9, 11]
    assert [row["lr_factor"] for row in rows] == [1.0, 1.0, 0.54545, 0.18182]
    means = [np.mean(run.losses[a:b]) for a, b in ((0, 3), (3, 6), (6, 9), (9, 11))]
    assert [row["train_loss"] for row in rows] == pytest.approx(means, abs=1e-5)


@pytest.mark.parametrize(("selection", "final"), [("best", 1), ("last", 3)])
def test_the_final_weights_are_the_best_or_the_last(start, selection, final):
    run, losses = start(), iter([3.0, 1.0, 2.0, 1.5])
    curve = run.train(_change(checkpoint_selection=selection), val_loss=lambda: run.val_loss() and next(losses))
    assert _same(run.weights(), run.at_evals[final])
    assert curve.best()["step"] == 6
    unvalidated, last = start(), start()
    rows = unvalidated.train(_change(checkpoint_selection=selection), val_loss=None).rows
    assert all(row.keys() == {"step", "train_loss", "lr_factor"} for row in rows)
    last.train()
    assert _same(unvalidated.weights(), last.weights())


FROZEN = {"embedding.weight", "blocks.0.attention.query.weight", "norm.weight"}


@pytest.mark.parametrize(
    ("averaging", "selection", "kills", "frozen"),
    [
        (None, "last", [0], set()),
        (None, "best", [3, 4, 9], FROZEN),
        ("ema", "last", [6], set()),
        ("tail", "best", [10], set()),
        ("tail", "last", [9], FROZEN),
    ],
)
def test_a_killed_run_resumes_to_the_same_bytes(start, tmp_path, averaging, selection, kills, frozen):
    config = _change(checkpoint_selection=selection, weight_averaging=averaging)

    def begin(seed=1):
        run = start(seed)
        for name, weight in run.model.named_parameters():
            weight.requires_grad_(name not in frozen)
        return run

    whole = begin()
    before, expected = whole.weights(), whole.train(config)
    assert {name for name, weight in whole.weights().items() if torch.equal(weight, before[name])} == frozen
    for step in kills:
        run = begin()
        with pytest.raises(KeyboardInterrupt):
            run.train(config, Checkpoint(tmp_path), at={step: _kill})
    if frozen:
        state = Checkpoint(tmp_path).load()
        assert state["model"].keys() == before.keys() - frozen
    # Initial weights that are trained do not matter, unless there was nothing to resume.
    resumed = begin(seed=1 if frozen or kills == [0] else 99)
    curve = resumed.train(config, Checkpoint(tmp_path))
    assert curve.rows == expected.rows
    assert _same(resumed.weights(), whole.weights())
    assert resumed.losses == whole.losses[kills[-1] // 2 * 2 :]
    again = begin()
    assert again.train(config, Checkpoint(tmp_path)).rows == expected.rows
    assert again.losses == []
    assert _same(again.weights(), whole.weights())


def test_a_weight_with_a_learning_rate_of_zero_stays(start):
    run = start()
    before = run.weights()
    run.train(_change(lr_multipliers={"norm.weight": 0.0, "blocks.1.attention.value.weight": 0.0}))
    same = {name for name, weight in run.weights().items() if torch.equal(weight, before[name])}
    assert same == {"norm.weight", "blocks.1.attention.value.weight"}


def test_a_loss_that_is_not_finite_ends_the_run(start, tmp_path):
    run = start()
    with pytest.raises(UserError, match=r"^test: the loss is nan at step 5; try something else$"):
        run.train(checkpoint=Checkpoint(tmp_path), step_loss=lambda n: run.step_loss(n) * (np.nan if n == 5 else 1))
    assert _same(run.weights(), run.at_steps[5])
    assert Checkpoint(tmp_path).load()["step"] == 4
    with pytest.raises(UserError, match=r"^test: the validation loss is nan at step 3; try something else$"):
        start().train(val_loss=lambda: float("nan"))


def test_a_gradient_that_is_not_finite_ends_the_run(start):
    run = start()

    def step_loss(step):
        # The root has a value at zero, and no slope.
        weight = run.model.norm.weight
        return run.step_loss(step) + ((weight - weight.detach()).sum().sqrt() if step == 2 else 0)

    with pytest.raises(UserError, match=r"^test: the gradient's norm is (inf|nan) at step 2; try something else$"):
        run.train(step_loss=step_loss)
    assert _same(run.weights(), run.at_steps[2])


# Warm-up ends at step 3, and the first twenty steps after it at step 22.
LONG = _change(n_steps=30, uniform_loss=uniform_loss(97))


def test_a_loss_far_above_chance_ends_the_run(start, tmp_path):
    run, again = start(), start()
    with pytest.raises(KeyboardInterrupt):
        run.train(LONG, Checkpoint(tmp_path), at={15: _kill}, step_loss=lambda step: run.step_loss(step) + 4.0)
    with pytest.raises(UserError, match=r"average loss of 20 steps is \d\.\d\d \(chance: 4\.57\) at step 22; try"):
        again.train(LONG, Checkpoint(tmp_path), step_loss=lambda step: again.step_loss(step) + 4.0)
    assert _same(again.weights(), again.at_steps[-1])


@pytest.mark.parametrize(
    ("steps", "nats", "uniform"),
    [
        (range(3), 50.0, LONG.uniform_loss),  # in the warm-up
        (range(23, 24), DIVERGENCE_MARGIN_NATS * DIVERGENCE_STEPS, LONG.uniform_loss),  # one bad batch
        (range(99), 50.0, None),
    ],
)
def test_a_loss_that_is_bad_for_a_moment_is_no_divergence(start, steps, nats, uniform):
    run, config = start(), LONG.model_copy(update={"uniform_loss": uniform})
    run.train(config, step_loss=lambda step: run.step_loss(step) + nats * (step in steps))
    assert len(run.losses) == LONG.n_steps


def test_micro_batches_are_consumed_one_at_a_time(start):
    whole, split = start(), start()

    def parts(step):
        for share in (0.25, 0.75):
            # The part before has left its gradient, and the last step has freed that of its last part.
            assert (split.model.head.weight.grad is None) == (share == 0.25)
            yield split.step_loss(step) * share

    whole.train(val_loss=None)
    split.train(step_losses=parts, val_loss=None)
    assert len(split.losses) == 2 * CONFIG.n_steps
    torch.testing.assert_close(split.weights(), whole.weights(), atol=1e-4, rtol=1e-3)


def test_the_mean_is_validated_and_final_and_not_trained(start):
    plain, run, ema = start(), start(), start()
    plain.train()
    run.train(_change(weight_averaging="tail", tail_fraction=4 / 11))
    assert run.losses == plain.losses
    after = [*plain.at_steps[1:], plain.weights()]  # each of the eleven steps
    for name, weight in run.weights().items():
        torch.testing.assert_close(weight, torch.stack([step[name] for step in after[-4:]]).mean(dim=0))
    # Evaluations 3 and 6 come before the tail, evaluation 9 has two steps of it.
    assert _same(run.at_evals[1], after[5])
    torch.testing.assert_close(run.at_evals[2], {name: (after[7][name] + after[8][name]) / 2 for name in after[7]})
    assert _same(run.at_evals[3], run.weights())
    ema.train(_change(checkpoint_selection="best", weight_averaging="ema"))
    assert _same(ema.weights(), ema.at_evals[0])
    assert not _same(ema.at_evals[0], ema.at_steps[3])


def test_a_run_ends_when_the_validation_loss_stops_falling(start, tmp_path):
    config = _change(n_steps=30, checkpoint_selection="best", early_stopping_patience=2)
    losses = {2: 3.0, 5: 1.0, 8: 1.0, 11: 2.0}
    run, again = start(), start(seed=99)
    curve = run.train(config, Checkpoint(tmp_path), val_loss=lambda: run.val_loss() and losses[run.step])
    assert [row["step"] for row in curve.rows] == [3, 6, 9, 12]
    assert _same(run.weights(), run.at_evals[1])
    assert again.train(config, Checkpoint(tmp_path)).rows == curve.rows
    assert again.losses == []
    assert _same(again.weights(), run.weights())


def test_the_curve_file_grows_and_a_resumed_run_has_each_row_once(start, tmp_path, capsys):
    checkpoint, steps = Checkpoint(tmp_path), []

    def rows():
        lines = checkpoint.curve_path.read_text(encoding="utf-8").splitlines()
        return [int(line.split("\t")[0]) for line in lines[1:]]

    def step_loss(step):
        if step == 9 and len(steps) == 9:
            raise KeyboardInterrupt
        steps.append((step, rows()))
        return run.step_loss(step)

    run = start()
    with pytest.raises(KeyboardInterrupt):
        run.train(checkpoint=checkpoint, step_loss=step_loss)  # saved at step 8, a row at step 9
    run.train(checkpoint=checkpoint, step_loss=step_loss)
    assert steps[:9] == [(step, list(range(3, step + 1, 3))) for step in range(9)]
    assert steps[9:] == [(8, [3, 6]), (9, [3, 6, 9]), (10, [3, 6, 9])]
    assert rows() == [3, 6, 9, 11]
    assert f"test: learning curve in {checkpoint.curve_path}" in capsys.readouterr().err


def test_progress_shows_a_text_at_every_evaluation_loss_and_speed(start, capsys):
    run = start()

    def sample():
        assert not run.model.training
        return f"after\nstep {run.step}"

    run.train(_change(tokens_per_step=51, flops_per_step=1e6, peak_flops=1e12), sample=sample)
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    texts = [line for line in lines if " writes " in line]
    assert texts == [f"test: step {step} writes 'after\\nstep {step - 1}'" for step in (3, 6, 9, 11)]
    assert re.search(r"11/11.*loss \d\.\d{3}, [\d,]+ tokens/s, MFU \d+%", lines[-1])


@pytest.mark.parametrize(
    ("number", "error", "step", "has_checkpoint"),
    [
        (signal.SIGTERM, SystemExit, 0, True),
        (signal.SIGINT, KeyboardInterrupt, 10, True),
        (signal.SIGTERM, SystemExit, 4, False),
    ],
)
def test_a_stopped_run_saves_first_and_resumes(start, tmp_path, capsys, number, error, step, has_checkpoint):
    whole, run, again = start(), start(), start()
    checkpoint = Checkpoint(tmp_path) if has_checkpoint else None
    with pytest.raises(error):
        run.train(checkpoint=checkpoint, at={step: lambda: signal.raise_signal(number)})
    assert len(run.losses) == step + 1
    result = "checkpoint saved; run again to resume" if has_checkpoint else "no checkpoint"
    assert f"test: stopped at step {step + 1}, {result}" in capsys.readouterr().err
    if has_checkpoint:
        assert again.train(checkpoint=checkpoint).rows == whole.train().rows
        assert again.losses == whole.losses[step + 1 :]
        assert _same(again.weights(), whole.weights())
