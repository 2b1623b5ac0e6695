import math

import numpy as np
import pytest
import torch

from llm.evaluate.breakdown import WORSE, Baselines
from llm.evaluate.measure import measure, summarise_systems

VOCAB, CONTEXT = 320, 17
DOCUMENTS = {"code/a.py": [11, 12, 13, 14] * 9, "prose/b": [21, 22] * 4, "code/c.py": [31, 32, 33] * 5}


@pytest.fixture
def run(hold_out, plain_cpu, evaluate_params):
    """Measures a model on three documents, of which train has the last."""

    def run(model, baselines=Baselines({}, {}), **changes):  # noqa: B008 (not changed)
        text = hold_out(DOCUMENTS, found=(31, 32, 33))
        return measure(model, text, evaluate_params(**changes), plain_cpu, baselines, seed=1)

    return run


@pytest.fixture
def uniform(draw_gpt):
    """A model that predicts every token with the same probability."""
    model = draw_gpt(context_length=CONTEXT, tie_embeddings=False)
    torch.nn.init.zeros_(model.head.weight)
    return model


def test_the_figures_of_a_uniform_model_by_hand(run, uniform):
    figures = run(uniform)
    # Each token and each end costs log2 320 bits; 62 targets, 59 of them with two bytes.
    bits, nats = math.log2(VOCAB), round(math.log(VOCAB), 5)
    model = figures["model"]
    assert (figures["documents"], figures["bytes"], model["tokens"]) == (3, 118, 62)
    assert model["bits_per_byte"] == pytest.approx(bits * 62 / 118, abs=1e-5)
    assert model["nats_per_token"] == nats
    assert model["perplexity"] == pytest.approx(VOCAB, rel=1e-5)
    # A shorter document has more of its cost in its end: 9 targets for 16 bytes, 16 for 30, 37 for 72.
    assert model["bits_per_byte_high"] == pytest.approx(bits * 9 / 16, abs=1e-5)
    assert model["bits_per_byte_low"] == pytest.approx(bits * 37 / 72, abs=1e-5)
    # The first of the equal ones is the end of text: right three times, with a probability of 1/320.
    assert model["accuracy"] == round(3 / 62, 5)
    assert model["calibration_error"] == pytest.approx(3 / 62 - 1 / VOCAB, abs=1e-5)
    code, prose = figures["sources"]
    assert code["bits_per_byte"] == pytest.approx(bits * 53 / 102, abs=1e-5)
    assert prose["bits_per_byte"] == pytest.approx(bits * 9 / 16, abs=1e-5)
    assert {row["nats_per_token"] for row in figures["positions"]} == {nats}
    assert all(row["more"] == pytest.approx(0, abs=1e-5) for row in figures["context"])
    found, other = (figures["contamination"][name] for name in ("found", "not_found"))
    assert (found["tokens"], found["bytes"], other["tokens"], other["bytes"]) == (15, 30, 47, 88)
    assert found["bits_per_byte"] == pytest.approx(bits / 2, abs=1e-5)
    # 63 tokens: windows of 17 that score 17, 11, 11, 11, 11 and 1 target; found are tokens 47 to 61.
    assert figures["contamination"]["window_fraction"] == round(2 / 6, 5)
    assert [row["document"] for row in figures["easiest"]] == ["code/a.py"]


def test_baselines_are_compared_and_change_no_other_figure(run, uniform):
    # The model needs as many bits for each of 37, 9 and 16 tokens; a bit more than that, and two bits less.
    n_tokens = np.array([37, 9, 16])
    theirs = {"worse": n_tokens * (math.log2(VOCAB) + 1), "better": n_tokens * (math.log2(VOCAB) - 2)}
    totals = {name: round(own.sum() / 118, 5) for name, own in theirs.items()}
    figures, without = run(uniform, Baselines(totals | {"none": 99.0}, theirs)), run(uniform)
    better, worse, none = figures["baselines"]
    assert better["difference"] == pytest.approx(124 / 118, abs=2e-5)
    assert worse["difference_low"] == pytest.approx(-9 / 16, abs=1e-4)
    assert worse["difference_high"] == pytest.approx(-37 / 72, abs=1e-4)
    assert "difference_low" not in none
    assert (figures["model"]["best_baseline"], figures["model"]["verdict"]) == ("better", WORSE)
    assert without["model"].items() <= figures["model"].items()
    assert [without[part] for part in ("sources", "context")] == [figures[part] for part in ("sources", "context")]


@pytest.mark.parametrize("stride", [5, 17])
def test_parts_add_up_and_no_figure_depends_on_the_batch_size(run, draw_gpt, stride):
    model = draw_gpt(context_length=CONTEXT)
    alone, *together = (run(model, stride=stride, batch_size=batch_size) for batch_size in (1, 2, 100))
    assert all(_flat(figures) == pytest.approx(_flat(alone), abs=2e-4) for figures in together)
    nats = alone["model"]["nats_per_token"] * 62
    assert sum(row["bits_per_byte"] * row["bytes"] for row in alone["sources"]) * math.log(2) == pytest.approx(
        nats, rel=1e-4
    )
    parts = [alone["contamination"][name] for name in ("found", "not_found")]
    assert sum(row["nats_per_token"] * row["tokens"] for row in parts) == pytest.approx(nats, rel=1e-4)
    assert sum(row["count"] for row in alone["calibration"]) == 62
    right = sum(row["accuracy"] * row["count"] for row in alone["calibration"])
    assert right / 62 == pytest.approx(alone["model"]["accuracy"], abs=1e-4)


def _flat(value, name=""):
    """Every number in nested figures, by its path."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {way: leaf for key, part in parts for way, leaf in _flat(part, f"{name}.{key}").items()}
    return {name: value} if isinstance(value, int | float) else {}


def test_metrics_are_by_split_and_system():
    splits = {"val": {"model": {"bits_per_byte": 2.0}}, "test": {"model": {"bits_per_byte": 1.5}}}
    quality = {"split": "test", "model": {"words": 3}, "true_text": {"words": 4}, "ratio": {"words": 0.75}}
    assert summarise_systems(splits, quality) == {
        "val": {"model": {"bits_per_byte": 2.0}},
        "test": {"model": {"bits_per_byte": 1.5, "words": 3, "words_ratio": 0.75}, "true_text": {"words": 4}},
    }
    assert summarise_systems({}, {"skipped": "why"}) == {"quality": {"skipped": "why"}}
