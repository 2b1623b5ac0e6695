"""The law behind a plan: it recovers what made the runs, and its interval grows with their scatter."""

import numpy as np
import pytest

from llm.experiments.planning_law import Pilots, PlanningLaw, Predictor, Run, fit

LAW = PlanningLaw((-2.0, 1.0, 0.05, 0.4, 2.5))
TEXTS = {"prose": (1.4, 0.15, 4e6), "code": (0.9, 0.25, 1e7), "verse": (1.7, 0.1, 3e5), "notes": (2.0, 0.1, 1.5e5)}
PILOTS = ((4e5, 2.5e5), (4e5, 1e6))  # parameters and tokens


def make_run(text, parameters, tokens, noise=0.0):
    """A run of a text with a level and an exponent of its own."""
    scale, exponent, unique_tokens = TEXTS[text]
    run = Run(parameters, tokens, unique_tokens, np.nan)
    terms, lost = LAW._terms(run)
    return run._replace(bits_per_byte=scale * float(np.exp(exponent * terms + lost + noise)))


def make_pilots(text):
    return Pilots(*(make_run(text, *shape) for shape in PILOTS))


def make_predictor(scatter=0.0):
    rng = np.random.default_rng(1)
    shapes = [(parameters, tokens) for parameters in (4e5, 1.3e6, 3.2e6) for tokens in (5e5, 2e6, 8e6)]
    made = [(text, make_run(text, *shape, scatter * rng.standard_normal())) for text in TEXTS for shape in shapes]
    columns = Run(*map(np.array, zip(*(run for _, run in made), strict=True)))
    pilots = [[make_pilots(text)[kind] for text, _ in made] for kind in range(2)]
    return Predictor(
        [text for text, _ in made], columns, Pilots(*(Run(*map(np.array, zip(*of, strict=True))) for of in pilots))
    )


def test_the_law_recovers_its_runs_and_predicts_others(monkeypatch):
    monkeypatch.setitem(TEXTS, "new", (1.1, 0.2, 1e6))
    value, low, high = make_predictor().predict(2e6, 6e6, make_pilots("new"))
    assert value == pytest.approx(make_run("new", 2e6, 6e6).bits_per_byte, rel=0.005)
    assert low <= value <= high
    assert high / low < 1.02


def test_the_interval_grows_with_the_scatter_of_the_runs():
    widths = []
    for scatter in (0.003, 0.03):
        _, low, high = make_predictor(scatter).predict(2e6, 8e6, make_pilots("prose"))
        widths.append(high / low - 1)
    assert widths[0] * 3 < widths[1]


def test_tokens_that_were_seen_are_worth_less_and_too_many_make_a_model_worse():
    predictor = make_predictor()
    law, pilots = fit(predictor.runs, predictor.pilots), make_pilots("prose")
    once, often, too_often = (
        float(law.predict(Run(1e6, tokens, unique_tokens, np.nan), pilots))
        for tokens, unique_tokens in ((4e6, 4e6), (4e6, 4e5), (4e7, 1e5))
    )
    assert once < often < too_often


def test_a_text_on_which_the_longer_pilot_run_is_worse_is_expected_to_gain_little():
    short, long = make_pilots("prose")
    pilots = Pilots(short, long._replace(bits_per_byte=1.02 * short.bits_per_byte))
    value, _, _ = make_predictor().predict(2e6, 3e6, pilots)
    assert 0.9 * long.bits_per_byte < value <= 1.02 * short.bits_per_byte


def test_the_table_of_runs_is_complete():
    predictor = Predictor.load()
    assert f"{len(predictor.texts)} runs on {len(set(predictor.texts))} other texts" in predictor.describe()
    assert np.isfinite(predictor.errors).all()
    assert np.sqrt((predictor.errors**2).mean()) < 0.06
