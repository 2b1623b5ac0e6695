import math

import numpy as np
import pytest
import torch

from llm.evaluate import likelihood
from llm.evaluate.likelihood import Span, plan_document_spans, plan_spans, score_tokens, summarise

N, CONTEXT = 43, 17  # tokens


@pytest.fixture(scope="module")
def model(draw_gpt):
    return draw_gpt(vocab_size=97, context_length=CONTEXT, tie_embeddings=False)


@pytest.fixture
def stream():
    return np.random.default_rng(1).integers(1, 97, size=N).astype(np.uint16)


@torch.no_grad()
def _check(scores, model, stream, spans):
    """Compare with predictions of each target, the slow way, in the first window that contains it."""
    starts = {span.start + i: span.start for span in spans for i in range(span.first, span.last)}
    assert [*starts] == [*range(len(stream) - 1)]
    ids = torch.from_numpy(stream.astype(np.int64))
    for i, start in starts.items():
        probabilities = model(ids[None, start : i + 1])[0, -1].softmax(dim=-1)
        assert scores.nats[i] == pytest.approx(float(-probabilities[ids[i + 1]].log()), rel=1e-4, abs=1e-4)
        assert scores.top_probability[i] == pytest.approx(float(probabilities.max()), rel=1e-4)
        assert scores.is_top[i] == (probabilities.argmax() == ids[i + 1])


@pytest.mark.parametrize("context", [1, 2, 5])
def test_each_token_but_the_first_is_scored_once(context):
    for n_tokens in range(25):
        for stride in range(1, context + 1):
            spans = plan_spans(n_tokens, context, stride)
            scored = [span.start + place for span in spans for place in range(span.first, span.last)]
            assert scored == list(range(max(n_tokens - 1, 0)))
            # Target `first` has first + 1 tokens before it.
            assert all(span.start == 0 or span.first >= context - stride for span in spans)
            assert all(span.start >= 0 and span.last <= context for span in spans)


@pytest.mark.parametrize(
    ("n_tokens", "stride", "batch_size", "n_whole"),
    [(N, 1, 2, 512), (N, 5, 1, 512), (N, 5, 100, 2), (N, 17, 2, 2), *((n, 5, 2, 512) for n in (0, 1, 2, 17, 18, 19))],
)
def test_scores_are_those_of_each_window_alone(
    model, stream, plain_cpu, monkeypatch, n_tokens, stride, batch_size, n_whole
):
    monkeypatch.setattr(likelihood, "N_WHOLE", n_whole)
    stream, spans = stream[:n_tokens], plan_spans(n_tokens, CONTEXT, stride)
    _check(score_tokens(model, stream, spans, batch_size, plain_cpu, "test"), model, stream, spans)


@pytest.mark.parametrize("ends", [[0, 2], [0, 1, 5, 23, 40, 42], [0, 19, 22]], ids=str)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_by_documents_each_token_is_scored_within_its_own(model, stream, plain_cpu, ends, batch_size):
    stream = stream[: ends[-1] + 1]
    stream[ends] = 0
    spans = plan_document_spans(stream, 0, CONTEXT, 5)
    assert all(0 not in stream[span.start + 1 : span.start + span.last] for span in spans)
    scores = score_tokens(model, stream, spans, batch_size, plain_cpu, "test")
    _check(scores, model, stream, spans)
    # By position all targets of all windows count, and no padding.
    lengths = np.array([span.last for span in spans])
    assert scores.position_targets.tolist() == [(lengths > place).sum() for place in range(CONTEXT)]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_of_many_windows_some_are_enough_by_position(model, stream, plain_cpu, monkeypatch, batch_size):
    spans = plan_spans(N, CONTEXT, 2)
    monkeypatch.setattr(likelihood, "N_WHOLE", 5)
    some = score_tokens(model, stream, spans, batch_size, plain_cpu, "test")
    whole = [Span(span.start, 0, CONTEXT) for span in spans[:: len(spans) // 5]]
    alone = [score_tokens(model, stream, [span], 1, plain_cpu, "test") for span in whole]
    expected = sum(of.nats[span.start : span.start + CONTEXT] for of, span in zip(alone, whole, strict=True))
    np.testing.assert_allclose(some.position_nats, expected, rtol=1e-4)
    assert some.position_targets.tolist() == [len(whole)] * CONTEXT


def test_summaries_by_hand_are_finite():
    # Three tokens of probability 1/2, 1/2 and 1/4 are 4 bits; the text has 2 bytes.
    figures = summarise(np.log(np.array([2, 2, 4], dtype=np.float32)), n_bytes=2)
    assert [*figures.values()] == [2.0, round(4 / 3 * math.log(2), 5), round(2 ** (4 / 3), 4), 3]
    ruined = summarise(np.array([1000.0, 1000.0], dtype=np.float32), n_bytes=2)
    assert ruined["nats_per_token"] == 1000
    assert math.isfinite(ruined["perplexity"])
