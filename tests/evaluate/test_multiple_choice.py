"""What a choice costs is the sum over its ids, and the likeliest is the answer."""

import numpy as np
import pytest
import torch

from llm.core.errors import UserError
from llm.evaluate.multiple_choice import Item, chance, encode_pair, figures, grade, score_items
from llm.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer_file):
    return Tokenizer.load(small_tokenizer_file)


def test_whitespace_before_a_choice_is_the_choice_s(tokenizer):
    context, choice = encode_pair(tokenizer.encode, "the rain \n ", "falls")
    assert tokenizer.decode(context) == "the rain"
    assert tokenizer.decode(choice) == " \n falls"


@pytest.mark.parametrize("shape", [{}, {"family": "gpt2", "n_kv_heads": 2}, {"family": "gru"}], ids=str)
def test_a_choice_scores_the_sum_of_its_ids_log_probabilities(draw_gpt, tokenizer, shape):
    model = draw_gpt(context_length=64, **shape)
    items = [
        Item("a", "The river", [" runs", " falls and falls", ")"], 0),
        Item("b", "The rain,", [" rain", " x"], 1),
        Item("c", "x", [" yz", "+"], 1),
        Item("d", "for name in", [" path", " name", " river runs"], 1),
    ]
    found = score_items(model, tokenizer.encode, items, batch_size=2)
    for item, of_item in zip(items, found, strict=True):
        for choice, score in zip(item.choices, of_item, strict=True):
            ids = tokenizer.encode(item.context + choice)
            n = len(tokenizer.encode(item.context))
            with torch.no_grad():
                logs = model(torch.tensor([ids]))[0].log_softmax(dim=-1)
            expected = sum(logs[at - 1, ids[at]].item() for at in range(n, len(ids)))
            assert score == pytest.approx(expected, abs=1e-4)


def test_an_item_for_a_longer_context_is_refused(draw_gpt, tokenizer):
    with pytest.raises(UserError, match=r"context of 48 tokens, given \d+ \+ 1 tokens in long\.txt"):
        score_items(draw_gpt(), tokenizer.encode, [Item("long.txt", "xyz " * 30 + "x", [")", "]"], 0)])


def test_the_second_accuracy_is_by_characters_and_ties_go_to_the_first():
    assert grade(Item("", "a", ["éé", "x"], 0), np.array([-3.0, -1.8])) == (False, True)
    assert grade(Item("", "a", ["x", "y"], 0), np.array([-1.0, -1.0])) == (True, True)
    assert grade(Item("", "a", ["x", "y"], 1), np.array([-1.0, -1.0])) == (False, False)


def test_guessing_is_a_draw_or_the_most_frequent_answer():
    brackets = [Item("", "a", [")", "]"], answer) for answer in (0, 0, 0, 1)]
    assert chance(brackets) == 0.75
    words = [Item("", "a", [word, "x", "y", "z"], 0) for word in "abcdefgh"]
    assert chance(words) == 0.25


def test_figures_count_right_answers_and_draw_documents():
    items = [Item(document, "a", ["x", "y"], 0) for document in "aabbcd"]
    scores = [np.array([0.0, -1.0])] * 4 + [np.array([-1.0, 0.0])] * 2
    found = figures(items, scores, np.random.default_rng(1))
    assert (found["items"], found["documents"], found["chance"]) == (6, 4, 1.0)
    assert found["acc"] == found["acc_norm"] == round(4 / 6, 5)
    assert found["acc_low"] < found["acc"] < found["acc_high"] == 1.0
    assert found == figures(items, scores, np.random.default_rng(1))


def test_one_document_has_no_interval():
    found = figures([Item("a", "a", ["x", "y"], 0)] * 3, [np.array([0.0, -1.0])] * 3, np.random.default_rng(1))
    assert found == {"items": 3, "documents": 1, "chance": 1.0, "acc": 1.0, "acc_norm": 1.0}
