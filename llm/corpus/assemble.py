"""Deduplicate and split documents: from a table of clean ones, the spool, to the corpus.

    spool ──find_duplicates──► Duplicates ──write_corpus──► {train,val,test}.parquet, a row a document

Whether a document stays may depend on all documents before it, and its split on its near duplicates, so documents are
written to a table first. In memory is only a hash of each, 16 bytes, and its signature where near duplicates are
looked for. Rows are moved in whole batches; a text becomes a Python string only where it has to be cut.

>>> split_of("00000000000000000000000000000000", val=0.05, test=0.05)
'val'
>>> cut("abcdefghij", val=0.1, test=0.2)
{'train': 'abcdefg', 'val': 'h', 'test': 'ij'}
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llm.core.tables import CORPUS, SPLITS, TableWriter
from llm.corpus.clean import document_id
from llm.corpus.duplicates import representatives
from llm.corpus.params import CleanParams, PrepareParams

SPOOL = CORPUS.append(pa.field("signature", pa.binary()))
BATCH_BYTES = 8_000_000
RULES = ("", "exact_duplicate", "near_duplicate")
BEYOND = "beyond_subset_fraction"
MIN_HELD_OUT = 5  # documents of equal weight that a split is expected to have
N_EXAMPLES = 5
Totals = Counter[tuple[str, str]]  # ("documents" or "bytes", a split or "source NAME") → how many


class Dropped(dict[str, dict[str, Any]]):
    """Dropped documents by rule: how many, their bytes, and the first five with a note.

    >>> dropped = Dropped()
    >>> dropped.count("empty", "mine/a.txt", n_bytes=3)
    >>> dropped
    {'empty': {'documents': 1, 'bytes': 3, 'examples': [['mine/a.txt', '']]}}
    """

    def count(self, rule: str, path: str, n_bytes: int, note: str = "") -> None:
        """Count one document."""
        of_rule = self.setdefault(rule, {"documents": 0, "bytes": 0, "examples": []})
        of_rule["documents"] += 1
        of_rule["bytes"] += n_bytes
        if len(of_rule["examples"]) < N_EXAMPLES:
            of_rule["examples"].append([path, note])


class Duplicates(NamedTuple):
    """For each document: the rule that drops it (an index of RULES), and the number of its representative."""

    rule: NDArray[np.int8]
    representative: NDArray[np.int64]


def batches(spool: Path, columns: list[str]) -> Iterator[pa.Table]:
    """Yield the documents in order, BATCH_BYTES of text at a time."""
    with pq.ParquetFile(spool, pre_buffer=False) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns=columns, use_threads=False)


def column(spool: Path, name: str) -> Iterator[Any]:
    """Yield the values of a column in order."""
    for batch in batches(spool, [name]):
        yield from batch.column(name).to_pylist()


def document_ids(spool: Path) -> NDArray[np.uint64]:
    """Return the hashes of all documents: shape (n, 2)."""
    hashes = b"".join(bytes.fromhex(doc_id) for doc_id in column(spool, "doc_id"))
    return np.frombuffer(hashes, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def find_duplicates(spool: Path, rules: CleanParams) -> Duplicates:
    """Find documents that repeat an earlier one. The representative of a group is its first document."""
    ids = document_ids(spool)
    rule = np.zeros(len(ids), dtype=np.int8)
    representative = np.arange(len(ids))
    if rules.exact_duplicates == "drop":
        hashes = [ids[:, 0], ids[:, 1]]
        representative = pd.Series(representative).groupby(hashes).transform("min").to_numpy(copy=True)
        rule[representative != np.arange(len(ids))] = 1
    if rules.near_duplicates is not None:
        distinct = np.flatnonzero(rule == 0)
        signatures = (state for state, of in zip(column(spool, "signature"), rule, strict=True) if not of)
        near = distinct[representatives(signatures, rules.near_duplicates)]
        representative[distinct] = near
        if rules.near_duplicates.action == "drop":
            rule[distinct[near != distinct]] = 2
    return Duplicates(rule, representative)


def split_of(doc_id: str, val: float, test: float) -> str:
    """Return the split of a document, which depends on its id alone: adding a document moves no other one."""
    place = int(doc_id[:16], 16) / 16**16
    return "val" if place < val else "test" if place < val + test else "train"


def is_in_subset(doc_id: str, fraction: float) -> bool:
    """Return whether a document is in a subset, independently of its split."""
    return fraction == 1 or int(doc_id[16:], 16) / 16**16 < fraction


def choose_method(
    n_bytes: NDArray[np.int64], val: float, test: float, subset_fraction: float = 1.0
) -> Literal["document", "position"]:
    """Return "document" where whole documents of these lengths make a val and a test of about these fractions.

    The smaller of the two has to have MIN_HELD_OUT of the effective number of documents, (Σ n)² / Σ n²: one long and a
    hundred short ones are one.
    """
    held_out = min((part for part in (val, test) if part), default=1.0)
    effective = n_bytes.sum(dtype=float) ** 2 / max(np.square(n_bytes, dtype=float).sum(), 1.0)
    is_enough = subset_fraction * effective * held_out >= MIN_HELD_OUT or not val + test
    return "document" if is_enough else "position"


def cut(text: str, val: float, test: float) -> dict[str, str]:
    """Cut one text into up to three parts in its order, by fractions of its characters; empty parts are left out."""
    first = len(text) - round(len(text) * (val + test))
    second = len(text) - round(len(text) * test)
    parts = {"train": text[:first], "val": text[first:second], "test": text[second:]}
    return {split: part for split, part in parts.items() if part}


def _sizes(spool: Path) -> NDArray[np.int64]:
    return np.fromiter(column(spool, "n_bytes"), dtype=np.int64)


def resolve_split(spool: Path, duplicates: Duplicates, prepare: PrepareParams) -> tuple[PrepareParams, str]:
    """Replace `split.method: auto` by the method that suits the documents that stay; return the reason too.

    Groups of near duplicates need whole documents, for each group is in one split.
    """
    split, near = prepare.split, prepare.clean.near_duplicates
    if split.method != "auto":
        return prepare, f"Split by {split.method}, as set in prepare.split.method."
    if near and near.action == "group":
        method, why = "document", "near duplicates are grouped"
    else:
        n_bytes = _sizes(spool)[duplicates.rule == 0]
        method = choose_method(n_bytes, split.val, split.test, prepare.subset_fraction)
        longest = int(n_bytes.max(initial=0)) / max(int(n_bytes.sum()), 1)
        enough = "enough" if method == "document" else "too few"
        why = f"{len(n_bytes):,} documents, the longest {longest:.0%} of the text, are {enough} to hold out whole ones"
    resolved = prepare.model_copy(update={"split": split.model_copy(update={"method": method})})
    return resolved, f"Split by {method}: {why} (prepare.split.method: auto)."


def write_corpus(folder: Path, spool: Path, duplicates: Duplicates, prepare: PrepareParams, dropped: Dropped) -> Totals:
    """Write `folder`/{train,val,test}.parquet; count documents that do not stay in `dropped`."""
    _count_duplicates(spool, duplicates, dropped)
    totals: Totals = Counter()
    deciding = document_ids(spool)[duplicates.representative]  # a group is in the split of its representative
    divide = _cut_all if prepare.split.method == "position" else _by_hash
    at = 0
    with ExitStack() as stack:
        tables = {split: stack.enter_context(TableWriter(folder / f"{split}.parquet", CORPUS)) for split in SPLITS}
        for batch in batches(spool, CORPUS.names):
            stay = duplicates.rule[at : at + batch.num_rows] == 0
            ids = deciding[at : at + batch.num_rows][stay]
            at += batch.num_rows
            for split, part in divide(batch.filter(pa.array(stay)), ids, prepare, dropped):
                tables[split].append(part)
                _count(part, split, totals)
    return totals


def _count_duplicates(spool: Path, duplicates: Duplicates, dropped: Dropped) -> None:
    numbers = np.flatnonzero(duplicates.rule).tolist()
    by_rule = (np.flatnonzero(duplicates.rule == rule)[:N_EXAMPLES].tolist() for rule in range(1, len(RULES)))
    first = {number: int(duplicates.representative[number]) for examples in by_rule for number in examples}
    shown = {*first, *first.values()}
    paths = {number: path for number, path in enumerate(column(spool, "path")) if number in shown}
    sizes = _sizes(spool)
    for number in numbers:
        note = f"like {paths[first[number]]}" if number in first else ""
        dropped.count(RULES[duplicates.rule[number]], paths.get(number, ""), int(sizes[number]), note)


def _by_hash(
    rows: pa.Table, deciding: NDArray[np.uint64], prepare: PrepareParams, dropped: Dropped
) -> Iterator[tuple[str, pa.Table]]:
    """Yield whole documents by split; those beyond the subset are dropped."""
    ids = [f"{high:016x}{low:016x}" for high, low in deciding.tolist()]
    val, test = prepare.split.val, prepare.split.test
    places = [split_of(id_, val, test) if is_in_subset(id_, prepare.subset_fraction) else BEYOND for id_ in ids]
    parts = {name: rows.filter(pa.array([place == name for place in places], pa.bool_())) for name in (*SPLITS, BEYOND)}
    for row in parts.pop(BEYOND).select(["path", "n_bytes"]).to_pylist():
        dropped.count(BEYOND, row["path"], row["n_bytes"])
    yield from parts.items()


def _cut_all(
    rows: pa.Table, _: NDArray[np.uint64], prepare: PrepareParams, dropped: Dropped
) -> Iterator[tuple[str, pa.Table]]:
    """Yield each document's parts by split; a part is a document with a hash of its own."""
    parts: dict[str, list[dict[str, object]]] = {split: [] for split in SPLITS}
    for row in rows.to_pylist():
        n_chars = math.ceil(len(row["text"]) * prepare.subset_fraction)
        if beyond := row["text"][n_chars:]:
            dropped.count(BEYOND, row["path"], len(beyond.encode()), f"from character {n_chars:,} on")
        for split, part in cut(row["text"][:n_chars], prepare.split.val, prepare.split.test).items():
            parts[split].append(row | {"doc_id": document_id(part), "text": part, "n_bytes": len(part.encode())})
    for split in SPLITS:
        yield split, pa.Table.from_pylist(parts[split], schema=CORPUS)


def _count(part: pa.Table, split: str, totals: Totals) -> None:
    by_source = part.group_by("source").aggregate([("n_bytes", "sum"), ("n_bytes", "count")])
    for row in by_source.to_pylist():
        for group in (split, f"source {row['source']}"):
            totals["documents", group] += row["n_bytes_count"]
            totals["bytes", group] += row["n_bytes_sum"]
