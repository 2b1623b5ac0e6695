"""The report of memorization."""

import pytest

from llm.report.memorise import markdown
from tests.report.samples import MEMORISE, RECALL, rows_of

NONE = {"model": {"prefixes": 0}}


def test_figures_and_texts_are_in_tables():
    rows = rows_of(markdown(MEMORISE))
    assert rows["prefixes"] == ["200", "200"]
    assert rows["25 tokens verbatim"] == ["0.0150", "0.0000"]
    assert rows["50+"][0] == "`a\\|b.py`"
    assert rows["50+"][1].startswith("`` import\\tthis `x`\\n") and rows["50+"][1].endswith("… ``")
    assert rows["`def f`, greedy"] == ["30", "9", "`c.py`", "`return`"]
    assert rows["`def f`, temperature 1"] == ["0", "0", "–", "–"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "No sign that the model copies"),
        ({"copies": True, "train": {"model": RECALL | {"verbatim_25": 0.5}}}, "**The model copies**: more of train"),
        ({"copies": None, "test": NONE}, "Test has no document that is long enough"),
        ({"train": NONE}, "No document of train is long enough"),
        ({"non_causal": True}, "Attention is not causal"),
        ({"samples": []}, "There are none."),
        ({}, "2 of 10 samples copy: 25 tokens in a row or more"),
        ({}, "Of 13 passages of test of 30 tokens, 3 do; their longest run is 10.5 tokens in the median, 45 at most."),
    ],
)
def test_sentences_state_the_verdict_and_what_is_missing(changes, sentence):
    assert sentence in markdown(MEMORISE | changes)
