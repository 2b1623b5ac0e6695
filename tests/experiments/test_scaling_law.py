"""The law is recovered from synthetic losses, and an outcome lies in its prediction's interval."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.core.errors import UserError
from llm.experiments.scaling_law import Law, Run, analyze, fit_law, jackknife_error, linear_errors

LAW = Law(E=1.2, A=60.0, alpha=0.4, B=3000.0, beta=0.55)
SIZES, TOKENS = (50_000, 110_000, 200_000, 440_000, 790_000), (200_000, 400_000, 800_000)
TARGET = (1_800_000, 800_000)


def made(law: Law = LAW, noise: float = 0.0, seed: int = 1) -> list[Run]:
    """A run for each size and budget, with noise in the logarithm of its loss."""
    rng = np.random.default_rng(seed)
    return [
        Run(f"{n}-{d}", n, d, law.loss(n, d) * float(np.exp(noise * rng.standard_normal())), d / 3e6)
        for n in SIZES
        for d in TOKENS
    ]


@settings(max_examples=3, deadline=None)
@given(
    st.builds(
        Law,
        E=st.floats(0.8, 2.0),
        A=st.floats(50, 150),
        alpha=st.floats(0.3, 0.6),
        B=st.floats(2000, 5000),
        beta=st.floats(0.45, 0.65),
    )
)
def test_constants_are_recovered_without_noise(law):
    assert fit_law(made(law)) == pytest.approx(law, rel=0.02)


def test_an_outlier_moves_the_prediction_little():
    runs = made()
    broken = [*runs[:4], Run("broken", runs[4].parameters, runs[4].tokens, 2 * runs[4].loss, 0.1), *runs[5:]]
    assert fit_law(broken).loss(*TARGET) == pytest.approx(LAW.loss(*TARGET), rel=0.01)


def test_refitting_the_same_runs_changes_nothing():
    runs = made(noise=0.003)
    law = fit_law(runs)
    assert fit_law(runs, near=law) == pytest.approx(law, rel=1e-3)
    first, second = (analyze(given, *TARGET)["prediction"] for given in (runs, runs[::-1]))
    assert first == pytest.approx(second, rel=1e-5)


def test_most_outcomes_lie_in_intervals_that_are_not_too_wide():
    noise, within, widths = 0.003, 0, []
    for seed in range(8):
        predicted = analyze(made(noise=noise, seed=seed), *TARGET)["prediction"]
        outcome = LAW.loss(*TARGET) * np.exp(noise * np.random.default_rng(1000 + seed).standard_normal())
        within += predicted["low"] <= outcome <= predicted["high"]
        widths.append(np.log(predicted["high"] / predicted["low"]))
    assert within >= 7
    # Twice 2.2 standard errors of the outcome alone is the narrowest honest interval.
    assert 4.4 * noise < np.median(widths) < 4 * 4.4 * noise


def test_without_noise_the_interval_is_a_point():
    found = json.loads(json.dumps(analyze(made(), *TARGET), allow_nan=False))
    assert found["undetermined"] == []
    assert found["law"] == pytest.approx(LAW._asdict(), rel=0.02)
    assert found["runs"][0]["law"] == pytest.approx(made()[0].loss, rel=1e-3)
    loss = LAW.loss(*TARGET)
    expected = {"parameters": TARGET[0], "tokens": TARGET[1], "value": loss, "low": loss, "high": loss}
    assert found["prediction"] == pytest.approx(expected, rel=1e-3)


def test_constants_that_the_runs_do_not_determine_are_named():
    without_size = made(LAW._replace(A=1e-9), noise=0.003)
    assert {"E", "alpha"} & set(analyze(without_size, *TARGET)["undetermined"])


@pytest.mark.parametrize(
    ("runs", "found"),
    [
        (made()[:6], "6, 2, 3"),
        ([run for run in made() if run.tokens != TOKENS[0]], "10, 5, 2"),
        ([run for run in made() if run.parameters < SIZES[2]], "6, 2, 3"),
    ],
)
def test_too_few_runs_are_refused(runs, found):
    with pytest.raises(UserError, match=rf"^scaling: expected at least 7 runs, 3 sizes, 3 token budgets, got {found}$"):
        analyze(runs, *TARGET)


def test_linear_errors_are_large_where_constants_trade_off():
    runs = made(noise=0.003)
    law = fit_law(runs)
    without = [fit_law([*runs[:at], *runs[at + 1 :]], near=law) for at in range(len(runs))]
    for name, error in linear_errors(law, runs).items():
        assert 0.4 < error / jackknife_error([getattr(other, name) for other in without]) < 2.5
    # With an exponent of zero the size term is a part of E.
    assert linear_errors(law._replace(alpha=0.0, A=0.5, E=law.E), runs)["E"] > 100 * law.E
