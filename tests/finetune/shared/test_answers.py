"""Figures of answers by hand, answers of a model that knows one, and a page that shows them."""

from itertools import pairwise

import pytest
import sacrebleu
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.finetune.shared.answers import answer, answer_ids, score_answers, show_answers, spread, token_f1
from llm.finetune.shared.chat import Message, prompt_ids
from llm.tokens.special import END_OF_TEXT, IM_END
from llm.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer_file) -> Tokenizer:
    return Tokenizer.load(small_tokenizer_file)


@pytest.mark.parametrize(
    ("given_", "wanted", "f1"),
    [
        ("The river runs.", "the RIVER runs .", 1.0),
        ("rain", "river", 0.0),
        ("a a b", "a b b", 2 / 3),
        ("one two three four", "two", 2 * 1 / 5),
        ("", "", 1.0),
        ("", "rain", 0.0),
    ],
)
def test_token_f1_by_hand(given_, wanted, f1):
    assert token_f1(given_, wanted) == pytest.approx(f1)
    assert token_f1(wanted, given_) == pytest.approx(f1)


def test_figures_are_means_over_answers_and_chrf_is_that_of_sacrebleu():
    answers, references = ["rain", "it runs fast", "no"], ["rain", "it runs", "yes"]
    figures = score_answers(answers, references)
    assert figures["exact_match"] == pytest.approx(1 / 3, abs=1e-5)
    assert figures["token_f1"] == pytest.approx((1 + 0.8 + 0) / 3, abs=1e-5)
    assert figures["chrf"] == pytest.approx(sacrebleu.CHRF().corpus_score(answers, [references]).score, abs=1e-3)
    assert score_answers(references, references) == {"token_f1": 1.0, "exact_match": 1.0, "chrf": 100.0}


@given(n_rows=st.integers(0, 60), n=st.integers(1, 20))
def test_rows_are_spread_evenly(n_rows, n):
    chosen = spread(range(n_rows), n)
    assert len(chosen) == min(n, n_rows)
    gaps = [after - before for before, after in pairwise(chosen)]
    assert chosen[:1] == ([0] if n_rows else [])
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


@pytest.mark.parametrize("ending", [IM_END, END_OF_TEXT])
def test_an_answer_ends_where_a_marker_stands(draw_gpt, tokenizer, monkeypatch, ending):
    said = [*tokenizer.encode(" It rains.\n"), tokenizer.special[ending], *tokenizer.encode("more")]
    logits = iter(torch.eye(tokenizer.vocab_size)[said])
    monkeypatch.setattr("llm.model.generate.can_decode", lambda model: False)
    model = draw_gpt()
    monkeypatch.setattr(model.head, "forward", lambda hidden: next(logits))
    assert answer(model, "go", tokenizer, 30) == "It rains."


def test_an_answer_stops_where_the_context_is_full(draw_gpt, tokenizer):
    """A model that forgets the older half of what it reads would answer another question."""
    model = draw_gpt()
    prompt = prompt_ids(tokenizer, "go on")
    room = model.config.context_length - len(prompt) + 1
    assert answer_ids(model, prompt, tokenizer, 1000) == answer_ids(model, prompt, tokenizer, room)
    assert answer_ids(model, prompt, tokenizer, 3) != answer_ids(model, prompt, tokenizer, room)


def test_the_page_shows_prompts_turns_and_answers_and_no_fence_ends_early():
    prompts = [[Message("user", "go")], [Message("system", "Be brief."), Message("user", "```\n````\n```")]]
    page = show_answers(prompts, {"after": ["went", "x"], "reference": ["gone", "y"]})
    assert page.startswith(
        "# Answers to 2 held-out prompts\n\n## Prompt 1\n\n````text\ngo\n````\n\n**after**\n\n````text\nwent\n````\n"
    )
    assert "system:\n\n````text\nBe brief.\n````\n\nuser:\n\n`````text\n```\n````\n```\n`````\n" in page
    assert page.endswith("**reference**\n\n````text\ny\n````\n")
