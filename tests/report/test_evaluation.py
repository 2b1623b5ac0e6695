import re

import pytest

from llm.report.evaluation import write_page

SUMMARY = {"bits_per_byte": 1.25, "bits_per_byte_low": 1.125, "bits_per_byte_high": 1.5, "nats_per_token": 2.5}
SUMMARY |= {"best_baseline": "xz_given_train", "verdict": "better, outside of chance"}
SUMMARY |= {f"bits_per_byte_difference{end}": value for end, value in (("", -0.16), ("_low", -0.2), ("_high", -0.12))}
SUMMARY |= {"perplexity": 12.1825, "tokens": 4321, "accuracy": 0.4375, "calibration_error": 0.03125}
FIGURES = {
    "documents": 13,
    "bytes": 98765,
    "summary": SUMMARY,
    "baselines": [
        {"baseline": "xz_given_train", "bits_per_byte": 1.41, "difference": -0.16}
        | {"difference_low": -0.2, "difference_high": -0.12},
        {"baseline": "bzip2", "bits_per_byte": 1.9, "difference": -0.65},
    ],
    "sources": [
        {"source": "code", "documents": 12, "bytes": 90000, "tokens": 4000, "bits_per_byte": 1.2}
        | {"bits_per_byte_low": 1.1, "bits_per_byte_high": 1.3},
        {"source": "prose", "documents": 1, "bytes": 8765, "tokens": 321, "bits_per_byte": 2.2},
    ],
    "positions": [
        {"from": 1, "to": 1, "targets": 3, "nats_per_token": 4.5},
        {"from": 3, "to": 4, "targets": 6, "nats_per_token": 3.5},
    ],
    "context": [
        {"context": 8, "share": 0.5, "windows": 7, "nats_per_token": 2.625, "more": 0.125}
        | {"more_low": 0.0625, "more_high": 0.25},
        {"context": 16, "share": 1.0, "windows": 7, "nats_per_token": 2.5, "more": 0.0},
    ],
    "calibration": [{"from": 0.3, "to": 0.4, "count": 55, "confidence": 0.375, "accuracy": 0.25}],
    "contamination": {
        "ngram": 13,
        "window_share": 0.5,
        "token_share": 0.25,
        "found": {"tokens": 9, "bytes": 30, "nats_per_token": 1.0, "bits_per_byte": 0.75},
        "not_found": {"tokens": 9, "bytes": 0, "nats_per_token": 1.0, "bits_per_byte": None},
    },
    "hardest": [{"document": "code/a|b.py", "bytes": 1234, "bits_per_byte": 3.75}],
    "easiest": [{"document": "code/c.py", "bytes": 4321, "bits_per_byte": 0.5}],
}
QUALITY = {
    "split": "test",
    "texts": 196,
    "prompt_tokens": 47,
    "mean_tokens": 187.25,
    "ended_sooner": 0.035,
    "temperature": 0.65,
    "model": {"words": 12345, "sections": 5, "real_words": 0.9, "real_words_low": 0.875, "real_words_high": 0.9375}
    | {"distinct_3grams": 0.5},
    "true": {"words": 12346, "sections": 25, "real_words": 0.96, "distinct_3grams": 0.625, "sections_parsed": 0.75},
    "ratio": {"real_words": 0.9375, "distinct_3grams": 0.8},
}
OTHER = FIGURES | {
    "summary": SUMMARY | {"bits_per_byte": 1.75},
    "positions": [{"from": 1, "to": 1, "targets": 3, "nats_per_token": 4.25}],
}


def _rows(page):
    """The cells of every table row, by its first cell."""
    rows = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in page.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in rows}


def test_each_figure_stands_in_its_row_a_column_a_split():
    rows = _rows(write_page({"val": FIGURES, "test": OTHER}))
    assert rows["**bits per byte**"] == ["**1.2500**", "**1.7500**"]
    assert rows["its 95% interval"] == ["1.125 to 1.500"] * 2
    assert rows["documents"] == ["13", "13"]
    assert rows["next-token accuracy"] == ["43.75%"] * 2
    assert rows["calibration error"] == ["0.0312"] * 2
    assert rows["1"] == ["4.500", "4.250"]
    assert rows["3–4"] == ["3.500", "–"]
    assert rows["8"] == ["50.0%", *["2.625 (+0.125: 0.062 to 0.250)"] * 2]
    assert rows["16"] == ["100.0%", "2.500", "2.500"]
    assert rows["0.3–0.4"] == ["55", "0.375", "0.250"]
    assert rows["tokens in one"] == ["25.0%", "25.0%"]
    assert rows["of the tokens found in train"] == ["0.7500", "0.7500"]
    assert rows["of all other ones"] == ["–", "–"]


def test_what_the_model_writes_stands_beside_the_true_continuations():
    page = write_page({"val": FIGURES, "test": OTHER | {"quality": QUALITY}})
    rows = _rows(page)
    assert rows["texts"] == ["196", "196", "–"]
    assert rows["words"] == ["12,345", "12,346", "–"]
    assert rows["real words"] == ["0.900 [0.875, 0.938]", "0.960", "0.938"]
    assert rows["distinct 3-grams"] == ["0.500", "0.625", "0.800"]
    assert rows["docstring sections that parse"] == ["–", "0.750", "–"]
    assert "repetition flagged" not in rows
    assert all(setting in page for setting in ("47 tokens", "187.25", "temperature 0.65", "3.5%"))
    assert "Not measured: the reason." in write_page({"test": OTHER | {"quality": {"skipped": "the reason"}}})


def test_a_source_of_one_document_has_no_interval():
    rows = _rows(write_page({"test": FIGURES}))
    assert rows["`code`"] == ["test", "12", "90,000", "4,000", "1.2000", "1.100 to 1.300"]
    assert rows["`prose`"] == ["test", "1", "8,765", "321", "2.2000", "– (one document)"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "0.160 bits per byte less than xz given train, the best baseline: **better, outside of chance**."),
        ({"bits_per_byte_difference": 0.5, "verdict": "worse, outside of chance"}, "0.500 bits per byte more than xz"),
        ({"verdict": "within chance"}, "the best baseline: **within chance**."),
    ],
)
def test_a_sentence_says_how_far_the_best_baseline_is(changes, words):
    page = write_page({"test": FIGURES | {"summary": SUMMARY | changes}})
    assert "On test the model needs " in page
    assert words in page


def test_a_baseline_without_bits_of_documents_has_no_interval():
    rows = _rows(write_page({"test": FIGURES}))
    assert rows["xz given train"] == ["1.4100", "-0.1600", "-0.200 to -0.120"]
    assert rows["bzip2"] == ["1.9000", "-0.6500", "–"]


def test_a_bar_in_a_name_is_no_cell():
    page = write_page({"test": FIGURES})
    assert "| `code/a\\|b.py` | 1,234 | 3.7500 |" in page


def test_each_table_has_rows_as_wide_as_its_head():
    page = write_page({"val": FIGURES, "test": OTHER | {"quality": QUALITY}})
    tables = [part.splitlines() for part in page.split("\n\n") if part.startswith("| ")]
    assert len(tables) == 14
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1


@pytest.mark.parametrize("part", ["Likelihood", "Calibration", "The hardest documents of val"])
def test_without_held_out_text_the_page_says_so(part):
    assert f"## {part}" in write_page({"val": FIGURES})
    page = write_page({})
    assert "No text was held out" in page
    assert f"## {part}" not in page


def test_a_text_shorter_than_the_context_leaves_that_table_out():
    page = write_page({"val": FIGURES | {"context": []}})
    assert "No text was as long as the context." in page
    assert "tokens of context |" not in page
