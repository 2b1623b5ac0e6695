"""Params of training: learning rates over the steps, and combinations that are refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.core import params
from llm.core.errors import UserError
from llm.train.params import PretrainParams, ScheduleParams

SHIPPED = params.read(Path(__file__).resolve().parents[2] / "params.yaml")["pretrain"]
KINDS = ["wsd", "cosine", "constant"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"micro_batch_size": 3}, "expected batch_size divisible by micro_batch_size, got 8 and 3"),
        ({"init": "random", "init_from": "data/given/base"}, "expected init null where init_from is a folder"),
        ({"early_stopping_patience": 2}, "expected checkpoint_selection best with early_stopping_patience, got last"),
        ({"micro_batch_size": 4}, None),
        ({"early_stopping_patience": 2, "checkpoint_selection": "best"}, None),
    ],
)
def test_params_that_exclude_each_other_are_refused(change, problem):
    if problem is None:
        params.check(PretrainParams, SHIPPED | change, "pretrain", "params.yaml")
    else:
        with pytest.raises(UserError, match=f"^params.yaml: pretrain: {problem}"):
            params.check(PretrainParams, SHIPPED | change, "pretrain", "params.yaml")


def _factors(n_steps, kind="wsd", warmup_steps=0, decay_fraction=0.0, final_lr_fraction=0.0):
    schedule = ScheduleParams(
        kind=kind, warmup_steps=warmup_steps, decay_fraction=decay_fraction, final_lr_fraction=final_lr_fraction
    )
    return [schedule.lr_factor(step, n_steps) for step in range(n_steps)]


HALF_WAVE = [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]


@pytest.mark.parametrize(
    ("expected", "kind", "schedule"),
    [
        ([0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25], "wsd", {"warmup_steps": 4, "decay_fraction": 0.4}),
        ([1, 1, 1, 1, 1], "wsd", {}),
        ([1, 0.75, 0.5, 0.25], "wsd", {"decay_fraction": 1.0}),
        ([1, 0.8, 0.6, 0.4], "wsd", {"decay_fraction": 1.0, "final_lr_fraction": 0.2}),
        ([0.5, 1, *HALF_WAVE], "cosine", {"warmup_steps": 2}),
        ([0.5, 1, *(0.1 + 0.9 * f for f in HALF_WAVE)], "cosine", {"warmup_steps": 2, "final_lr_fraction": 0.1}),
        ([0.5, 1, 1, 1, 1], "constant", {"warmup_steps": 2, "decay_fraction": 0.5, "final_lr_fraction": 0.1}),
        *(([1 / 6, 2 / 6, 3 / 6], kind, {"warmup_steps": 6}) for kind in KINDS),
    ],
)
def test_the_learning_rate_warms_up_and_decays(expected, kind, schedule):
    assert _factors(len(expected), kind, **schedule) == pytest.approx(expected)


@given(st.integers(1, 100), st.sampled_from(KINDS), st.integers(0, 200), st.floats(0, 1), st.floats(0, 1))
def test_the_learning_rate_is_never_zero_and_has_one_peak(n_steps, kind, warmup_steps, decay, final):
    factors = _factors(n_steps, kind, warmup_steps, decay, final)
    assert all(0 < factor <= 1 for factor in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
