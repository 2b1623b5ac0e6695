import math

import numpy as np
import pytest
import torch

from llm.evaluate import likelihood
from llm.evaluate.likelihood import Span, plan_document_spans, plan_spans, score_targets, score_tokens, summarise

N = 43  # tokens; the context is 17


@pytest.fixture(scope="module")
def model(draw_gpt):
    return draw_gpt(vocab_size=97, context_length=17, tie_embeddings=False)


@pytest.fixture
def stream():
    return np.random.default_rng(1).integers(97, size=N).astype(np.uint16)


def _score(model, stream, stride, batch_size, machine):
    return score_tokens(model, stream, plan_spans(len(stream), 17, stride), batch_size, machine, "test")


@torch.no_grad()
def _predict(model, context, token):
    """The slow, clear way: nats of a token after a context, the top probability, whether the token has it."""
    probabilities = model(torch.from_numpy(context.astype(np.int64))[None])[0, -1].softmax(dim=-1)
    return float(-probabilities[int(token)].log()), float(probabilities.max()), probabilities.argmax() == int(token)


def _naive(model, stream, spans):
    """Predictions of each target in the first window that contains it."""
    starts = {span.start + i: span.start for span in spans for i in range(span.first, span.last)}
    assert [*starts] == [*range(len(stream) - 1)]
    return [_predict(model, stream[start : i + 1], stream[i + 1]) for i, start in starts.items()]


@pytest.mark.parametrize("context", [1, 2, 5])
def test_each_token_but_the_first_is_scored_once(context):
    for n_tokens in range(25):
        for stride in range(1, context + 1):
            spans = plan_spans(n_tokens, context, stride)
            scored = [span.start + place for span in spans for place in range(span.first, span.last)]
            assert scored == list(range(max(n_tokens - 1, 0)))
            for span in spans:
                assert span.start >= 0
                assert span.last <= context
                # Target `first` has first + 1 tokens before it.
                assert span.start == 0 or span.first >= context - stride


@pytest.mark.parametrize("stride", [1, 5, 17])
@pytest.mark.parametrize("batch_size", [1, 2, 100])
@pytest.mark.parametrize("n_whole", [2, 512])
def test_scores_are_those_of_reading_each_window_alone(
    model, stream, plain_cpu, monkeypatch, stride, batch_size, n_whole
):
    monkeypatch.setattr(likelihood, "N_WHOLE", n_whole)
    scores = _score(model, stream, stride, batch_size, plain_cpu)
    nats, top_probability, is_top = zip(*_naive(model, stream, plan_spans(N, 17, stride)), strict=True)
    np.testing.assert_allclose(scores.nats, nats, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores.top_probability, top_probability, rtol=1e-4, atol=1e-5)
    assert scores.is_top.tolist() == [bool(top) for top in is_top]


@pytest.mark.parametrize("lengths", [[1], [40], [0, 3, 17, 16, 20], [18, 2]])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_by_documents_each_token_is_scored_within_its_own(model, plain_cpu, lengths, batch_size):
    rng = np.random.default_rng(2)
    documents = [[0, *rng.integers(1, 97, size=length), 0] for length in lengths]
    stream = np.concatenate([[0], *(ids[1:] for ids in documents)]).astype(np.uint16)
    scores = score_tokens(model, stream, plan_document_spans(stream, 0, 17, 5), batch_size, plain_cpu, "test")
    expected = [nats for ids in documents for nats, _, _ in _naive(model, np.array(ids), plan_spans(len(ids), 17, 5))]
    np.testing.assert_allclose(scores.nats, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_tokens", [0, 1, 2, 17, 18, 19])
def test_a_text_as_short_as_the_context_is_scored_whole(model, stream, plain_cpu, n_tokens):
    nats = _score(model, stream[:n_tokens], 5, 2, plain_cpu).nats
    expected = [nats for nats, _, _ in _naive(model, stream[:n_tokens], plan_spans(n_tokens, 17, 5))]
    np.testing.assert_allclose(nats, expected, rtol=1e-4, atol=1e-4)


def test_the_future_does_not_change_the_nats_of_the_past(model, stream, plain_cpu):
    before = _score(model, stream, 17, 2, plain_cpu).nats
    stream[30:] = (stream[30:] + 1) % 97
    after = _score(model, stream, 17, 2, plain_cpu).nats
    np.testing.assert_allclose(after[:29], before[:29], rtol=1e-5, atol=1e-5)
    assert (after[29:] != before[29:]).all()


def test_a_hand_made_prediction():
    # Of four tokens with 1/2, 1/4, 1/8 and 1/8, the third and then the first came.
    logits = torch.tensor([4.0, 2.0, 1.0, 1.0]).log().expand(1, 2, 4)
    nats, top_probability, is_top = score_targets(logits, torch.tensor([[2, 0]]))
    np.testing.assert_allclose(nats, [[3 * math.log(2), math.log(2)]], rtol=1e-6)
    np.testing.assert_allclose(top_probability, [[0.5, 0.5]], rtol=1e-6)
    assert is_top.tolist() == [[False, True]]
    assert score_targets(torch.zeros(5, 5), torch.arange(5))[2].sum() == 1  # of ties one alone is on top


@pytest.mark.parametrize("batch_size", [1, 4])
def test_by_position_all_targets_count_and_no_padding(model, stream, plain_cpu, batch_size):
    stream[[0, 9, 30, 42]] = 0  # documents of 8, 20 and 11 tokens
    spans = plan_document_spans(stream, 0, context_length=17, stride=5)
    assert {(span.first, span.last) for span in spans} > {(0, 9), (0, 17), (0, 12)}
    scores = score_tokens(model, stream, spans, batch_size, plain_cpu, "test")
    nats, targets = np.zeros(17), np.zeros(17, dtype=int)
    for span in spans:
        for place in range(span.last):
            here = span.start + place
            nats[place] += _predict(model, stream[span.start : here + 1], stream[here + 1])[0]
            targets[place] += 1
    np.testing.assert_allclose(scores.position_nats, nats, rtol=1e-4, atol=1e-4)
    assert scores.position_targets.tolist() == targets.tolist()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_of_many_windows_some_are_enough_by_position(model, stream, plain_cpu, monkeypatch, batch_size):
    spans = plan_spans(N, 17, 2)
    monkeypatch.setattr(likelihood, "N_WHOLE", 5)
    some = score_tokens(model, stream, spans, batch_size, plain_cpu, "test")
    monkeypatch.setattr(likelihood, "N_WHOLE", 512)
    whole = [Span(span.start, 0, 17) for span in spans[:: len(spans) // 5]]
    expected = score_tokens(model, stream, whole, 1, plain_cpu, "test")
    np.testing.assert_allclose(some.position_nats, expected.position_nats, rtol=1e-4)
    assert some.position_targets.tolist() == expected.position_targets.tolist()


def test_summaries_by_hand_are_finite():
    # Three tokens of probability 1/2, 1/2 and 1/4 are 4 bits; the text has 2 bytes.
    assert summarise(np.log(np.array([2, 2, 4], dtype=np.float32)), n_bytes=2) == {
        "bits_per_byte": 2.0,
        "nats_per_token": round(4 / 3 * math.log(2), 5),
        "perplexity": round(2 ** (4 / 3), 4),
        "tokens": 3,
    }
    ruined = summarise(np.array([1000.0, 1000.0], dtype=np.float32), n_bytes=2)
    assert ruined["nats_per_token"] == 1000
    assert math.isfinite(ruined["perplexity"])
