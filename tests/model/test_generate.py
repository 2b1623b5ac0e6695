import pytest
import torch

from llm.model.generate import generate, greedy, sampler

PROMPT = [3, 1, 4, 1, 5]


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
def test_logits_from_kept_keys_are_those_of_reading_the_whole_text_again(model, config):
    n = config.context_length - len(PROMPT)
    text, seen = _recorded(model, PROMPT, n)
    for place, logits in enumerate(seen, start=len(PROMPT)):
        torch.testing.assert_close(logits, model(torch.tensor([text[:place]]))[0, -1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("n_prompt", [2, 7, 11])
def test_past_the_context_each_token_follows_from_a_whole_half_of_it_or_more(draw_gpt, config, n_prompt):
    length = 7
    model = draw_gpt(**config.model_dump() | {"context_length": length})
    ids = [place * 7 % config.vocab_size for place in range(n_prompt)]
    text, seen = _recorded(model, ids, 2 * length)
    assert len(text) == n_prompt + 2 * length
    for place, logits in enumerate(seen, start=n_prompt):
        shortest = place if place <= length else length // 2
        pasts = [text[:place][-n:] for n in range(shortest, min(place, length) + 1)]
        again = torch.stack([model(torch.tensor([past]))[0, -1] for past in pasts])
        assert (again - logits).abs().amax(dim=-1).min() < 1e-4


def test_there_are_as_many_tokens_as_asked_for(model):
    for n in (0, 1, 7):
        assert len(list(generate(model, PROMPT, n, greedy))) == n


def test_a_stop_ends_the_text_and_is_not_given_out(model):
    text = iter([7, 8, 9, 10])
    assert list(generate(model, PROMPT, 4, lambda logits: next(text), stop=frozenset({9}))) == [7, 8]
    assert next(text) == 10


def test_the_given_ids_stay_as_they_are(model):
    ids = list(PROMPT)
    list(generate(model, ids, 3, greedy))
    assert ids == PROMPT


def test_the_same_seed_draws_the_same_text_and_another_seed_another(model):
    def draw(seed):
        return list(generate(model, PROMPT, 11, sampler(1.0, None, torch.Generator().manual_seed(seed))))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.fixture
def logits():
    return torch.tensor([0.1, 0.4, 0.2, 0.3]).log()


def _shares(choose, logits, n=2000):
    return torch.bincount(torch.tensor([choose(logits) for _ in range(n)]), minlength=len(logits)) / n


def test_greedy_takes_the_likeliest(logits):
    assert greedy(logits) == 1


def test_at_temperature_one_ids_are_drawn_as_often_as_they_are_likely(logits):
    shares = _shares(sampler(1.0, None, torch.Generator().manual_seed(1)), logits)
    torch.testing.assert_close(shares, logits.exp(), atol=0.04, rtol=0)


def test_a_lower_temperature_prefers_the_likely_and_a_higher_one_evens_out(logits):
    cold, warm, hot = (
        _shares(sampler(temperature, None, torch.Generator().manual_seed(1)), logits)[1]
        for temperature in (0.5, 1.0, 2.0)
    )
    assert cold > warm > hot > 0.25


def test_only_the_top_k_are_drawn_in_their_proportions(logits):
    shares = _shares(sampler(1.0, 2, torch.Generator().manual_seed(1)), logits)
    torch.testing.assert_close(shares, torch.tensor([0, 4 / 7, 0, 3 / 7]), atol=0.04, rtol=0)
    assert not shares[[0, 2]].any()


def test_the_top_one_is_greedy_and_a_top_beyond_the_vocabulary_is_all(logits):
    assert _shares(sampler(5.0, 1, torch.Generator()), logits, n=50)[1] == 1
    every, beyond = (_shares(sampler(1.0, k, torch.Generator().manual_seed(1)), logits) for k in (None, 100))
    assert torch.equal(every, beyond)


def test_drawing_leaves_the_logits_as_they_are(logits):
    before = logits.clone()
    sampler(0.5, 2, torch.Generator())(logits)
    assert torch.equal(logits, before)
