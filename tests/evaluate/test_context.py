import numpy as np
import pytest
import torch

from llm.evaluate.likelihood import Span, plan_document_spans, plan_spans, score_tokens
from llm.evaluate.measure import choose_windows, compare_contexts, losses_by_context

CONTEXT, N = 64, 300  # so 2 targets a window, after 4, 8, 16, 32 and 64 tokens
STREAM = np.random.default_rng(1).integers(320, size=N).astype(np.uint16)


def _losses(model, machine, context, stride, batch_size, **options):
    spans = plan_spans(N, context, stride)
    windows = choose_windows(spans, context, **options)
    nats = score_tokens(model, STREAM, spans, 4, machine, "test").nats
    return windows, losses_by_context(model, STREAM, nats, windows, batch_size, machine)


@torch.no_grad()
def _loss_after(model, context, token):
    logits = model(torch.from_numpy(context.astype(np.int64))[None])[0, -1]
    return float(-logits.log_softmax(dim=-1)[int(token)])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_each_loss_is_that_of_reading_what_is_kept(draw_gpt, plain_cpu, batch_size):
    model = draw_gpt(context_length=CONTEXT)
    windows, losses = _losses(model, plain_cpu, CONTEXT, 48, batch_size)
    assert list(losses) == [4, 8, 16, 32, 64]
    for length, means in losses.items():
        ends = [span.start + CONTEXT for span in windows]
        pairs = [[_loss_after(model, STREAM[end - length : i], STREAM[i]) for i in (end - 1, end)] for end in ends]
        np.testing.assert_allclose(means, np.mean(pairs, axis=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("context", "lengths"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 5]), (17, [1, 2, 4, 8, 17])])
def test_the_shortest_context_is_one_token(draw_gpt, plain_cpu, context, lengths):
    _, losses = _losses(draw_gpt(context_length=context), plain_cpu, context, context, 2, n=3)
    assert list(losses) == lengths
    assert all(means.shape == (3,) for means in losses.values())


def test_a_text_shorter_than_the_context_gives_no_row(draw_gpt, plain_cpu):
    stream = np.array([0, 5, 6, 0, 7, 8, 9, 0])
    windows = choose_windows(plan_document_spans(stream, 0, CONTEXT, 48), CONTEXT)
    assert windows == []
    losses = losses_by_context(draw_gpt(context_length=CONTEXT), stream, np.ones(7), windows, 2, plain_cpu)
    assert compare_contexts(losses, np.random.default_rng(1)) == []


def test_windows_are_spread_and_have_new_last_targets():
    spans = plan_spans(64 + 48 * 100 + 1, 64, 48)  # the first window and 100 after it
    assert choose_windows(spans, 64, n=11) == spans[::10]
    assert choose_windows(spans, 64, n=1000) == spans
    # Of 64 tokens two targets are compared, and here the second window scored one alone.
    assert choose_windows([Span(0, 0, 64), Span(1, 63, 64)], 64) == [Span(0, 0, 64)]


def test_each_window_is_compared_with_itself():
    # Losses 1 and 9 are far apart, but both rise by 0.5 with half of the context.
    half, whole = compare_contexts({2: np.array([1.5, 9.5]), 4: np.array([1.0, 9.0])}, np.random.default_rng(1))
    assert half == {"context": 2, "fraction": 0.5, "windows": 2, "nats_per_token": 5.5, "more": 0.5} | {
        "more_low": 0.5,
        "more_high": 0.5,
    }
    assert (whole["context"], whole["fraction"], whole["nats_per_token"], whole["more"]) == (4, 1.0, 5.0, 0.0)
    rows = compare_contexts({2: np.array([1.5]), 4: np.array([1.0])}, np.random.default_rng(1))
    assert [(row["more"], "more_low" in row) for row in rows] == [(0.5, False), (0.0, False)]
