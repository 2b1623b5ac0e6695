"""A choice costs the sum over its ids, and the likeliest is the answer."""

import numpy as np
import pytest
import torch

from llm.core.errors import UserError
from llm.evaluate.multiple_choice import Item, chance, encode_pair, grade, measure_items, score_items


def test_whitespace_before_a_choice_belongs_to_it(tokenizer):
    context, choice = encode_pair(tokenizer.encode, "the rain \n ", "falls")
    assert (tokenizer.decode(context), tokenizer.decode(choice)) == ("the rain", " \n falls")


@pytest.mark.parametrize("shape", [{}, {"family": "gpt2", "n_kv_heads": 2}, {"family": "gru"}], ids=str)
def test_a_choice_scores_the_sum_of_its_log_probabilities(draw_gpt, tokenizer, shape):
    model = draw_gpt(context_length=64, **shape)
    items = [
        Item("a", "The river", [" runs", " falls and falls", ")"], 0),
        Item("b", "The rain,", [" rain", " x"], 1),
        Item("c", "x", [" yz", "+"], 1),
        Item("d", "for name in", [" path", " name", " river runs"], 1),
    ]
    found = score_items(model, tokenizer.encode, items)
    for item, of_item in zip(items, found, strict=True):
        for choice, score in zip(item.choices, of_item, strict=True):
            ids = tokenizer.encode(item.context + choice)
            with torch.no_grad():
                logs = model(torch.tensor([ids]))[0].log_softmax(dim=-1)
            n = len(tokenizer.encode(item.context))
            assert score == pytest.approx(sum(logs[at - 1, ids[at]].item() for at in range(n, len(ids))), abs=1e-4)


def test_an_item_for_a_longer_context_is_refused(draw_gpt, tokenizer):
    with pytest.raises(UserError, match=r"context of 48 tokens, got \d+ \+ 1 tokens in long\.txt"):
        score_items(draw_gpt(), tokenizer.encode, [Item("long.txt", "xyz " * 30 + "x", [")", "]"], 0)])


@pytest.mark.parametrize(
    ("choices", "answer", "scores", "grades"),
    [
        (["éé", "x"], 0, [-3.0, -1.8], (False, True)),  # by characters, not by bytes
        (["x", "y"], 0, [-1.0, -1.0], (True, True)),  # ties go to the first
        (["x", "y"], 1, [-1.0, -1.0], (False, False)),
    ],
)
def test_the_second_accuracy_is_by_characters(choices, answer, scores, grades):
    assert grade(Item("", "a", choices, answer), np.array(scores)) == grades


def test_chance_is_a_random_choice_or_the_most_frequent_answer():
    assert chance([Item("", "a", [")", "]"], answer) for answer in (0, 0, 0, 1)]) == 0.75
    assert chance([Item("", "a", [word, "x", "y", "z"], 0) for word in "abcdefgh"]) == 0.25


def test_accuracies_have_intervals_over_documents():
    items = [Item(document, "a", ["x", "y"], 0) for document in "aabbcd"]
    scores = [np.array([0.0, -1.0])] * 4 + [np.array([-1.0, 0.0])] * 2
    found = measure_items(items, scores, np.random.default_rng(1))
    assert (found["items"], found["documents"]) == (6, 4)
    assert found["accuracy"] == found["accuracy_norm"] == round(4 / 6, 5)
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"] == 1.0
    found = measure_items(items[:2], scores[:2], np.random.default_rng(1))
    assert found == {"items": 2, "documents": 1, "accuracy": 1.0, "accuracy_norm": 1.0}
