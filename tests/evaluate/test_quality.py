import numpy as np
import pytest
import torch

from llm.evaluate.params import QualityParams
from llm.evaluate.quality import (
    N_SHOWN,
    Continuation,
    compare_sides,
    decode_after,
    measure_quality,
    sample_passages,
    words_not_in,
    words_written,
)
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.words import train_chars, train_words

TRAIN = ["The river runs, the rain falls; it runs and runs.", "Über den Fluß; 雨が降る"]
PARAMS = QualityParams(texts=25, prompt_tokens=5, new_tokens=20, temperature=0.7)


@pytest.mark.parametrize("shape", [{"family": "gru"}, {"context_length": 9}, {"context_length": 4}], ids=str)
def test_any_model_that_generates_is_measured(draw_gpt, tokenizer, hold_out, shape):
    model = draw_gpt(**shape)
    ids = tokenizer.encode("the river runs and the rain falls, " * 40)
    held_out = [hold_out({"s/0": [9]}, "val"), hold_out({f"s/{number}": ids for number in range(4)})]
    first, again, other = (
        measure_quality(model, tokenizer, held_out, PARAMS, ["the river"], seed) for seed in (1, 1, 2)
    )
    assert first == again != other
    figures, shown = first
    n_prompt = min(5, model.config.context_length)
    assert (figures["split"], figures["model"]["texts"], figures["prompt_tokens"]) == ("test", 25, n_prompt)
    assert figures["true_text"]["real_words"] < 1
    assert len(shown) == N_SHOWN
    assert all(of["prompt"] == tokenizer.decode(ids[of["token"] :][:n_prompt]) for of in shown)
    assert len({of["text"] for of in shown}) > 1


@pytest.mark.parametrize(
    ("reason", "texts", "shape", "documents"),
    [
        ("evaluate.quality.texts is 0", 0, {}, [[9] * 99]),
        ("model.attention trainable is not causal", 25, {"attention": "trainable"}, [[9] * 99]),
        ("no text was held out", 25, {}, None),
        ("no document of test has 21 tokens", 25, {}, [[9] * 20, []]),
    ],
)
def test_a_reason_is_given_where_nothing_is_measured(draw_gpt, tokenizer, hold_out, reason, texts, shape, documents):
    held_out = [hold_out({f"s/{n}": ids for n, ids in enumerate(documents)})] if documents else []
    params = PARAMS.model_copy(update={"texts": texts})
    figures, shown = measure_quality(draw_gpt(**shape), tokenizer, held_out, params, [], 1)
    assert figures["skipped"].startswith(reason)
    assert shown == []


@torch.no_grad()
def test_a_model_that_ends_every_text_at_once(draw_gpt, tokenizer, hold_out):
    model = draw_gpt(tie_embeddings=False)
    # The last hidden state's first number becomes 1, and only the end of text depends on it.
    model.norm.weight.zero_()[0] = 1
    model.head.weight.zero_()[tokenizer.end_of_text, 0] = 50
    model.embedding.weight[:, 0] = 50
    figures, shown = measure_quality(model, tokenizer, [hold_out({"s/a": [9] * 99})], PARAMS, [], 1)
    assert (figures["model"]["texts"], figures["mean_tokens"], figures["ended_sooner"]) == (4, 0, 1)
    assert "real_words" not in figures["model"]
    assert [of["text"] for of in shown] == [""] * 4


@pytest.mark.parametrize(
    ("lengths", "begins"),
    [
        ([], []),
        ([19], []),  # 4 are read, and 16 have to follow
        ([20, 19, 21], [(0, 0, 20), (2, 0, 21)]),
        ([43, 1, 44], [(0, 0, 24), (2, 0, 24), (2, 24, 20)]),
        ([100], [(0, 0, 24), (0, 24, 24), (0, 48, 24), (0, 72, 24)]),
    ],
)
def test_passages_lie_side_by_side_in_documents_in_random_order(lengths, begins):
    ids = [0, *(token for length in lengths for token in [*range(1, length + 1), 0])]
    positions, n_tokens, documents = sample_passages(np.array(ids), 0, 4, 20, 99, np.random.default_rng(3))
    own_begins = np.cumsum([1, *(length + 1 for length in lengths)])
    found = [*zip(documents, positions - own_begins[documents], n_tokens, strict=True)]
    assert sorted(found) == begins
    assert len(begins) < 4 or found != begins


@pytest.mark.parametrize(
    ("prompt", "text", "words"),
    [
        ("", "one", []),
        ("The arr", "ay is empty", ["array", "is"]),
        ("The array", " is empty", ["is"]),
        ("The ", "end. ", []),
        ("", "Ünder_SCORE 3.14 x1y2 2024-11 É end", ["ünder", "score", "x", "y", "é"]),
        ("雨が", "降るよ", ["降", "る"]),
        ("हि", "न्दी में", ["हिन्दी"]),
        ("caf", "\ufffd x y", ["x"]),
    ],
)
def test_words_are_whole_ones_without_the_last(prompt, text, words):
    assert words_written(Continuation(prompt, text)) == words


def test_training_text_is_read_until_every_word_is_found():
    texts = iter(["RIVER_9 runs", "fluß 雨", "never read"])
    assert words_not_in(["river", "runs", "fluss", "雨"], texts) == set()
    assert next(texts) == "never read"
    assert words_not_in(["rivver", "雪"], TRAIN) == {"rivver", "雪"}


def compare(model, true, documents=None, prompt=""):
    sides = [[Continuation(prompt, text) for text in texts] for texts in (model, true)]
    documents = np.arange(len(model)) if documents is None else np.array(documents)
    return compare_sides(*sides, documents, TRAIN, np.random.default_rng(1))


def test_every_figure_is_of_both_sides_and_has_a_ratio():
    figures = compare(["The river rons the river rons the x"] * 2, ["The river runs and the rain falls x"] * 2)
    model, true = figures["model"], figures["true_text"]
    assert (model["words"], true["words"]) == (14, 14)
    assert (model["real_words"], true["real_words"]) == (0.71429, 1.0)
    # 7 words a text have 5 runs of three; of the first three differ, of the other all, and both occur twice.
    assert (model["distinct_3grams"], true["distinct_3grams"]) == (0.3, 0.5)
    assert (model["repetition_flagged"], true["repetition_flagged"]) == (1.0, 0.0)
    assert figures["ratio"] == {"real_words": 0.71429, "distinct_3grams": 0.6}


def test_an_interval_is_over_documents_and_not_over_texts():
    texts = ["rivver " * 3 + "x", "river " * 3 + "x"] * 10
    by_text = compare(texts, texts)["model"]
    assert by_text["real_words_low"] < by_text["real_words"] == 0.5 < by_text["real_words_high"]
    alike = compare(texts, texts, [number // 2 for number in range(20)])["model"]
    assert alike["real_words_low"] == alike["real_words_high"] == 0.5


@pytest.mark.parametrize(("n", "fractions"), [(19, [None, None]), (20, [0.95, 1.0])])
def test_sections_are_measured_where_the_true_texts_have_enough(n, fractions):
    good, bad = "x\nReturns\n-------\nint\n    It.\n\n", "x\nReturns\n------\nint\n    It.\n\n"
    figures = compare([bad, *[good] * (n - 1)], [good] * n)
    sides = [figures[side] for side in ("model", "true_text")]
    assert [side["sections"] for side in sides] == [n, n]
    assert [side.get("sections_parsed") for side in sides] == fractions
    # A title that begins in the prompt does not count.
    assert compare(["urns\n-------\nint\n    It.\n\n"], ["x"], prompt="Sum.\n\nRet")["model"]["sections"] == 0


def test_the_text_after_a_prompt_is_the_rest_of_the_whole(tokenizer):
    text = "the river runs, déjà vu 雨が降る and the rain falls"
    for of in (tokenizer, Tokenizer(train_words([text], 100, 1, False)), Tokenizer(train_chars([text], 100, 1))):
        ids, pad = of.encode(text), of.special["<|pad|>"]
        whole = of.decode(ids)
        for at in range(1, len(ids)):
            assert "".join(decode_after(of, [pad, *ids[:at]], [*ids[at:], pad])) == whole
        # All words of every continuation occur in the whole, wherever it was cut.
        pieces = [decode_after(of, ids[:at], ids[at:-1]) for at in range(1, len(ids) - 1)]
        assert {word for piece in pieces for word in words_not_in(words_written(piece), [whole])} == set()
