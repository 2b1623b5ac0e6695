import numpy as np
import pytest
import torch

from llm.evaluate.context import choose_windows, compare_contexts, losses_by_context
from llm.evaluate.likelihood import Span, plan_document_spans, plan_spans, score_tokens

CONTEXT, N = 64, 300  # so 2 targets a window, after 4, 8, 16, 32 and 64 tokens


@pytest.fixture
def stream():
    return np.random.default_rng(1).integers(320, size=N).astype(np.uint16)


@torch.no_grad()
def _loss_after(model, context, token):
    logits = model(torch.from_numpy(context.astype(np.int64))[None])[0, -1]
    return float(-logits.log_softmax(dim=-1)[int(token)])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_each_loss_is_that_of_reading_what_is_kept(draw_gpt, stream, plain_cpu, batch_size):
    model, spans = draw_gpt(context_length=CONTEXT), plan_spans(N, CONTEXT, 48)
    nats = score_tokens(model, stream, spans, 4, plain_cpu, "test").nats
    windows = choose_windows(spans, CONTEXT)
    losses = losses_by_context(model, stream, nats, windows, batch_size, plain_cpu)
    assert list(losses) == [4, 8, 16, 32, 64]
    for length, means in losses.items():
        expected = []
        for end in (span.start + CONTEXT for span in windows):
            pair = [_loss_after(model, stream[end - length : i], stream[i]) for i in (end - 1, end)]
            expected.append(sum(pair) / 2)
        np.testing.assert_allclose(means, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("context", "lengths"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 5]), (17, [1, 2, 4, 8, 17])])
def test_the_shortest_contexts_are_one_token(draw_gpt, stream, plain_cpu, context, lengths):
    model, spans = draw_gpt(context_length=context), plan_spans(N, context, context)
    nats = score_tokens(model, stream, spans, 4, plain_cpu, "test").nats
    losses = losses_by_context(model, stream, nats, choose_windows(spans, context, n=3), 2, plain_cpu)
    assert list(losses) == lengths
    assert all(means.shape == (3,) for means in losses.values())


def test_without_a_text_as_long_as_the_context_there_is_nothing_to_cut(draw_gpt, plain_cpu):
    stream = np.array([0, 5, 6, 0, 7, 8, 9, 0])
    windows = choose_windows(plan_document_spans(stream, 0, CONTEXT, 48), CONTEXT)
    assert windows == []
    losses = losses_by_context(draw_gpt(context_length=CONTEXT), stream, np.ones(7), windows, 2, plain_cpu)
    assert compare_contexts(losses, np.random.default_rng(1)) == []


def test_windows_are_spread_over_the_whole_text():
    spans = plan_spans(64 + 48 * 100 + 1, 64, 48)  # the first window and 100 after it
    windows = choose_windows(spans, 64, n=11)
    assert windows == spans[::10]
    assert choose_windows(spans, 64, n=1000) == spans


def test_a_window_whose_last_targets_were_scored_in_another_one_is_left_out():
    # Of 64 tokens two targets are compared, and here the second window scored one alone.
    assert choose_windows([Span(0, 0, 64), Span(1, 63, 64)], 64) == [Span(0, 0, 64)]


def test_more_is_the_mean_difference_of_each_window_with_itself():
    # The windows cost 1 and 9: far apart, but both are dearer by 0.5 with a half, so there is no doubt about that.
    losses = {2: np.array([1.5, 9.5]), 4: np.array([1.0, 9.0])}
    half, whole = compare_contexts(losses, np.random.default_rng(1))
    assert half == {"context": 2, "share": 0.5, "windows": 2, "nats_per_token": 5.5, "more": 0.5} | {
        "more_low": 0.5,
        "more_high": 0.5,
    }
    assert (whole["context"], whole["share"], whole["nats_per_token"], whole["more"]) == (4, 1.0, 5.0, 0.0)


def test_one_window_has_no_interval():
    rows = compare_contexts({2: np.array([1.5]), 4: np.array([1.0])}, np.random.default_rng(1))
    assert [(row["more"], "more_low" in row) for row in rows] == [(0.5, False), (0.0, False)]
