import math

import pytest
from llm.train.schedules import lr_factor

from llm.train.params import ScheduleParams

KINDS = ["wsd", "cosine", "constant"]


def _rates(n_steps, kind="wsd", warmup_steps=0, decay_fraction=0.0, final_lr_fraction=0.0):
    shape = ScheduleParams(
        kind=kind, warmup_steps=warmup_steps, decay_fraction=decay_fraction, final_lr_fraction=final_lr_fraction
    )
    return [lr_factor(step, n_steps, shape) for step in range(n_steps)]


def test_the_rate_warms_up_stays_and_falls():
    assert _rates(10, warmup_steps=4, decay_fraction=0.4) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25]


def test_without_warm_up_or_decay_the_rate_stays_full():
    assert _rates(5) == [1] * 5


def test_a_decay_over_all_steps_falls_from_the_first():
    assert _rates(4, decay_fraction=1.0) == [1, 0.75, 0.5, 0.25]


def test_a_decay_ends_above_zero_where_it_is_told_to():
    assert _rates(4, decay_fraction=1.0, final_lr_fraction=0.2) == pytest.approx([1, 0.8, 0.6, 0.4])


def test_a_cosine_falls_from_the_warm_ups_end_along_half_a_wave():
    root = math.sqrt(0.5)
    falling = [1, (1 + root) / 2, 0.5, (1 - root) / 2]
    assert _rates(6, "cosine", warmup_steps=2) == pytest.approx([0.5, 1, *falling])
    tenth_left = [0.1 + 0.9 * rate for rate in falling]
    assert _rates(6, "cosine", warmup_steps=2, final_lr_fraction=0.1) == pytest.approx([0.5, 1, *tenth_left])


def test_a_constant_rate_stays_after_its_warm_up():
    assert _rates(5, "constant", warmup_steps=2, decay_fraction=0.5, final_lr_fraction=0.1) == [0.5, 1, 1, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_up_longer_than_the_run_never_arrives(kind):
    assert _rates(3, kind, warmup_steps=6) == pytest.approx([1 / 6, 2 / 6, 3 / 6])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_steps", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup_steps", [0, 1, 5, 200])
@pytest.mark.parametrize("decay_fraction", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("final_lr_fraction", [0.0, 0.3])
def test_every_step_has_a_rate_and_the_rate_rises_once_and_falls_once(
    kind, n_steps, warmup_steps, decay_fraction, final_lr_fraction
):
    rates = _rates(n_steps, kind, warmup_steps, decay_fraction, final_lr_fraction)
    assert all(0 < rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
