"""Which documents repeat an earlier one, and in which splits the others are written."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.core.tables import SPLITS, TableWriter, read_table
from llm.corpus.assemble import (
    BEYOND,
    RULES,
    SPOOL,
    Counts,
    as_hashes,
    cut,
    find_duplicates,
    has_enough_documents,
    split_by_hash,
    write_corpus,
)
from llm.corpus.clean import clean, document_id
from llm.corpus.document import Document
from llm.corpus.params import CleanParams, FilesSource, PrepareParams, SplitParams

NEAR = {"action": "drop", "threshold": 0.6, "ngram": 1, "permutations": 128, "bands": 64}
SOURCES = [FilesSource(name=name, kind="files", globs=["any"]) for name in ("a", "b")]
TEXTS = [("a" if number % 3 else "b", f"text number {number}") for number in range(60)]


def split_of(doc_id: str, val: float, test: float, subset_fraction: float = 1.0) -> str:
    split = SplitParams(method="document", val=val, test=test)
    return str(split_by_hash(as_hashes([doc_id]), split, subset_fraction)[0])


def rules(**changes: object) -> CleanParams:
    off = dict.fromkeys(("min_chars", "max_chars", "repetition", "near_duplicates"))
    return CleanParams(**(off | {"control_characters": "keep", "exact_duplicates": "drop"} | changes))


def fill(folder: Path, texts: list[tuple[str, str]], of: CleanParams) -> Path:
    with TableWriter(folder / "spool", SPOOL, group_bytes=300) as spool:
        for number, (source, text) in enumerate(texts):
            spool.write(clean(Document(source, f"{number}", text), of)._asdict())
    return folder / "spool"


def duplicates(folder: Path, texts: list[str], **changes: object) -> tuple[list[str], list[int]]:
    of = rules(**changes)
    found = find_duplicates(fill(folder, [("mine", text) for text in texts], of), of)
    return [RULES[rule] for rule in found.rule], found.representative.tolist()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from("abcde"), max_size=9))
def test_the_first_of_equal_texts_stays(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found, representative = duplicates(Path(folder), texts)
        assert duplicates(Path(folder), texts, exact_duplicates="keep")[0] == [""] * len(texts)
    assert representative == [texts.index(text) for text in texts]
    assert found == ["" if texts.index(text) == n else "exact_duplicate" for n, text in enumerate(texts)]


def test_near_duplicates_are_dropped_or_grouped(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(40)]
    long = " ".join(words[:30])
    texts = ["something else entirely", long, long, f"{long} more", "short"]
    expected = ["", "", "exact_duplicate", "near_duplicate", ""], [0, 1, 1, 1, 4]
    assert duplicates(tmp_path, texts, near_duplicates=NEAR) == expected
    # Each is near to the next one, the first not to the last.
    chain = [" ".join(words[start : start + 32]) for start in (0, 4, 8)] + ["short"]
    group = NEAR | {"action": "group", "threshold": 0.7}
    assert duplicates(tmp_path, chain, near_duplicates=group) == ([""] * 4, [0, 0, 0, 3])


@pytest.fixture
def write(tmp_path: Path) -> Callable:
    """A writer of a corpus of texts; gives back the rows, the totals, what was dropped."""

    def write(texts: list[tuple[str, str]], prepare: PrepareParams) -> tuple[dict, dict, dict]:
        counts = Counts()
        spool = fill(tmp_path, texts, prepare.clean)
        write_corpus(tmp_path / "corpus", spool, find_duplicates(spool, prepare.clean), prepare, counts)
        rows = {split: read_table(tmp_path / "corpus" / f"{split}.parquet").to_pylist() for split in SPLITS}
        return rows, counts.kept, {rule: (*of.values(),) for rule, of in counts.dropped.items()}

    return write


def test_dropped_documents_have_examples(write: Callable, prepare_params: Callable) -> None:
    rows, totals, dropped = write(TEXTS, prepare_params(SOURCES, subset_fraction=0.4))
    chosen = [text for _, text in TEXTS if split_of(document_id(text), 0, 0, 0.4) != BEYOND]
    assert [row["text"] for row in rows["train"]] == chosen
    left = [(str(n), text) for n, (_, text) in enumerate(TEXTS) if text not in chosen]
    examples = [[path, ""] for path, _ in left[:5]]
    n_bytes = sum(len(text) for _, text in left)
    assert dropped == {BEYOND: (len(left), n_bytes, examples)}
    rows, totals, dropped = write(TEXTS[:5] + TEXTS[2:4], prepare_params(SOURCES))
    assert [row["text"] for row in rows["train"]] == [text for _, text in TEXTS[:5]]
    assert dropped == {"exact_duplicate": (2, 26, [["5", "like 2"], ["6", "like 3"]])}
    assert totals["train"]["documents"] == 5


def test_documents_are_cut_by_position(write: Callable, prepare_params: Callable) -> None:
    split = {"method": "position", "val": 0.1, "test": 0.2}
    texts = [("a", "0123456789é"), ("b", "x" * 10)]
    rows, totals, dropped = write(texts, prepare_params(SOURCES, split, subset_fraction=0.9))
    assert [[row["text"] for row in rows[name]] for name in SPLITS] == [["0123456", "xxxxxx"], ["7", "x"], ["89", "xx"]]
    assert totals["train"]["bytes"] == 13
    assert dropped[BEYOND][:2] == (2, 3)  # "é" and "x"
    assert [row["doc_id"] for row in rows["test"]] == [document_id("89"), document_id("xx")]


IDS = [document_id(f"document {n}") for n in range(99)]
FRACTIONS = st.tuples(st.floats(0, 0.5), st.floats(0, 0.49))


@given(st.sampled_from(["0" * 32, "f" * 32, *IDS]), st.floats(0, 0.4), st.floats(0, 0.2), st.floats(0, 0.3))
def test_a_larger_test_takes_from_train_alone(doc_id: str, val: float, test: float, more: float) -> None:
    before, after = split_of(doc_id, val, test), split_of(doc_id, val, test + more)
    assert after == before or (before, after) == ("train", "test")
    assert split_of(doc_id, 0, 0) == "train"
    assert split_of(doc_id, 0, test) != "val" and split_of(doc_id, val, 0) != "test"


@given(st.text(max_size=300) | st.integers(0, 5000).map(lambda n: "é" * n), FRACTIONS)
def test_parts_are_the_text_in_order(text: str, fractions: tuple[float, float]) -> None:
    parts = cut(text, SplitParams(method="position", val=fractions[0], test=fractions[1]))
    assert list(parts) == [split for split in SPLITS if split in parts]
    assert "".join(parts.values()) == text and all(parts.values())
    for split, fraction in zip(("val", "test"), fractions, strict=True):
        assert len(parts.get(split, "")) == pytest.approx(len(text) * fraction, abs=1)


ENOUGH = [
    ([1000] * 99, 0.05, 0.1, 1.0, False),
    ([1000] * 100, 0.05, 0.1, 1.0, True),
    ([1000] * 50, 0.0, 0.1, 1.0, True),  # the smaller one of the splits that hold something out
    ([1000] * 100, 0.05, 0.1, 0.5, False),
    ([1000] * 500 + [10_000_000], 0.05, 0.1, 1.0, False),
    ([1000], 0.0, 0.0, 1.0, True),
    ([], 0.1, 0.1, 1.0, False),
]


@pytest.mark.parametrize(("n_bytes", "val", "test", "subset_fraction", "is_enough"), ENOUGH)
def test_whole_documents_need_enough_documents(
    n_bytes: list[int], val: float, test: float, subset_fraction: float, is_enough: bool, prepare_params: Callable
) -> None:
    prepare = prepare_params(SOURCES, {"val": val, "test": test}, subset_fraction=subset_fraction)
    assert has_enough_documents(np.array(n_bytes, dtype=np.int64), prepare) == is_enough
