"""Documents of a spool, each in its split: whole, cut, or not at all, and all of them counted."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llm.core.tables import SPLITS, read_table
from llm.corpus.assemble import Dropped, write_corpus
from llm.corpus.clean import clean, document_id
from llm.corpus.document import RawDocument
from llm.corpus.params import FilesSource, PrepareParams
from llm.corpus.split import is_in_subset, split_of
from llm.corpus.spool import Spool, find_duplicates

SOURCES = [FilesSource(name=name, kind="files", globs=["any"]) for name in ("a", "b")]
TEXTS = [("a" if number % 3 else "b", f"text number {number}") for number in range(60)]


@pytest.fixture
def write(tmp_path: Path) -> Callable:
    """A writer of a corpus of texts, two of a batch; gives back the rows, what was counted, what was dropped."""

    def write(texts: list[tuple[str, str]], prepare: PrepareParams, name: str = "corpus") -> tuple:
        dropped = Dropped()
        with Spool(tmp_path / "spool", batch_bytes=30) as spool:
            for number, (source, text) in enumerate(texts):
                spool.add(clean(RawDocument(source, f"{number}", text), prepare.clean))
        kept = write_corpus(tmp_path / name, spool, find_duplicates(spool, prepare.clean), prepare, dropped)
        rows = {split: read_table(tmp_path / name / f"{split}.parquet").to_pylist() for split in SPLITS}
        return rows, kept, {rule: {key: of[key] for key in ("documents", "bytes")} for rule, of in dropped.items()}

    return write


def test_a_document_goes_where_its_hash_says(write: Callable, prepare_params: Callable) -> None:
    rows, kept, dropped = write(TEXTS, prepare_params(SOURCES, {"val": 0.3, "test": 0.3}))
    assert {row["text"]: split for split in SPLITS for row in rows[split]} == {
        text: split_of(document_id(text), 0.3, 0.3) for _, text in TEXTS
    }
    for split in SPLITS:
        numbers = [int(row["path"]) for row in rows[split]]
        assert numbers == sorted(numbers)
        assert kept["documents", split] == len(rows[split])
        assert kept["bytes", split] == sum(len(row["text"]) for row in rows[split])
    assert kept["documents", "source b"] == 20
    assert kept["bytes", "source a"] == sum(len(text) for source, text in TEXTS if source == "a")
    assert dropped == {}


def test_a_share_takes_the_documents_whose_hash_says_so(write: Callable, prepare_params: Callable) -> None:
    rows, _, dropped = write(TEXTS, prepare_params(SOURCES, subset_fraction=0.4))
    chosen = [text for _, text in TEXTS if is_in_subset(document_id(text), 0.4)]
    assert [row["text"] for row in rows["train"]] == chosen
    left = [text for _, text in TEXTS if text not in chosen]
    assert dropped == {"beyond_subset_fraction": {"documents": len(left), "bytes": sum(map(len, left))}}


def test_a_repeated_document_is_counted_and_not_written(write: Callable, prepare_params: Callable) -> None:
    rows, kept, dropped = write(TEXTS[:5] + TEXTS[2:4], prepare_params(SOURCES))
    assert [row["text"] for row in rows["train"]] == [text for _, text in TEXTS[:5]]
    assert dropped == {"exact_duplicate": {"documents": 2, "bytes": 26}}
    assert kept["documents", "train"] == 5


def test_cut_documents_are_shared_out_in_their_order(write: Callable, prepare_params: Callable) -> None:
    split = {"method": "position", "val": 0.1, "test": 0.2}
    rows, kept, dropped = write(
        [("a", "0123456789é"), ("b", "x" * 10)], prepare_params(SOURCES, split, subset_fraction=0.9)
    )
    assert [[row["text"] for row in rows[name]] for name in SPLITS] == [["0123456", "xxxxxx"], ["7", "x"], ["89", "xx"]]
    assert kept["bytes", "train"] == 13
    assert dropped == {"beyond_subset_fraction": {"documents": 2, "bytes": 3}}  # "é" and "x"
    assert [row["doc_id"] for row in rows["test"]] == [document_id("89"), document_id("xx")]
