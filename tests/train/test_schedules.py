import pytest

from llm.train.params import ScheduleParams
from llm.train.schedules import rate_factor


def _rates(n_steps, warmup_steps, decay_share):
    shape = ScheduleParams(warmup_steps=warmup_steps, decay_share=decay_share)
    return [rate_factor(step, n_steps, shape) for step in range(n_steps)]


def test_the_rate_warms_up_stays_and_falls():
    assert _rates(10, warmup_steps=4, decay_share=0.4) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25]


def test_without_warm_up_or_decay_the_rate_stays_full():
    assert _rates(5, warmup_steps=0, decay_share=0.0) == [1] * 5


def test_a_decay_over_all_steps_falls_from_the_first():
    assert _rates(4, warmup_steps=0, decay_share=1.0) == [1, 0.75, 0.5, 0.25]


def test_a_warm_up_longer_than_the_run_never_arrives():
    assert _rates(3, warmup_steps=6, decay_share=0.0) == pytest.approx([1 / 6, 2 / 6, 3 / 6])


@pytest.mark.parametrize("n_steps", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup_steps", [0, 1, 5, 200])
@pytest.mark.parametrize("decay_share", [0.0, 0.01, 0.5, 1.0])
def test_every_step_has_a_rate_and_the_rate_rises_once_and_falls_once(n_steps, warmup_steps, decay_share):
    rates = _rates(n_steps, warmup_steps, decay_share)
    assert all(0 < rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
