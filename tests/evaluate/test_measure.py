import math

import numpy as np
import pytest
import torch

from llm.evaluate.difference import BETTER, WORSE, Baselines
from llm.evaluate.likelihood import plan_spans
from llm.evaluate.measure import HeldOut, measure

VOCAB, CONTEXT = 320, 17
DOCUMENTS = {
    "code/a.py": [11, 12, 13, 14] * 9,
    "prose/b": [21, 22] * 4,
    "code/c.py": [31, 32, 33] * 5,
}


NONE = Baselines({}, {})


@pytest.fixture
def text():
    """Two sources; every token has two bytes, ends have none; the last document stands in train."""
    stream = np.array([0, *(id_ for ids in DOCUMENTS.values() for id_ in [*ids, 0])], dtype=np.uint16)
    return HeldOut(
        name="val",
        stream=stream,
        end_of_text=0,
        sources=["code", "prose", "code"],
        paths=["a.py", "b", "c.py"],
        n_bytes=np.array([2 * len(ids) for ids in DOCUMENTS.values()]),
        token_bytes=np.array([0] + [2] * (VOCAB - 1)),
        ngram=3,
        is_found=(stream >= 31) & (stream <= 33),
    )


@pytest.fixture
def run(text, plain_cpu):
    def run(model, stride=11, batch_size=3, baselines=NONE):
        spans = plan_spans(len(text.stream), CONTEXT, stride)
        return measure(model, text, spans, batch_size, plain_cpu, np.random.default_rng(1), baselines)

    return run


def _tell_nothing(model):
    torch.nn.init.zeros_(model.head.weight)
    return model


def test_the_figures_of_a_model_that_knows_nothing_can_be_worked_by_hand(run, draw_gpt):
    figures = run(_tell_nothing(draw_gpt(context_length=CONTEXT, tie_embeddings=False)))
    # Each token and each end costs log2 320 bits; 62 targets, 59 of them with two bytes.
    bits, nats = math.log2(VOCAB), round(math.log(VOCAB), 5)
    summary = figures["summary"]
    assert (figures["documents"], figures["bytes"], summary["tokens"]) == (3, 118, 62)
    assert summary["bits_per_byte"] == pytest.approx(bits * 62 / 118, abs=1e-5)
    assert summary["nats_per_token"] == nats
    assert summary["perplexity"] == pytest.approx(VOCAB, rel=1e-5)
    # A shorter document has more of its cost in its end: 9 targets for 16 bytes, 16 for 30, 37 for 72.
    assert summary["bits_per_byte_high"] == pytest.approx(bits * 9 / 16, abs=1e-5)
    assert summary["bits_per_byte_low"] == pytest.approx(bits * 37 / 72, abs=1e-5)
    # The first of the equal ones is the end of text: right three times, and held likely by 1/320.
    assert summary["accuracy"] == round(3 / 62, 5)
    assert summary["calibration_error"] == pytest.approx(3 / 62 - 1 / VOCAB, abs=1e-5)
    code, prose = figures["sources"]
    assert code["bits_per_byte"] == pytest.approx(bits * 53 / 102, abs=1e-5)
    assert prose["bits_per_byte"] == pytest.approx(bits * 9 / 16, abs=1e-5)
    assert {row["nats_per_token"] for row in figures["positions"]} == {nats}
    assert all(row["more"] == pytest.approx(0, abs=1e-5) for row in figures["context"])
    found, other = (figures["contamination"][name] for name in ("found", "not_found"))
    assert (found["tokens"], found["bytes"], other["tokens"], other["bytes"]) == (15, 30, 47, 88)
    assert found["bits_per_byte"] == pytest.approx(bits / 2, abs=1e-5)
    assert other["bits_per_byte"] == pytest.approx(bits * 47 / 88, abs=1e-5)
    assert [row["document"] for row in figures["easiest"]] == ["code/a.py"]


def test_the_model_is_compared_with_each_baseline_document_by_document(run, draw_gpt):
    model = _tell_nothing(draw_gpt(context_length=CONTEXT, tie_embeddings=False))
    # The model needs as many bits for each of 37, 9 and 16 tokens; a bit more than that, and two bits less.
    n_tokens = np.array([37, 9, 16])
    theirs = {"worse": n_tokens * (math.log2(VOCAB) + 1), "better": n_tokens * (math.log2(VOCAB) - 2)}
    baselines = Baselines({name: round(own.sum() / 118, 5) for name, own in theirs.items()} | {"none": 99.0}, theirs)
    figures = run(model, baselines=baselines)
    better, worse, none = figures["baselines"]
    assert better["difference"] == pytest.approx(124 / 118, abs=2e-5)
    assert worse["difference"] == pytest.approx(-62 / 118, abs=2e-5)
    assert worse["difference_low"] == pytest.approx(-9 / 16, abs=1e-4)
    assert worse["difference_high"] == pytest.approx(-37 / 72, abs=1e-4)
    assert "difference_low" not in none
    assert figures["summary"]["best_baseline"] == "better"
    assert figures["summary"]["verdict"] == WORSE
    alone = run(model, baselines=Baselines({"worse": baselines.bits_per_byte["worse"]}, {"worse": theirs["worse"]}))
    assert alone["summary"]["verdict"] == BETTER
    # No other figure is moved by what it is compared with.
    without = run(model)
    assert without["baselines"] == []
    assert without["summary"].items() <= figures["summary"].items()
    assert without["sources"] == figures["sources"]
    assert without["context"] == figures["context"]


def test_parts_add_up_to_the_whole(run, draw_gpt):
    figures = run(draw_gpt(context_length=CONTEXT))
    nats = figures["summary"]["nats_per_token"] * 62
    sources = sum(row["bits_per_byte"] * row["bytes"] for row in figures["sources"]) * math.log(2)
    contamination = [figures["contamination"][name] for name in ("found", "not_found")]
    assert sources == pytest.approx(nats, rel=1e-4)
    assert sum(row["nats_per_token"] * row["tokens"] for row in contamination) == pytest.approx(nats, rel=1e-4)
    assert sum(row["count"] for row in figures["calibration"]) == 62
    sure = sum(row["accuracy"] * row["count"] for row in figures["calibration"])
    assert sure / 62 == pytest.approx(figures["summary"]["accuracy"], abs=1e-4)


@pytest.mark.parametrize("stride", [5, 17])
def test_no_figure_hangs_on_the_batch_size(run, draw_gpt, stride):
    model = draw_gpt(context_length=CONTEXT)
    alone = run(model, stride, 1)
    for batch_size in (2, 100):
        together = run(model, stride, batch_size)
        assert _flat(together) == pytest.approx(_flat(alone), abs=2e-4)


def _flat(value, name=""):
    """Every number in nested figures, by the way to it."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {way: leaf for key, part in parts for way, leaf in _flat(part, f"{name}.{key}").items()}
    return {name: value} if isinstance(value, int | float) else {}


def test_windows_with_a_new_target_that_train_has_are_counted(run, draw_gpt):
    # 63 tokens: windows of 17 that score 17, 11, 11, 11, 11 and 1 target. The last document's tokens are 47 to 61.
    figures = run(draw_gpt(context_length=CONTEXT), stride=11)
    # Targets 40 to 50, 51 to 61 are tokens 40 to 61; token 62 is the end.
    assert figures["contamination"]["window_share"] == round(2 / 6, 5)
