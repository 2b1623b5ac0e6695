"""The reports of prepare, tokenize, sample, pretrain and memorise, from their details."""

import pytest

from llm.report import stages
from llm.train.curve import Curve
from tests.report.samples import MEMORISE, RECALL, rows_of

PREPARE = {
    "sources": {"mine": {"found": 3000, "documents": 2, "bytes": 12345}},
    "splits": {"train": {"documents": 2, "bytes": 5}},
    "notes": ["Split by document."],
    "rules_off": ["a_b"],
    "dropped": {
        "too_long": {"documents": 7, "bytes": 9, "examples": [[f"f{n}", "why"] for n in range(5)]},
        "empty": {"documents": 1, "bytes": 1, "examples": [["a`b\n# c", "# head\n<b>*x*</b> \x1b[31m|"]]},
    },
    "encodings": {"a.txt": "koi8-r, guessed, confidence 0.9"},
    "dialects": {"separated by tabs": {"files": 6, "examples": ["a.tsv", "b.tsv"]}},
}


@pytest.mark.parametrize(
    "line",
    [
        "| mine | 3,000 | 2 | 12,345 |",
        "| train | 2 | 5 |",
        "- Split by document.",
        "| too long | 7 | 9 |",
        "Rules that are turned off: a b.",
        "## too long",
        "- `f4` · why",
        "- and 2 more",
        "- `a.txt` · koi8-r, guessed, confidence 0.9",
        "- separated by tabs: `a.tsv`, `b.tsv` and 4 more",
        r"- `` a`b # c `` · \# head \<b\>\*x\*\</b\> \[31m\|",  # documents cannot add Markdown
    ],
)
def test_documents_that_were_dropped_are_shown(line):
    assert line in stages.documents(PREPARE).splitlines()


def test_tokens_and_contaminated_documents_are_in_tables():
    tokens = [{"id": 7, "token": " |\n", "bytes": 3, "count": 1234}]
    report = stages.vocabulary({"longest": tokens, "most_frequent": tokens})
    assert report.count("| 7 | `'␣\\|\\n'` | 3 | 1,234 |") == 2
    val = {"ngrams": 1500, "fraction": 0.4, "documents": [{"document": "a|b.md", "ngrams": 3, "fraction": 0.66667}]}
    report = stages.contamination({"ngram": 13, "splits": {"val": val, "test": val | {"documents": []}}})
    shown = ("n-grams of 13 tokens", "| val | 1,500 | 40.00% |", "| `a\\|b.md` | 3 | 66.7% |")
    assert [part for part in shown if part not in report] == []
    assert report.endswith("## test: documents with the largest fractions\n\nNone.\n")


def test_the_curve_is_read_back(tmp_path):
    rows = [{"step": 1, "train_loss": 2.5, "lr_factor": 1.0}]
    rows.append({"step": 2, "train_loss": 2.0, "lr_factor": 0.5, "val_loss": 2.25})
    Curve(rows).write(tmp_path / "curve.tsv")
    assert stages.read_curve((tmp_path / "curve.tsv").read_text().splitlines()) == rows


def test_memorized_texts_are_in_tables():
    rows = rows_of(stages.memorization(MEMORISE))
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
        ({"copies": None, "test": {"model": {"prefixes": 0}}}, "Test has no document that is long enough"),
        ({"train": {"model": {"prefixes": 0}}}, "No document of train is long enough"),
        ({"non_causal": True}, "Attention is not causal"),
        ({"samples": []}, "There are none."),
        ({}, "2 of 10 samples copy: 25 tokens in a row or more"),
        ({}, "Of 13 passages of test of 30 tokens, 3 do; their longest run is 10.5 tokens in the median, 45 at most."),
    ],
)
def test_sentences_on_memorization_state_the_verdict(changes, sentence):
    assert sentence in stages.memorization(MEMORISE | changes)
