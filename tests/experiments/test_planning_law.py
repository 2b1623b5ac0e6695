"""The law behind a plan: it recovers what made the runs, and its interval grows with their scatter."""

import numpy as np
import pytest

from llm.experiments.planning_law import PlanningLaw, Predictor, Run, fit

LAW = PlanningLaw((float(np.log(0.8)), float(np.log(0.05)), float(np.log(0.4)), 0.3, 0.35, float(np.log(6.0))))
SCALES = {"prose": 1.4, "code": 0.9, "verse": 1.7}
UNIQUE = {"prose": 4e6, "code": 1e7, "verse": 3e5}


def make_run(text, parameters, tokens, noise=0.0):
    loss = SCALES[text] * float(LAW.relative_loss(parameters, tokens, UNIQUE[text]))
    return Run(text, parameters, tokens, UNIQUE[text], loss * float(np.exp(noise)))


def make_runs(scatter=0.0):
    rng = np.random.default_rng(1)
    shapes = [(parameters, tokens) for parameters in (4e5, 1.3e6, 3.2e6) for tokens in (5e5, 1e6, 2e6, 4e6)]
    return [make_run(text, *shape, scatter * rng.standard_normal()) for text in SCALES for shape in shapes]


def test_the_law_recovers_its_runs_and_predicts_others():
    predictor = Predictor(tuple(make_runs()))
    new = Run("", 4e5, 5e5, 1e6, 1.1 * float(LAW.relative_loss(4e5, 5e5, 1e6)))
    value, low, high = predictor.predict(new, 2e6, 8e6)
    assert value == pytest.approx(1.1 * float(LAW.relative_loss(2e6, 8e6, 1e6)), rel=0.01)
    assert low <= value <= high
    assert high / low < 1.03


def test_the_interval_grows_with_the_scatter_of_the_runs():
    pilot = make_run("prose", 4e5, 5e5)
    widths = []
    for scatter in (0.003, 0.03):
        _, low, high = Predictor(tuple(make_runs(scatter))).predict(pilot, 2e6, 8e6)
        widths.append(high / low - 1)
    assert widths[0] * 3 < widths[1]


def test_repeated_tokens_are_worth_less():
    law = fit(make_runs())
    once, twice = law.relative_loss(1e6, 4e6, 4e6), law.relative_loss(1e6, 4e6, 4e5)
    assert once < twice < law.relative_loss(1e6, 4e6, 1e5)


def test_the_table_of_runs_is_complete():
    predictor = Predictor.load()
    assert len({run.text for run in predictor.runs}) >= 3
    assert f"law of {len(predictor.runs)} runs on 3 texts" in predictor.describe()
    assert np.isfinite(predictor.errors).all()
