"""Rows of a dataset as documents, read through the library itself from folders on this disk."""

import json
import socket
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm.core.errors import UserError
from llm.corpus.document import Document
from llm.corpus.params import HuggingFaceSource
from llm.corpus.sources import read_dataset


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


def stream(folder: Path | str, max_document_bytes: int = 1000, **options: str) -> Iterator[Document]:
    source = HuggingFaceSource(name="mine", kind="huggingface", dataset=str(folder), **options)
    return read_dataset(source, max_document_bytes)


def read(folder: Path | str, **options: str) -> list[Document]:
    return list(stream(folder, **options))


def write_lines(path: Path, rows: list[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def stand_in(monkeypatch: pytest.MonkeyPatch, rows: Callable[[], Iterator[dict[str, object]]]) -> None:
    """A dataset that no file can hold, as the library would stream it."""
    import datasets

    dataset = datasets.IterableDataset.from_generator(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: dataset)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_shards_are_read_in_the_order_of_their_names(suffix: str, tmp_path: Path) -> None:
    texts = [[f"{shard}.{row} déjà vu 🌧\n" for row in range(shard + 1)] for shard in range(4)]
    for shard in (2, 0, 3, 1):
        path = tmp_path / f"train-0000{shard}-of-00004.{suffix}"
        if suffix == "jsonl":
            write_lines(path, [{"text": text} for text in texts[shard]])
        else:
            pq.write_table(pa.table({"text": texts[shard]}), path)
    assert read(tmp_path) == [Document("mine", f"train:{number}", text) for number, text in enumerate(chain(*texts), 1)]


def test_the_named_split_field_and_config_are_read(tmp_path: Path) -> None:
    write_lines(tmp_path / "a" / "train.jsonl", [{"text": "a", "body": "b"}])
    write_lines(tmp_path / "a" / "test.jsonl", [{"text": "c", "body": "d"}])
    assert read(tmp_path / "a", split="test", text_field="body") == [Document("mine", "test:1", "d")]
    for language in ("de", "en"):
        write_lines(tmp_path / "b" / language / "train.jsonl", [{"text": language}])
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/train.jsonl\n" for name in ("de", "en"))
    (tmp_path / "b" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert read(tmp_path / "b", config="en") == [Document("mine", "train:1", "en")]
    with pytest.raises(UserError, match=r"^source mine: .*config fr.*got .*fr"):
        read(tmp_path / "b", config="fr")


def test_rows_without_text_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(tmp_path / "data.jsonl", [{"text": "a", "n": 1}, {"text": None, "n": 2}, {"n": 3}, {"text": "b"}])
    first, null, missing, last = read(tmp_path)
    assert (first, last) == (Document("mine", "train:1", "a"), Document("mine", "train:4", "b"))
    assert null == Document("mine", "train:2", "", "no_field", "expected a field text, got null", readable=False)
    assert (missing.path, missing.reason) == ("train:3", "no_field")
    pq.write_table(pa.table({"text": [["a"]]}), tmp_path / "data.parquet")
    # A dataset may have columns that are unknown beforehand.
    stand_in(monkeypatch, lambda: iter([{"body": "a"}, *({"text": text} for text in ("b", 7, "c\ud800", "é" * 501))]))
    rows = read("any")
    assert rows[1] == Document("mine", "train:2", "b")
    assert [row.reason for row in rows if not row.readable] == ["no_field", "not_text", "not_unicode", "too_long"]
    assert rows[2].note == "expected a string in the field text, got a number"


WRONG = [
    ("{folder}/good", {"split": "validation"}, r"expected the dataset .*split validation.*got .*\['train'\]"),
    ("{folder}/good", {"text_field": "body"}, r"text_field: expected a column of .* \(text\), got body$"),
    ("no-such-owner/no-such-dataset", {"revision": "0" * 40}, "expected the dataset .*revision 0000.*got .*no-such"),
    ("{folder}/broken", {}, "expected the dataset .*broken.*got "),
]


@pytest.mark.parametrize(("dataset", "options", "problem"), WRONG)
def test_wrong_names_and_files_are_one_line(dataset: str, options: dict, problem: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "good" / "data.jsonl", [{"text": "a"}])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "data.jsonl").write_text('{"text": "a"}\n{"text":\n')
    with pytest.raises(UserError, match=f"^source mine: {problem}") as caught:
        read(dataset.format(folder=tmp_path), **options)
    assert "\n" not in str(caught.value)


def test_rows_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    stand_in(monkeypatch, lambda: ({"text": str(number)} for number in range(1000) if not asked.append(number)))
    assert next(stream("any")).text == "0" and len(asked) < 10


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"^source mine: expected the package datasets, it is not installed \(make ext"):
        read("any")
