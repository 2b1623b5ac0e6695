"""Figures of answers by hand, and the answers of a model that ends them."""

from itertools import pairwise

import pytest
import sacrebleu
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.finetune.shared.chat import conversation_ids
from llm.finetune.shared.language import answer, score_answers, spread, token_f1
from llm.tokens.special import END_OF_TEXT, IM_END


@pytest.mark.parametrize(
    ("one", "other", "f1"),
    [
        ("The river runs.", "the RIVER runs .", 1.0),
        ("rain", "river", 0.0),
        ("a a b", "a b b", 2 / 3),
        ("", "", 1.0),
        ("", "rain", 0.0),
    ],
)
def test_token_f1_by_hand(one, other, f1):
    assert token_f1(one, other) == token_f1(other, one) == pytest.approx(f1)


def test_figures_are_means_and_chrf_is_that_of_sacrebleu():
    answers, references = ["rain", "it runs fast", "no"], ["rain", "it runs", "yes"]
    chrf = round(sacrebleu.CHRF().corpus_score(answers, [references]).score, 3)
    assert score_answers(answers, references) == {"token_f1": 0.6, "exact_match": 0.33333, "chrf": chrf}


@given(n_rows=st.integers(0, 60), n=st.integers(1, 20))
def test_rows_are_spread_evenly(n_rows, n):
    chosen = spread(range(n_rows), n)
    assert len(chosen) == min(n, n_rows)
    gaps = [after - before for before, after in pairwise(chosen)]
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


@pytest.mark.parametrize("ending", [IM_END, END_OF_TEXT])
def test_an_answer_ends_at_a_marker(draw_gpt, tokenizer, monkeypatch, ending):
    said = [*tokenizer.encode(" It rains.\n"), tokenizer.special[ending], *tokenizer.encode("more")]
    monkeypatch.setattr(
        "llm.finetune.shared.language.generate", lambda *given: said[: said.index(*given[-1] & {*said})]
    )
    assert answer(draw_gpt(), conversation_ids(tokenizer, [("user", "go")]), tokenizer, 30) == "It rains."


def test_an_answer_ends_where_the_context_is_full(draw_gpt, tokenizer):
    model, prompt = draw_gpt(), conversation_ids(tokenizer, [("user", "go on")])
    room = model.config.context_length - len(prompt) + 1
    torch.manual_seed(0)
    assert answer(model, prompt, tokenizer, 1000) == answer(model, prompt, tokenizer, room)
    assert answer(model, prompt, tokenizer, 3) != answer(model, prompt, tokenizer, room)
