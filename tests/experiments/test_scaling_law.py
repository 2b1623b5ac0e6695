"""The law is found again in losses that one made; a prediction covers its outcome; the page says what is open."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.core.errors import UserError
from llm.experiments.scaling_law import (
    Law,
    Run,
    draw,
    fit_and_predict,
    fit_law,
    jackknife_error,
    linear_errors,
    refit,
    summarise,
    write_page,
)

LAW = Law(E=1.2, A=60.0, alpha=0.4, B=3000.0, beta=0.55)
SIZES, TOKENS = (50_000, 110_000, 200_000, 440_000, 790_000), (200_000, 400_000, 800_000)
TARGET = (1_800_000, 800_000)


def made(law: Law = LAW, noise: float = 0.0, seed: int = 1) -> list[Run]:
    """A run for each size and budget, its loss off the law by a drawn share."""
    rng = np.random.default_rng(seed)
    return [
        Run(f"{n}-{d}", n, d, law.loss(n, d) * float(np.exp(noise * rng.standard_normal())), d / 3e6)
        for n in SIZES
        for d in TOKENS
    ]


def test_a_hand_worked_loss():
    # 64^½ = 8 and 16/8 = 2; 27^⅓ = 3 and 3/3 = 1.
    assert Law(E=0.5, A=16, alpha=0.5, B=3, beta=1 / 3).loss(64, 27) == pytest.approx(3.5)


@settings(max_examples=5, deadline=None)
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
def test_constants_are_found_again_in_losses_without_noise(law):
    assert fit_law(made(law)) == pytest.approx(law, rel=0.02)


def test_the_constants_that_hoffmann_et_al_report_are_found_again():
    law = Law(E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28)
    runs = [Run("", n, d, law.loss(n, d), 0.1) for n in (10**7, 10**8, 10**9) for d in (10**9, 10**10, 10**11)]
    assert fit_law(runs) == pytest.approx(law, rel=1e-4)


def test_one_run_that_went_wrong_moves_the_prediction_little():
    runs = made()
    broken = [*runs[:4], Run("broken", runs[4].parameters, runs[4].tokens, 2 * runs[4].loss, 0.1), *runs[5:]]
    assert fit_law(broken).loss(*TARGET) == pytest.approx(LAW.loss(*TARGET), rel=0.01)


def test_refitting_the_same_runs_stays_where_it_was():
    runs = made(noise=0.003)
    law = fit_law(runs)
    assert refit(law, runs) == pytest.approx(law, rel=1e-3)


def test_the_order_of_the_runs_is_of_no_account():
    runs = made(noise=0.003)
    first, second = (fit_and_predict(given, *TARGET).prediction for given in (runs, runs[::-1]))
    assert first == pytest.approx(second, rel=1e-5)


def test_most_outcomes_lie_in_the_interval_and_it_is_no_wider_than_it_has_to_be():
    noise, within, widths = 0.003, 0, []
    for seed in range(12):
        predicted = fit_and_predict(made(noise=noise, seed=seed), *TARGET).prediction
        outcome = LAW.loss(*TARGET) * np.exp(noise * np.random.default_rng(1000 + seed).standard_normal())
        within += predicted.low <= outcome <= predicted.high
        widths.append(np.log(predicted.high / predicted.low))
    assert within >= 10
    # Twice 2.2 standard errors, of the outcome alone, is the least that an honest interval can be.
    assert 4.4 * noise < np.median(widths) < 4 * 4.4 * noise


def test_without_noise_nothing_is_open_and_the_interval_is_a_point():
    fit = fit_and_predict(made(), *TARGET)
    assert fit.open == []
    assert fit.prediction == pytest.approx((LAW.loss(*TARGET),) * 3, rel=1e-3)


def test_runs_whose_loss_ignores_the_size_leave_alpha_open():
    law = LAW._replace(A=1e-9)
    fit = fit_and_predict(made(law, noise=0.003), *TARGET)
    assert {"E", "alpha"} & set(fit.open)
    assert "do not determine" in write_page("tiny", made(law), fit, TARGET, None)


def test_a_pure_power_of_the_tokens_leaves_e_open():
    runs = [Run("", n, d, 40 * d**-0.1 * n**-0.02, 0.1) for n in SIZES for d in TOKENS]
    assert "E" in fit_and_predict(runs, *TARGET).open


@pytest.mark.parametrize(
    ("runs", "given"),
    [
        (made()[:6], "6, 2, 3"),
        ([run for run in made() if run.tokens != TOKENS[0]], "10, 5, 2"),
        ([run for run in made() if run.parameters < SIZES[2]], "6, 2, 3"),
        ([], "0, 0, 0"),
    ],
)
def test_too_few_runs_are_refused_in_one_line(runs, given):
    with pytest.raises(UserError) as refused:
        fit_and_predict(runs, *TARGET)
    wanted = "scaling: wanted at least 7 runs, 3 sizes, 3 budgets of tokens"
    assert str(refused.value) == f"{wanted}, given {given}"


def test_constants_that_do_the_same_work_have_a_large_linear_error_and_others_the_jackknifes():
    runs = made(noise=0.003)
    law = fit_law(runs)
    without = [refit(law, [*runs[:at], *runs[at + 1 :]]) for at in range(len(runs))]
    for name, error in linear_errors(law, runs).items():
        assert 0.4 < error / jackknife_error([getattr(other, name) for other in without]) < 2.5
    # With an exponent of zero the size's term is a part of E.
    assert linear_errors(law._replace(alpha=0.0, A=0.5, E=law.E), runs)["E"] > 100 * law.E


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(1).standard_normal(9)
    without = [np.delete(values, at).mean() for at in range(9)]
    assert jackknife_error(without) == pytest.approx(values.std(ddof=1) / 3)


@pytest.mark.parametrize(("factor", "where"), [(1.001, "within the interval"), (1.5, "outside of the interval")])
def test_the_page_holds_the_outcome_against_the_prediction(factor, where):
    runs = made(noise=0.003)
    fit = fit_and_predict(runs, *TARGET)
    outcome = Run("large", *TARGET, fit.prediction.value * factor, 0.3)
    page = write_page("tiny", runs, fit, TARGET, outcome)
    assert (
        f"it has **{outcome.loss:.3f}**: {outcome.loss - fit.prediction.value:+.3f} ({factor - 1:+.1%}), {where}"
        in page
    )
    assert page.count("\n| ") == 2 + len(runs)


def test_runs_over_an_epoch_are_marked_and_explained():
    runs = made(noise=0.003)
    fit = fit_and_predict(runs, *TARGET)
    assert "more than once" not in write_page("tiny", runs, fit, TARGET, None)
    again = [Run(run.name, run.parameters, run.tokens, run.loss, 2.0) for run in runs[:1]]
    page = write_page("tiny", [*again, *runs[1:]], fit, TARGET, None)
    assert len(re.findall(r"\| 2.00\\\* \|", page)) == 1
    assert "more than once" in page


def test_the_compute_rule_is_the_exponents():
    # β / (α + β) = 0.55 / 0.95
    page = write_page("tiny", made(), fit_and_predict(made(), *TARGET), TARGET, None)
    assert "C^0.58: ten times the compute want 3.8 times the parameters and 2.6 times the tokens" in page


def test_the_summary_is_plain_json():
    fit = fit_and_predict(made(), *TARGET)
    summary = json.loads(json.dumps(summarise("tiny", made(), fit, TARGET, made()[0]), allow_nan=False))
    assert summary["law"]["alpha"] == pytest.approx(0.4, rel=0.01)
    assert summary["prediction"]["parameters"] == TARGET[0]
    assert summary["outcome"]["loss"] == made()[0].loss
    assert summarise("tiny", made(), fit, TARGET, None)["outcome"] is None


def test_the_picture_is_the_same_bytes_and_knows_every_budget(tmp_path: Path):
    runs = made(noise=0.003)
    fit = fit_and_predict(runs, *TARGET)
    outcome = Run("large", *TARGET, fit.prediction.value, 0.3)
    for name in ("a.svg", "b.svg"):
        draw(runs, fit, TARGET, outcome, tmp_path / name)
    picture = (tmp_path / "a.svg").read_text()
    assert picture == (tmp_path / "b.svg").read_text()
    for label in ("0.2M tokens", "0.4M tokens", "0.8M tokens", "predicted", "trained"):
        assert f">{label}</text>" in picture
    assert ">over one epoch<" not in picture
    again = [Run("", run.parameters, run.tokens, run.loss, 1.2) for run in runs]
    draw(again, fit, TARGET, None, tmp_path / "again.svg")
    picture = (tmp_path / "again.svg").read_text()
    assert ">trained<" not in picture
    assert ">over one epoch<" in picture
