import math

import numpy as np
import pytest
import torch

from llm.evaluate import likelihood
from llm.evaluate.likelihood import Span, plan_document_spans, plan_spans, score_targets, score_tokens, summarise

N = 43  # tokens; the context is 17


@pytest.fixture
def model(draw_gpt, config):
    return draw_gpt(**config.model_dump())


@pytest.fixture
def stream(config):
    return np.random.default_rng(1).integers(config.vocab_size, size=N).astype(np.uint16)


def _score(model, stream, stride, batch_size, machine):
    spans = plan_spans(len(stream), model.config.context_length, stride)
    return score_tokens(model, stream, spans, batch_size, machine, "test").nats


@torch.no_grad()
def _loss_after(model, context, token):
    """The slow, clear way: read a context, look at its last prediction."""
    logits = model(torch.from_numpy(context.astype(np.int64))[None])[0, -1]
    return float(-logits.log_softmax(dim=-1)[int(token)])


def _naive_losses(model, stream, stride):
    """Windows of a whole context, `stride` on each time; each token is scored in the first one that holds it."""
    context, last = model.config.context_length, len(stream) - 1
    losses, end = [], min(context, last)
    for target in range(1, last + 1):
        if target > end:
            end = min(end + stride, last)
        start = max(end - context, 0)
        losses.append(_loss_after(model, stream[start:target], stream[target]))
    return losses


@pytest.mark.parametrize("context", [1, 2, 5])
def test_each_token_but_the_first_is_scored_once_after_as_much_as_was_promised(context):
    for n_tokens in range(25):
        for stride in range(1, context + 1):
            spans = plan_spans(n_tokens, context, stride)
            scored = [span.start + place for span in spans for place in range(span.first, span.last)]
            assert scored == list(range(max(n_tokens - 1, 0)))
            for span in spans:
                assert span.start >= 0
                assert span.last <= context
                # Target `first` has first + 1 tokens before it, the input at its own place included.
                assert span.start == 0 or span.first >= context - stride


@pytest.mark.parametrize("stride", [1, 5, 16, 17])
def test_each_loss_is_that_of_reading_the_tokens_window_alone(model, stream, plain_cpu, stride):
    losses = _score(model, stream, stride, 2, plain_cpu)
    np.testing.assert_allclose(losses, _naive_losses(model, stream, stride), rtol=1e-4, atol=1e-4)


def test_with_a_stride_of_one_each_token_follows_a_whole_context(model, stream, plain_cpu):
    losses = _score(model, stream, 1, 7, plain_cpu)
    expected = [_loss_after(model, stream[max(place - 17, 0) : place], stream[place]) for place in range(1, N)]
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [5, 17])
def test_the_losses_do_not_depend_on_the_batch_size(model, stream, plain_cpu, stride):
    alone = _score(model, stream, stride, 1, plain_cpu)
    for batch_size in (2, 3, 100):
        together = _score(model, stream, stride, batch_size, plain_cpu)
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)
        assert summarise(together, N)["bits_per_byte"] == pytest.approx(summarise(alone, N)["bits_per_byte"], abs=2e-5)


@pytest.mark.parametrize("lengths", [[1], [40], [0, 3, 17, 16, 20], [18, 2]])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_by_documents_each_token_is_scored_once_with_its_own_document_alone(model, plain_cpu, lengths, batch_size):
    rng = np.random.default_rng(2)
    documents = [rng.integers(1, model.config.vocab_size, size=length) for length in lengths]
    stream = np.concatenate([[0], *(np.append(ids, 0) for ids in documents)]).astype(np.uint16)
    spans = plan_document_spans(stream, 0, model.config.context_length, stride=5)
    losses = score_tokens(model, stream, spans, batch_size, plain_cpu, "test").nats
    expected = [loss for ids in documents for loss in _naive_losses(model, np.array([0, *ids, 0]), 5)]
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_tokens", [0, 1, 2, 5, 17, 18, 19])
def test_a_text_as_short_as_the_context_is_scored_whole(model, stream, plain_cpu, n_tokens):
    losses = _score(model, stream[:n_tokens], 5, 2, plain_cpu)
    expected = _naive_losses(model, stream[:n_tokens], 5)
    assert losses.shape == (max(n_tokens - 1, 0),)
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-4)


def test_the_future_of_a_text_does_not_change_what_its_past_cost(model, stream, plain_cpu):
    before = _score(model, stream, 17, 2, plain_cpu)
    stream[30:] = (stream[30:] + 1) % 97
    after = _score(model, stream, 17, 2, plain_cpu)
    np.testing.assert_allclose(after[:29], before[:29], rtol=1e-5, atol=1e-5)
    assert (after[29:] != before[29:]).all()


@torch.no_grad()
def _judge_after(model, context, token):
    """The slow, clear way: the loss, the highest probability, and whether it is the token's."""
    probabilities = model(torch.from_numpy(context.astype(np.int64))[None])[0, -1].softmax(dim=-1)
    return -probabilities[int(token)].log(), probabilities.max(), probabilities.argmax() == int(token)


def test_a_hand_made_prediction_is_judged_as_one_would():
    # Of four tokens with 1/2, 1/4, 1/8 and 1/8, the third and then the first came.
    logits = torch.tensor([4.0, 2.0, 1.0, 1.0]).log().expand(1, 2, 4)
    nats, top_probability, is_top = score_targets(logits, torch.tensor([[2, 0]]))
    np.testing.assert_allclose(nats, [[3 * math.log(2), math.log(2)]], rtol=1e-6)
    np.testing.assert_allclose(top_probability, [[0.5, 0.5]], rtol=1e-6)
    assert is_top.tolist() == [[False, True]]


def test_of_equally_likely_tokens_one_alone_is_on_top():
    _, top_probability, is_top = score_targets(torch.zeros(5, 5), torch.arange(5))
    np.testing.assert_allclose(top_probability, 0.2)
    assert is_top.sum() == 1


@pytest.mark.parametrize("stride", [5, 17])
@pytest.mark.parametrize("batch_size", [1, 2, 100])
@pytest.mark.parametrize("n_whole", [2, 512])
def test_each_target_is_judged_once_whatever_the_batch(
    model, stream, plain_cpu, monkeypatch, stride, batch_size, n_whole
):
    monkeypatch.setattr(likelihood, "N_WHOLE", n_whole)
    scores = score_tokens(model, stream, plan_spans(N, 17, stride), batch_size, plain_cpu, "test")
    starts = {span.start + i: span.start for span in plan_spans(N, 17, stride) for i in range(span.first, span.last)}
    expected = [_judge_after(model, stream[starts[i] : i + 1], stream[i + 1]) for i in range(N - 1)]
    nats, top_probability, is_top = zip(*expected, strict=True)
    np.testing.assert_allclose(scores.nats, nats, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores.top_probability, top_probability, rtol=1e-4, atol=1e-5)
    assert scores.is_top.tolist() == [bool(top) for top in is_top]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_by_place_all_targets_of_all_windows_count_and_no_padding(model, stream, plain_cpu, batch_size):
    stream[[0, 9, 30, 42]] = 0  # documents of 8, 20 and 11 tokens
    spans = plan_document_spans(stream, 0, context_length=17, stride=5)
    assert {(span.first, span.last) for span in spans} > {(0, 9), (0, 17), (0, 12)}
    scores = score_tokens(model, stream, spans, batch_size, plain_cpu, "test")
    nats, targets = np.zeros(17), np.zeros(17, dtype=int)
    for span in spans:
        for place in range(span.last):
            here = span.start + place
            nats[place] += _loss_after(model, stream[span.start : here + 1], stream[here + 1])
            targets[place] += 1
    np.testing.assert_allclose(scores.position_nats, nats, rtol=1e-4, atol=1e-4)
    assert scores.position_targets.tolist() == targets.tolist()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_of_many_windows_some_are_enough_by_place(model, stream, plain_cpu, monkeypatch, batch_size):
    spans = plan_spans(N, 17, 2)
    monkeypatch.setattr(likelihood, "N_WHOLE", 5)
    some = score_tokens(model, stream, spans, batch_size, plain_cpu, "test")
    step = len(spans) // 5
    assert 1 < step < len(spans) / 3
    monkeypatch.setattr(likelihood, "N_WHOLE", 512)
    wanted = score_tokens(model, stream, [Span(span.start, 0, 17) for span in spans[::step]], 1, plain_cpu, "test")
    assert some.position_targets.tolist() == wanted.position_targets.tolist()
    np.testing.assert_allclose(some.position_nats, wanted.position_nats, rtol=1e-5)


def test_windows_that_do_not_overlap_share_all_nats_out_by_place(model, stream, plain_cpu):
    scores = score_tokens(model, stream[:35], plan_spans(35, 17, 17), 2, plain_cpu, "test")
    assert scores.position_targets.tolist() == [2] * 17
    assert scores.position_nats.sum() == pytest.approx(float(scores.nats.sum()), rel=1e-6)


def test_bits_per_byte_count_the_texts_bytes_and_not_its_tokens():
    # Three tokens of probability 1/2, 1/2 and 1/4 are 4 bits; the text has 2 bytes.
    losses = np.log(np.array([2, 2, 4], dtype=np.float32))
    assert summarise(losses, n_bytes=2) == {
        "bits_per_byte": 2.0,
        "nats_per_token": round(4 / 3 * math.log(2), 5),
        "perplexity": round(2 ** (4 / 3), 4),
        "tokens": 3,
    }


def test_even_a_ruined_models_figures_are_numbers():
    figures = summarise(np.array([1000.0, 1000.0], dtype=np.float32), n_bytes=2)
    assert figures["nats_per_token"] == 1000
    assert math.isfinite(figures["perplexity"])
