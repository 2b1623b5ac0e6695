import numpy as np
import pytest

from llm.evaluate import quality
from llm.evaluate.quality import (
    Written,
    cut_alike,
    decode_after,
    draw_stretches,
    few,
    measure_quality,
    words_not_in,
    words_written,
)
from llm.tokens.tokenizer import LibraryTokenizer, Tokenizer
from llm.tokens.words import train_chars, train_words

TRAIN = ["The river runs, the rain falls; it runs and runs.", "Über den Fluß; 雨が降る"]


def measure(model, true, documents=None, train=TRAIN):
    sides = [[Written("", text) for text in texts] for texts in (model, true)]
    documents = np.arange(len(model)) if documents is None else np.array(documents)
    return measure_quality(*sides, documents, train, np.random.default_rng(1))


@pytest.mark.parametrize(
    ("lengths", "begins"),
    [
        ([], []),
        ([0, 3], []),
        ([19], []),  # 4 are read, and 16 have to follow
        ([20, 19, 21], [(0, 0, 20), (2, 0, 21)]),
        ([24], [(0, 0, 24)]),
        ([43, 1, 44], [(0, 0, 24), (2, 0, 24), (2, 24, 20)]),
        ([100], [(0, 0, 24), (0, 24, 24), (0, 48, 24), (0, 72, 24)]),
    ],
)
def test_stretches_lie_side_by_side_in_documents_and_each_is_drawn_once(lengths, begins):
    stream = np.array(
        [0, *(token for length in lengths for token in [*range(1, length + 1), 0])][: None if lengths else 0]
    )
    drawn = draw_stretches(stream, 0, 4, 20, 99, np.random.default_rng(3))
    own_begins = np.concatenate([[0], np.cumsum(np.array(lengths, dtype=int) + 1)]) + 1
    found = [
        (document, place - own_begins[document], n)
        for place, n, document in zip(drawn.places, drawn.n_tokens, drawn.documents, strict=True)
    ]
    assert sorted(found) == begins


def test_another_seed_draws_in_another_order_and_no_more_than_asked():
    stream = np.array([0, *[5] * 1000, 0])
    first, again, other = (draw_stretches(stream, 0, 4, 20, 9, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert len(first.places) == len(set(first.places.tolist())) == 9
    assert first.places.tolist() == again.places.tolist() != other.places.tolist()
    assert first.places.tolist() != sorted(first.places.tolist())


@pytest.mark.parametrize(
    ("written", "true", "cut"),
    [
        ([1, 2, 3], [4, 5, 6], ([1, 2, 3], [4, 5, 6])),
        ([1, 2, 3], [4], ([1], [4])),  # the document ends
        ([1, 0, 0], [4, 5, 6], ([1], [4])),  # the model ends
        ([0, 0, 0], [4, 5, 6], ([], [])),
        ([1, 2, 0], [4], ([1], [4])),
    ],
)
def test_both_continuations_have_as_many_tokens_as_the_shorter(written, true, cut):
    assert cut_alike(written, true, 0) == cut


@pytest.mark.parametrize(
    ("prompt", "text", "words"),
    [
        ("", "", []),
        ("", "one", []),
        ("", "one two", ["one"]),
        ("The arr", "ay is empty", ["array", "is"]),
        ("The array", " is empty", ["is"]),
        ("The ", "end. ", []),
        ("", "Ünder_SCORE 3.14 x1y2 2024-11 É end", ["ünder", "score", "x", "y", "é"]),
        ("雨が", "降るよ", ["降", "る"]),
        ("हि", "न्दी में", ["हिन्दी"]),
        ("caf", "\ufffd x y", ["x"]),
    ],
)
def test_words_are_whole_ones_behind_the_prompt_without_the_last(prompt, text, words):
    assert words_written(Written(prompt, text)) == words


def test_words_are_looked_for_whatever_their_case_and_digits_and_only_until_all_are_found():
    texts = iter(["RIVER_9 runs", "fluß 雨", "never read"])
    assert words_not_in(["river", "runs", "fluss", "雨"], texts) == set()
    assert next(texts) == "never read"
    assert words_not_in(["rivver", "雪"], TRAIN) == {"rivver", "雪"}


def test_every_figure_is_of_both_sides_and_their_ratio_is_the_models_part():
    figures = measure(["The river rons the river rons the x"] * 2, ["The river runs and the rain falls x"] * 2)
    model, true = figures["model"], figures["true"]
    assert (model["words"], true["words"]) == (14, 14)
    assert (model["real_words"], true["real_words"]) == (0.71429, 1.0)
    # 7 words a text have 5 runs of three; of the first three differ, of the other all, and both stand twice.
    assert (model["distinct_3grams"], true["distinct_3grams"]) == (0.3, 0.5)
    assert (model["repetition_flagged"], true["repetition_flagged"]) == (1.0, 0.0)
    assert figures["ratio"] == {"real_words": 0.71429, "distinct_3grams": 0.6}
    assert model["real_words_low"] == model["real_words_high"] == 0.71429


def test_an_interval_is_over_documents_and_not_over_texts():
    texts = ["rivver " * 3 + "x", "river " * 3 + "x"] * 10
    by_text = measure(texts, texts)["model"]
    assert by_text["real_words_low"] < by_text["real_words"] == 0.5 < by_text["real_words_high"]
    alike = measure(texts, texts, [number // 2 for number in range(20)])["model"]
    assert alike["real_words_low"] == alike["real_words_high"] == 0.5
    assert "real_words_low" not in measure(texts, texts, [0] * 20)["model"]


@pytest.mark.parametrize(("n", "is_measured"), [(19, False), (20, True)])
def test_sections_are_a_figure_where_the_true_texts_have_enough(n, is_measured):
    good, bad = "x\nReturns\n-------\nint\n    It.\n\n", "x\nReturns\n------\nint\n    It.\n\n"
    figures = measure([bad, *[good] * (n - 1)], [good] * n)
    assert [figures[side]["sections"] for side in ("model", "true")] == [n, n]
    assert [figures[side].get("sections_parsed") for side in ("model", "true")] == (
        [0.95, 1.0] if is_measured else [None] * 2
    )
    assert ("sections_parsed_low" in figures["model"]) == is_measured == ("sections_parsed" in figures["ratio"])


def test_a_section_whose_title_the_prompt_has_begun_is_not_judged():
    def sections(prompt, text):
        written = [Written(prompt, text)]
        return measure_quality(written, written, np.zeros(1, dtype=int), [], np.random.default_rng(1))["true"][
            "sections"
        ]

    body = "\n-------\nint\n    It.\n\n"
    assert [sections("Sum.\n\nRet", f"urns{body}"), sections("Sum.\n\n", f"Returns{body}")] == [0, 1]


@pytest.mark.parametrize("model", [["", ""], ["1 2 3", "4"]])
def test_a_model_that_writes_no_word_has_no_share_of_them(model):
    figures = measure(model, ["The river runs"] * 2)
    assert figures["model"].keys() == {"words", "sections"} | {
        f"repetition_flagged{end}" for end in ("", "_low", "_high")
    }
    assert figures["ratio"] == {}
    assert few({"split": "test", "texts": 2, **figures})["true"].keys() == {"real_words", "repetition_flagged"}


@pytest.mark.parametrize("kind", ["bytes", "words", "words without whitespace", "characters"])
def test_the_text_behind_a_prompt_is_what_was_cut_off_there(kind, small_tokenizer_file):
    text = "the river runs, déjà vu 雨が降る and the rain falls"
    tokenizer = {
        "bytes": lambda: Tokenizer.load(small_tokenizer_file),
        "words": lambda: LibraryTokenizer(train_words([text], 100, 1, "keep")),
        "words without whitespace": lambda: LibraryTokenizer(train_words([text], 100, 1, "drop")),
        "characters": lambda: LibraryTokenizer(train_chars([text], 100, 1)),
    }[kind]()
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids)
    pad = tokenizer.special["<|pad|>"]
    for at in range(1, len(ids)):
        written = decode_after(tokenizer, [pad, *ids[:at]], [*ids[at:], pad])
        assert written.prompt + written.text == whole
        assert "\ufffd" not in written.prompt + written.text
    # All words of every continuation are real, wherever it was cut, for the first counts whole and the last not.
    pieces = [decode_after(tokenizer, ids[:at], ids[at:-1]) for at in range(1, len(ids) - 1)]
    assert {word for piece in pieces for word in words_not_in(words_written(piece), [whole])} == set()


def test_measures_have_words_for_a_reader():
    assert all(title and about.endswith(".") for title, about in quality.MEASURES.values())
