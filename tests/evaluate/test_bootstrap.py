import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from llm.evaluate import bootstrap as intervals
from llm.evaluate.bootstrap import ratio_interval


def _drawn(seed=1):
    return np.random.default_rng(seed)


def _documents(n, seed=5):
    rng = np.random.default_rng(seed)
    n_bytes = rng.integers(100, 5000, size=n)
    return n_bytes * rng.gamma(4.0, 0.3, size=n), n_bytes


def test_two_documents_give_one_the_other_or_their_mean():
    # 1 bit for 1 byte and 3 for 1: resamples are 1 (a quarter of them), 2 (half) and 3, so 95% reach from 1 to 3.
    assert ratio_interval(np.array([1.0, 3.0]), np.array([1, 1]), _drawn()) == (1.0, 3.0)


def test_a_long_document_weighs_as_much_as_its_bytes():
    # With 999 bytes at 1 bit beside 1 byte at 1,001: of resamples with both, 2,000 bits of 1,000 bytes.
    interval = ratio_interval(np.array([999.0, 1001.0]), np.array([999, 1]), _drawn())
    assert interval == (1.0, 1001.0)


def test_it_is_what_scipys_bootstrap_gives():
    numerators, denominators = _documents(40)
    theirs = bootstrap(
        (numerators, denominators),
        lambda numerators, denominators, axis: numerators.sum(axis) / denominators.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=_drawn(2),
    ).confidence_interval
    ours = ratio_interval(numerators, denominators, _drawn())
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.05 * width)


def test_it_holds_the_truth_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(3), 0
    for _ in range(200):
        n_bytes = rng.integers(100, 5000, size=60)
        low, high = ratio_interval(n_bytes * rng.gamma(4.0, 0.3, size=60), n_bytes, rng)
        hits += low < 4.0 * 0.3 < high
    assert 0.89 < hits / 200 < 0.99


def test_four_times_the_documents_halve_it():
    widths = [high - low for low, high in (ratio_interval(*_documents(n), _drawn()) for n in (200, 800))]
    assert widths[1] / widths[0] == pytest.approx(0.5, abs=0.1)


@given(st.integers(2, 30), st.floats(0.1, 10))
def test_documents_that_are_all_alike_leave_no_doubt(n, ratio):
    n_bytes = np.arange(1, n + 1)
    assert ratio_interval(ratio * n_bytes, n_bytes, _drawn()) == pytest.approx((ratio, ratio))


@pytest.mark.parametrize("n", [0, 1])
def test_one_document_says_nothing_of_other_ones(n):
    assert ratio_interval(np.ones(n), np.ones(n), _drawn()) is None


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    first, again, other = (ratio_interval(*_documents(20), _drawn(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_many_documents_are_drawn_a_part_at_a_time(monkeypatch):
    whole = ratio_interval(*_documents(20), _drawn())
    monkeypatch.setattr(intervals, "MAX_DRAWS", 20 * 7)  # 2,000 is no multiple of 7
    assert ratio_interval(*_documents(20), _drawn()) == pytest.approx(whole, rel=0.02)
