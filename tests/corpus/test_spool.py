"""Documents that wait in a file, and which of them repeat an earlier one."""

from pathlib import Path

import pytest

from llm.corpus.clean import Cleaned, clean
from llm.corpus.document import RawDocument
from llm.corpus.params import CleanParams
from llm.corpus.spool import RULES, Spool, find_duplicates

NEAR = {"action": "drop", "threshold": 0.6, "ngram": 1, "permutations": 128, "bands": 64}


def rules(**changes: object) -> CleanParams:
    off = dict.fromkeys(("min_chars", "max_chars", "repetition", "near_duplicates"))
    return CleanParams(**(off | {"control_characters": "keep", "exact_duplicates": "drop"} | changes))


def documents(texts: list[str], of: CleanParams) -> list[Cleaned]:
    return [clean(RawDocument("mine", f"{number}.txt", text), of) for number, text in enumerate(texts)]


def fill(path: Path, found: list[Cleaned], batch_bytes: int = 20) -> Spool:
    with Spool(path, batch_bytes) as spool:
        for document in found:
            spool.add(document)
    return spool


@pytest.mark.parametrize("batch_bytes", [1, 20, 10**6])
def test_documents_come_back_in_their_order_whatever_the_batches(batch_bytes: int, tmp_path: Path) -> None:
    found = documents([f"text number {number}" for number in range(10)], rules())
    spool = fill(tmp_path / "spool", found, batch_bytes)
    rows = [row for batch in spool.batches(["path", "text", "n_bytes"]) for row in batch.to_pylist()]
    assert rows == [{"path": one.path, "text": one.text, "n_bytes": one.n_bytes} for one in found]
    assert [f"{high:016x}{low:016x}" for high, low in spool.ids().tolist()] == [one.doc_id for one in found]


def test_no_documents_are_no_batches(tmp_path: Path) -> None:
    spool = fill(tmp_path / "spool", [])
    assert sum(batch.num_rows for batch in spool.batches(["text"])) == 0
    assert spool.ids().shape == (0, 2)
    assert find_duplicates(spool, rules()).rule.tolist() == []


def test_a_repeated_text_is_dropped_in_favour_of_its_first_occurrence(tmp_path: Path) -> None:
    spool = fill(tmp_path / "spool", documents(["a b", "c", "a b", "c", "a b"], rules()))
    verdict = find_duplicates(spool, rules())
    assert verdict.representative.tolist() == [0, 1, 0, 1, 0]
    assert [RULES[rule] for rule in verdict.rule] == ["", "", *["exact_duplicate"] * 3]
    kept = find_duplicates(spool, rules(exact_duplicates="keep"))
    assert kept.rule.tolist() == [0] * 5


def test_near_and_exact_duplicates_are_told_apart(tmp_path: Path) -> None:
    words = " ".join(f"w{number}" for number in range(30))
    texts = ["something else entirely", words, words, f"{words} more", "short"]
    near = rules(near_duplicates=NEAR)
    verdict = find_duplicates(fill(tmp_path / "spool", documents(texts, near)), near)
    assert [RULES[rule] for rule in verdict.rule] == ["", "", "exact_duplicate", "near_duplicate", ""]
    assert verdict.representative.tolist() == [0, 1, 1, 1, 4]


def test_a_group_keeps_its_documents_and_has_one_that_representative_all(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(40)]
    # Each is near to the next one, the first not to the last.
    texts = [" ".join(words[start : start + 32]) for start in (0, 4, 8)] + ["short"]
    group = rules(near_duplicates=NEAR | {"action": "group", "threshold": 0.7})
    verdict = find_duplicates(fill(tmp_path / "spool", documents(texts, group)), group)
    assert verdict.rule.tolist() == [0, 0, 0, 0]
    assert verdict.representative.tolist() == [0, 0, 0, 3]
