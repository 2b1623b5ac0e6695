"""The model card says what was measured, and nothing else."""

import hashlib
import json
import re

import pytest

from llm.errors import UserError
from llm.export.card import lineage_rows, read_metrics, write_card

METRICS = {
    "prepare": {
        "bytes": {"train": 7654321, "val": 98765, "test": 123457},
        "dropped": {
            "empty": {"documents": 31, "bytes": 0},
            "exact_duplicate": {"documents": 47, "bytes": 83},
            "near_duplicate": {"documents": 59, "bytes": 97},
        },
        "python": {"version": "3.13.7", "library_sha256": "ab" * 32},
    },
    "label": {"dropped": {"too_short_or_long": 67, "library_package_too_small": 71}},
    "tokenize": {"tokens": {"train": 2468013, "val": 35791, "test": 46802}},
    "pretrain": {"parameters": 1357913, "epochs": 4.625},
    "baselines": {"val": {"xz": 2.346, "4_gram": 2.457}, "test": {"xz": 2.568, "4_gram": 2.679}},
    "evaluate": {"val": {"bits_per_byte": 1.234}, "test": {"bits_per_byte": 1.345}},
    "export": {"max_logit_difference": 8.58e-06},
}
FINETUNED = {
    "topics": {
        "rows": {"train": 1601, "val": 223, "test": 227},
        "test": {
            "pretrained": {"accuracy": 0.8123, "macro_f1": 0.7234},
            "tfidf": {"accuracy": 0.6345, "macro_f1": 0.5456},
        },
        "settings": {"pretrained": {"rate": 0.017, "val_loss_by_rate": {"0.017": 0.5}}, "tfidf": {"C": 19.0}},
    },
    "answers": {
        "rows": {"train": 1733, "val": 233, "test": 239},
        "test": {"answer_bits_per_byte": {"before": 3.456, "after": 2.135}},
        "settings": {},
    },
}


def test_every_figure_in_the_text_is_in_the_metrics():
    text = write_card(METRICS, FINETUNED, [])
    figures = re.findall(r"(?<![\w.`-])\d(?:[\w,.-]*\w)?", text)
    given = set(_figures([METRICS, FINETUNED])) | {"4"}  # the 4 of the baseline's name
    assert len(figures) > 30
    assert [figure for figure in figures if figure.replace(",", "") not in given] == []


@pytest.mark.parametrize(
    "figure",
    [
        *("1,357,913", "2,468,013", "7,654,321", "1,601", "4.625", "8.58e-06", "47", "71"),
        *("1.345", "2.568", "0.8123", "0.5456", "3.456", "2.135", "3.13.7", "ab" * 32),
    ],
)
def test_the_figures_that_matter_are_in_the_text(figure):
    assert figure in write_card(METRICS, FINETUNED, [])


def test_the_best_in_bits_per_byte_comes_first():
    held_out = write_card(METRICS, {}, []).split("## Held-out text")[1]
    assert held_out.index("this model") < held_out.index("xz") < held_out.index("4 gram")


def test_a_skipped_task_is_said_to_be_skipped_and_why():
    text = write_card(METRICS, {"topics": {"skipped": "the corpus has no Python documents"}}, [])
    assert "## Finetuned: topics\n\nSkipped: the corpus has no Python documents." in text


def test_without_held_out_text_it_says_that_nothing_was_measured():
    text = write_card(METRICS | {"evaluate": {}, "baselines": {}}, {}, [])
    assert "nothing was measured" in text
    assert "bits per byte" not in text


def test_text_of_the_users_own_is_not_called_pythons():
    prepare = {key: value for key, value in METRICS["prepare"].items() if key != "python"}
    text = write_card(METRICS | {"prepare": prepare}, {}, [])
    assert "the user's own files" in text
    assert "standard library" not in text


def test_a_label_with_a_bar_in_it_keeps_the_table_whole():
    settings = {"pretrained": {"rate": 0.017}, "tfidf": {"label": "this | that"}}
    text = write_card(METRICS, {"topics": FINETUNED["topics"] | {"settings": settings}}, [])
    (line,) = (line for line in text.splitlines() if "this | that" in line.replace("\\|", "|"))
    assert len(re.findall(r"(?<!\\)\|", line)) == 5


def test_the_lineage_names_every_file_by_its_md5(tmp_path):
    corpus, weights = tmp_path / "corpus", tmp_path / "model.safetensors"
    corpus.mkdir()
    (corpus / "val.parquet").write_bytes(b"held out")
    (corpus / "train.parquet").write_bytes(b"to learn from")
    weights.write_bytes(bytes(range(256)))
    rows = lineage_rows({"prepare": corpus, "export": weights})
    assert rows == [
        ("prepare", "corpus/train.parquet", _md5(b"to learn from")),
        ("prepare", "corpus/val.parquet", _md5(b"held out")),
        ("export", "model.safetensors", _md5(bytes(range(256)))),
    ]
    text = write_card(METRICS, {}, rows)
    assert [row for row in rows if not all(part in text for part in row)] == []
    assert str(tmp_path) not in text


@pytest.mark.parametrize("content", [None, "{", ""])
def test_a_metrics_file_that_is_none_is_one_line_with_its_name(tmp_path, content):
    path = tmp_path / "prepare.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_metrics(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _figures(value: object) -> list[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [figure for part in value for figure in _figures(part)]
    return [value if isinstance(value, str) else json.dumps(value)]
