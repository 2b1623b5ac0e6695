import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.model import generate as batched
from llm.model.generate import (
    SamplingParams,
    batch_sampler,
    generate,
    generate_batch,
    greedy,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    repetition_penalized,
    sampler,
)

PROMPT = [3, 1, 4, 1, 5]
SHAPES = {
    "grouped": {},
    "multi_head": {"attention": "multi_head"},
    "causal": {"attention": "causal", "positions": "sinusoidal"},
    "gpt2": {"family": "gpt2"},
    "gru": {"family": "gru"},
    "sees the future": {"attention": "trainable"},
    "sees the future without weights": {"attention": "simplified"},
}


@pytest.fixture
def model(draw_gpt, config):
    return draw_gpt(**config.model_dump())


def _recorded(model, ids, n):
    """The text that greedy generation makes, and the logits that it chose by."""
    seen = []

    def choose(logits):
        seen.append(logits.clone())
        return greedy(logits)

    return ids + list(generate(model, ids, n, choose)), seen


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_cached_logits_are_those_of_the_whole_text(draw_gpt, config, shape):
    model = draw_gpt(**config.model_dump() | shape)
    n = config.context_length - len(PROMPT)
    text, seen = _recorded(model, PROMPT, n)
    for place, logits in enumerate(seen, start=len(PROMPT)):
        torch.testing.assert_close(logits, model(torch.tensor([text[:place]]))[0, -1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("n_prompt", [2, 7, 11])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_past_the_context_at_least_half_of_it_is_read(draw_gpt, config, n_prompt, shape):
    length = 7
    model = draw_gpt(**config.model_dump() | shape | {"context_length": length})
    ids = [place * 7 % config.vocab_size for place in range(n_prompt)]
    text, seen = _recorded(model, ids, 2 * length)
    assert len(text) == n_prompt + 2 * length
    for place, logits in enumerate(seen, start=n_prompt):
        shortest = place if place <= length else length // 2
        pasts = [text[:place][-n:] for n in range(shortest, min(place, length) + 1)]
        again = torch.stack([model(torch.tensor([past]))[0, -1] for past in pasts])
        assert (again - logits).abs().amax(dim=-1).min() < 1e-4


def test_a_stop_ends_the_text_and_is_not_given_out(model):
    text = iter([7, 8, 9, 10])
    assert list(generate(model, PROMPT, 4, lambda logits: next(text), stop=frozenset({9}))) == [7, 8]
    assert next(text) == 10


def test_a_seed_determines_the_text(model):
    def draw(seed):
        choose = sampler(SamplingParams(), torch.Generator().manual_seed(seed))
        return list(generate(model, PROMPT, 11, choose, repetition_penalty=1.2))

    assert draw(1) == draw(1) != draw(2)
    assert len(draw(1)) == 11


@pytest.fixture
def logits():
    return torch.tensor([0.1, 0.4, 0.2, 0.3]).log()


def _shares(choose, logits, n=2000):
    return torch.bincount(torch.tensor([choose(logits) for _ in range(n)]), minlength=len(logits)) / n


finite = st.floats(-20, 20, width=32)
many_logits = st.lists(finite, min_size=1, max_size=12, unique=True).map(torch.tensor)


def _left(filtered, logits):
    """The ids that a filter left; what it left is as it was."""
    left = {token for token, value in enumerate(filtered.tolist()) if value != -torch.inf}
    assert all(filtered[token] == logits[token] for token in left)
    return left


@given(many_logits, st.integers(1, 15))
def test_top_k_keeps_the_k_likeliest(logits, k):
    ranked = sorted(range(len(logits)), key=lambda token: -logits[token])
    assert _left(keep_top_k(logits, k), logits) == set(ranked[:k])


@given(many_logits, st.floats(0, 1))
def test_top_p_keeps_the_fewest_that_are_p_together(logits, p):
    shares = logits.double().softmax(dim=-1)
    left = _left(keep_top_p(logits, p), logits)
    assert left
    smallest = min(left, key=lambda token: logits[token])
    assert left == {token for token in range(len(logits)) if logits[token] >= logits[smallest]}
    together = float(shares[sorted(left)].sum())
    assert together >= p - 1e-5
    if len(left) > 1:
        assert together - float(shares[smallest]) < p + 1e-5


@given(many_logits, st.floats(0, 1))
def test_min_p_keeps_ids_by_ratio_to_the_most_probable(logits, p):
    shares = logits.double().softmax(dim=-1)
    ratio = shares / shares.max()
    left = _left(keep_min_p(logits, p), logits)
    for token in range(len(logits)):
        if abs(ratio[token] - p) > 1e-5:
            assert (token in left) == bool(ratio[token] >= p)
    assert int(logits.argmax()) in left


@given(many_logits, st.lists(st.integers(0, 11), max_size=9), st.floats(1, 4, width=32))
def test_a_repetition_penalty_falls_once_on_what_was_seen(logits, seen, penalty):
    seen = [token % len(logits) for token in seen]
    expected = [
        value if token not in seen else value / penalty if value > 0 else value * penalty
        for token, value in enumerate(logits.tolist())
    ]
    before = logits.clone()
    torch.testing.assert_close(repetition_penalized(logits, seen, penalty), torch.tensor(expected))
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 100}, {0, 1, 2, 3}),
        ({"top_p": 0.5}, {1, 3}),
        ({"min_p": 0.6}, {1, 3}),
        ({"top_p": 0.9, "min_p": 0.3}, {1, 2, 3}),
    ],
)
def test_a_sampler_is_proportional_within_its_filters(logits, filters, left):
    shares = _shares(sampler(SamplingParams(**filters), torch.Generator().manual_seed(1)), logits)
    expected = torch.tensor([float(logits[token].exp()) if token in left else 0.0 for token in range(4)])
    torch.testing.assert_close(shares, expected / expected.sum(), atol=0.04, rtol=0)
    assert {token for token in range(4) if shares[token]} == left


def test_temperature_comes_before_the_filters(logits):
    # At half the temperature the shares are squared: 0.16 of 0.30 is more than half of it all.
    assert _shares(sampler(SamplingParams(0.5, None, top_p=0.5), torch.Generator()), logits, n=50)[1] == 1


def test_a_context_of_one_token_goes_on(draw_gpt):
    assert len(list(generate(draw_gpt(context_length=1), PROMPT, 5, greedy))) == 5


def test_a_strong_repetition_penalty_ends_repetition(model):
    assert len({*PROMPT, *generate(model, PROMPT, 12, greedy, repetition_penalty=1e9)}) == len(set(PROMPT)) + 12


def test_top_k_keeps_ties_of_the_last():
    assert keep_top_k(torch.tensor([1.0, 2.0, 1.0, 0.0]), 2).tolist() == [1, 2, 1, -torch.inf]


@pytest.mark.parametrize("n_prompt", [1, 11])
@pytest.mark.parametrize("shape", [{}, {"family": "gpt2"}, {"family": "gru"}, {"attention": "trainable"}], ids=str)
def test_texts_of_a_batch_are_continued_as_each_alone(draw_gpt, shape, n_prompt, monkeypatch):
    monkeypatch.setattr(batched, "MAX_BATCH", 3)
    model = draw_gpt(**shape, context_length=9)  # soon full: the older half of it is dropped
    ids = torch.randint(320, (7, n_prompt), generator=torch.Generator().manual_seed(1))
    expected = [list(generate(model, row, 13, greedy)) for row in ids.tolist()]
    assert generate_batch(model, ids, 13).tolist() == expected
    assert len({tuple(row) for row in expected}) > 1


def test_a_text_that_ended_stays_ended_and_the_others_go_on(draw_gpt):
    model = draw_gpt(seed=3)
    ids = torch.randint(320, (60, 5), generator=torch.Generator().manual_seed(1))
    free = generate_batch(model, ids, 12)
    stop = int(free[:, 3].mode().values)
    ended = (free == stop).cumsum(dim=1) > 0
    assert ended.any()
    assert torch.equal(generate_batch(model, ids, 12, stop=stop), free.masked_fill(ended, stop))


def test_samples_of_a_batch_follow_the_probabilities():
    logits = torch.tensor([[0.5, 0.0, 0.2, 0.3]]).log().expand(8000, 4)
    drawn = batch_sampler(1.0, torch.Generator().manual_seed(1))(logits)
    assert drawn.shape == (8000, 1)
    assert (torch.bincount(drawn[:, 0], minlength=4) / 8000).tolist() == pytest.approx([0.5, 0.0, 0.2, 0.3], abs=0.02)
    assert (batch_sampler(0.01, torch.Generator().manual_seed(1))(logits) == 0).all()
