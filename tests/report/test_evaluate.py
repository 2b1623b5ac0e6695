"""Reports of the stage evaluate: every figure is in its row, whatever is missing is said."""

import pytest

from llm.report.evaluate import continuations, evaluation, pictures, samples
from tests.report.samples import EVALUATE, MODEL, SPLIT, rows_of


def with_test(**changes: object) -> dict:
    """Details of test alone, with parts of its figures changed."""
    return EVALUATE | {"splits": {"test": SPLIT | changes}}


def test_each_figure_is_in_its_row_with_a_column_per_split():
    rows = rows_of(evaluation(EVALUATE))
    expected = {
        "bits per byte": ["1.2500 [1.1250, 1.5000]", "1.7500 [1.1250, 1.5000]"],
        "documents": ["13", "13"],
        "accuracy": ["0.4375", "0.4375"],
        "calibration error": ["0.0312", "0.0312"],
        "1": ["4.5000", "4.2500"],
        "3–4": ["3.5000", "–"],
        "8": ["50.0%", *["2.6250", "0.1250 [0.0625, 0.2500]"] * 2],
        "16": ["100.0%", *["2.5000", "–"] * 2],
        "30%–40%": ["55", "37.5%", "25.0%"],
        "such tokens": ["25.0%", "25.0%"],
        "of the tokens found in train": ["0.7500", "0.7500"],
        "of all other tokens": ["–", "–"],
        "texts": ["196", "196", "–"],
        "real words": ["0.9000 [0.8750, 0.9375]", "0.9600", "0.9375"],
        "docstring sections that parse": ["–", "0.7500", "–"],
        "`code & more`": ["test", "12", "90,000", "4,000", "1.2000 [1.1000, 1.3000]"],
        "`prose`": ["test", "1", "8,765", "321", "2.2000"],
        "xz -9e, given the training text": ["1.4100", "-0.1600 [-0.2000, -0.1200]"],
        "bzip2 -9": ["1.9000", "-0.6500"],
        "`code/a\\|<b>.py`": ["1,234", "3.7500"],
    }
    assert {name: rows.get(name) for name in expected} == expected
    assert "repetition flagged" not in rows


@pytest.mark.parametrize(
    ("details", "words"),
    [
        (with_test(), "less than xz -9e, given the training text, the best baseline: **better, outside of"),
        (with_test(model=MODEL | {"bits_per_byte_difference": 0.5}), "0.500 bits per byte more than xz"),
        (with_test(), "187.25 are compared on average, sampled at temperature 0.65.\nThe model ended 3.5%"),
        (with_test(context=[]), "No text was as long as the context."),
        (EVALUATE | {"quality": {"skipped": "the reason"}}, "Not measured: the reason."),
        (EVALUATE | {"splits": {}}, "No text was held out"),
        (EVALUATE, "## The hardest documents of val"),
    ],
)
def test_sentences_state_what_was_and_was_not_measured(details, words):
    assert words in evaluation(details)


def test_samples_and_continuations_are_in_fences():
    text = samples(EVALUATE)
    assert "Up to 30 tokens after each prompt" in text
    assert "## `<i>`, temperature 0.7, top 50\n\n````text\n<i>│\tx & y\n```</pre>\n````\n" in text
    text = continuations(EVALUATE)
    assert "The first 1 of 196 continuations of test, in the order drawn: 47 tokens" in text
    assert "## 1: `code/d.py, token 17`\n\n```text\ndef │f(): pass\n```\n" in text
    skipped = continuations(EVALUATE | {"quality": {"skipped": "no text"}, "continuations": []})
    assert skipped == "# Continuations\n\nThere are none: no text.\n"


def test_pictures_show_the_last_split_in_order():
    found = pictures(EVALUATE | {"splits": {"test": SPLIT}})
    bars = found["bits_per_byte"]
    assert found.keys() == {"bits_per_byte", "context", "calibration"}
    assert bars.index(">xz -9e, given the trai") > 0
    assert ">1.250<" in bars
    assert all(">held-out text (test)<" in picture for picture in found.values())
    nothing = pictures(EVALUATE | {"splits": {}})
    assert all(">no text was held out<" in picture for picture in nothing.values())
