import math

import numpy as np
import pytest
import torch

from llm.evaluate.breakdown import WORSE, Baselines
from llm.evaluate.likelihood import Span, plan_spans, score_tokens
from llm.evaluate.measure import choose_windows, compare_contexts, losses_by_context, measure

VOCAB, CONTEXT = 320, 17
DOCUMENTS = {"code/a.py": [11, 12, 13, 14] * 9, "prose/b": [21, 22] * 4, "code/c.py": [31, 32, 33] * 5}
STREAM = np.random.default_rng(1).integers(VOCAB, size=300).astype(np.uint16)


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


def test_parts_add_up_and_no_figure_depends_on_the_batch_size(run, draw_gpt):
    model = draw_gpt(context_length=CONTEXT)
    alone, together = (run(model, stride=5, batch_size=batch_size) for batch_size in (1, 100))
    assert _flat(together) == pytest.approx(_flat(alone), abs=2e-4)
    nats = alone["model"]["nats_per_token"] * 62
    of_sources = sum(row["bits_per_byte"] * row["bytes"] for row in alone["sources"]) * math.log(2)
    parts = [alone["contamination"][name] for name in ("found", "not_found")]
    assert of_sources == pytest.approx(nats, rel=1e-4)
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


def _losses(model, machine, stride, batch_size=2, **options):
    context = model.config.context_length
    spans = plan_spans(len(STREAM), context, stride)
    windows, nats = choose_windows(spans, context, **options), score_tokens(model, STREAM, spans, 4, machine, "").nats
    return windows, losses_by_context(model, STREAM, nats, windows, batch_size, machine)


@torch.no_grad()
def test_each_loss_is_that_of_reading_what_is_kept(draw_gpt, plain_cpu):
    model = draw_gpt(context_length=64)  # 2 targets a window
    windows, losses = _losses(model, plain_cpu, stride=48)
    assert list(losses) == [4, 8, 16, 32, 64]
    ids = torch.from_numpy(STREAM.astype(np.int64))
    for length, means in losses.items():
        ends = [span.start + 64 for span in windows]
        logits = [[model(ids[None, end - length : i])[0, -1] for i in (end - 1, end)] for end in ends]
        nats = [
            [-of.log_softmax(dim=-1)[ids[i]] for of, i in zip(pair, (end - 1, end), strict=True)]
            for pair, end in zip(logits, ends, strict=True)
        ]
        np.testing.assert_allclose(means, np.mean(nats, axis=1), rtol=1e-4, atol=1e-4)


def test_windows_are_spread_and_have_new_last_targets():
    spans = plan_spans(64 + 48 * 100 + 1, 64, 48)  # the first window and 100 after it
    assert choose_windows(spans, 64, n=11) == spans[::10]
    assert choose_windows(spans, 64, n=1000) == spans
    # Of 64 tokens two targets are compared, and here the second window scored one alone.
    assert choose_windows([Span(0, 0, 64), Span(1, 63, 64)], 64) == [Span(0, 0, 64)]


def test_each_window_is_compared_with_itself():
    # Losses 1 and 9 are far apart, but both rise by 0.5 with half of the context.
    half, whole = compare_contexts({2: np.array([1.5, 9.5]), 4: np.array([1.0, 9.0])}, np.random.default_rng(1))
    expected = {"context": 2, "fraction": 0.5, "windows": 2, "nats_per_token": 5.5}
    assert half == expected | {"more": 0.5, "more_low": 0.5, "more_high": 0.5}
    assert (whole["context"], whole["fraction"], whole["nats_per_token"], whole["more"]) == (4, 1.0, 5.0, 0.0)
