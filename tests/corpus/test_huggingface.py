"""Rows of a dataset as documents, read through the library itself from folders on this disk."""

import json
import socket
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.core.errors import UserError
from llm.corpus.document import RawDocument, Unreadable
from llm.corpus.huggingface import read_dataset
from llm.corpus.params import HuggingFaceSource

PNG_THAT_IS_NONE = {"bytes": b"no image", "path": None}


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test may leave this machine. The libraries read their environment once, perhaps before this module's turn."""
    home = tmp_path_factory.mktemp("home")
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(home))
        import datasets
        import huggingface_hub

        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address))
        yield
    assert asked == []


def source(folder: Path | str, **options: str) -> HuggingFaceSource:
    return HuggingFaceSource(name="mine", kind="huggingface", dataset=str(folder), **options)


def read(folder: Path | str, max_document_bytes: int = 1000, **options: str) -> list[RawDocument | Unreadable]:
    return list(read_dataset(source(folder, **options), max_document_bytes))


def write_lines(path: Path, rows: list[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def stand_in(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, object]]) -> None:
    """A dataset that no file can hold, as the library would stream it."""
    import datasets

    stream = datasets.IterableDataset.from_generator(lambda: iter(rows))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)


def test_each_row_of_a_file_is_a_document(tmp_path: Path) -> None:
    write_lines(tmp_path / "data.jsonl", [{"text": "The rain\nfalls."}, {"text": "déjà vu 🌧"}, {"text": ""}])
    assert read(tmp_path) == [
        RawDocument("mine", "train:1", "The rain\nfalls."),
        RawDocument("mine", "train:2", "déjà vu 🌧"),
        RawDocument("mine", "train:3", ""),
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_shards_are_read_in_the_order_of_their_names(suffix: str, tmp_path: Path) -> None:
    texts = [[f"{shard}.{row}" for row in range(shard + 1)] for shard in range(4)]
    for shard in (2, 0, 3, 1):
        path = tmp_path / f"train-0000{shard}-of-00004.{suffix}"
        if suffix == "jsonl":
            write_lines(path, [{"text": text} for text in texts[shard]])
        else:
            pq.write_table(pa.table({"text": texts[shard]}), path)
    documents = read(tmp_path)
    assert [document.path for document in documents] == [f"train:{number}" for number in range(1, 11)]
    assert [document.text for document in documents] == list(chain(*texts))


def test_the_split_and_the_field_are_the_ones_asked_for(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [{"text": "a", "body": "b"}])
    write_lines(tmp_path / "test.jsonl", [{"text": "c", "body": "d"}])
    assert read(tmp_path, split="test", text_field="body") == [RawDocument("mine", "test:1", "d")]


def test_the_config_is_the_one_asked_for(tmp_path: Path) -> None:
    for language in ("de", "en"):
        write_lines(tmp_path / language / "train.jsonl", [{"text": language}])
    configs = "".join(f"- config_name: {language}\n  data_files: {language}/train.jsonl\n" for language in ("de", "en"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert read(tmp_path, config="en") == [RawDocument("mine", "train:1", "en")]
    with pytest.raises(UserError, match=r"^source mine: .*config fr.*given .*fr"):
        read(tmp_path, config="fr")


def test_a_row_without_text_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    write_lines(tmp_path / "data.jsonl", [{"text": "a", "n": 1}, {"text": None, "n": 2}, {"n": 3}, {"text": "b"}])
    first, null, missing, last = read(tmp_path)
    assert (first, last) == (RawDocument("mine", "train:1", "a"), RawDocument("mine", "train:4", "b"))
    assert null == Unreadable("mine", "train:2", "no_field", "wanted text in the field text, given nothing", 0)
    assert (missing.path, missing.reason) == ("train:3", "no_field")


def test_what_is_no_string_is_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [["a"], ["b", "c"]]}), tmp_path / "data.parquet")
    assert [(row.path, row.reason) for row in read(tmp_path)] == [("train:1", "not_text"), ("train:2", "not_text")]
    assert read(tmp_path)[0].problem == "wanted text in the field text, given list"


def test_the_bound_counts_bytes_and_is_itself_allowed(tmp_path: Path) -> None:
    write_lines(tmp_path / "data.jsonl", [{"text": "é" * 5}, {"text": "é" * 5 + "!"}, {"text": "!" * 10}])
    fits, too_long, too = read(tmp_path, max_document_bytes=10)
    assert (fits.text, too.text) == ("é" * 5, "!" * 10)
    assert (too_long.reason, too_long.n_bytes) == ("too_long", 11)
    assert too_long.problem == "wanted at most 10 bytes in the field text, given 11"


def test_rows_whose_columns_are_not_known_beforehand_are_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, [{"body": "a"}, {"text": "b"}, {"text": 7}, {"text": "c\ud800"}])
    rows = read("any")
    assert rows[1] == RawDocument("mine", "train:2", "b")
    assert [row.reason for row in rows if isinstance(row, Unreadable)] == ["no_field", "not_text", "not_unicode"]
    assert rows[3].n_bytes == 4


@settings(deadline=None)  # the library may need a moment when it is first used
@given(st.lists(st.text("aé🌧\ud800", max_size=9), max_size=6), st.integers(1, 30))
def test_every_row_is_a_document_or_named_and_no_row_is_lost(texts: list[str], bound: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch, [{"text": text} for text in texts])
        rows = read("any", max_document_bytes=bound)
    assert [row.path for row in rows] == [f"train:{number}" for number in range(1, len(texts) + 1)]
    for text, row in zip(texts, rows, strict=True):
        if any("\ud800" <= character <= "\udfff" for character in text):
            assert row.reason == "not_unicode"
        elif len(text.encode()) > bound:
            assert row.reason == "too_long"
        else:
            assert row == RawDocument("mine", row.path, text)


def test_other_columns_are_not_decoded(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "image": datasets.Image()})
    table = pa.table({"text": ["a"], "image": [PNG_THAT_IS_NONE]}, schema=features.arrow_schema)
    pq.write_table(table, tmp_path / "data.parquet")
    assert read(tmp_path) == [RawDocument("mine", "train:1", "a")]


def test_a_column_that_is_missing_is_said_with_the_ones_there_are(tmp_path: Path) -> None:
    write_lines(tmp_path / "data.jsonl", [{"body": "a", "title": "b"}])
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    expected = f"source mine: text_field: wanted a column of {tmp_path} (body, title), given text"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("dataset", "options", "given"),
    [
        ("{folder}", {"split": "validation"}, r"split validation.*given .*\['train'\]"),
        ("{folder}", {"config": "small"}, "config small.*given .*default"),
        ("{folder}/nowhere", {}, "nowhere.*given .*nowhere"),
        ("no-such-owner/no-such-dataset", {}, "given .*no-such-owner/no-such-dataset"),
        ("no-such-owner/no-such-dataset", {"revision": "0" * 40}, "revision 0000.*given "),
        ("{folder}/empty", {}, "empty.*given "),
    ],
)
def test_wrong_names_are_one_line(dataset: str, options: dict[str, str], given: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "data.jsonl", [{"text": "a"}])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"^source mine: wanted the dataset .*{given}") as caught:
        read(dataset.format(folder=tmp_path), **options)
    assert "\n" not in str(caught.value)


def test_a_file_that_the_library_cannot_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "a"}\n{"text":\n')
    with pytest.raises(UserError, match=f"^source mine: wanted the dataset {tmp_path}, .*given .+") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_rows_are_read_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def rows() -> Iterator[dict[str, str]]:
        for number in range(1000):
            asked.append(number)
            yield {"text": str(number)}

    stream = datasets.IterableDataset.from_generator(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    documents = read_dataset(source("any"), 1000)
    assert [next(documents).text, next(documents).text] == ["0", "1"]
    assert len(asked) < 10


def test_without_the_library_the_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError) as caught:
        read("any")
    wanted = "source mine: expected the package datasets, it is not installed (make extras)"
    assert str(caught.value) == wanted
