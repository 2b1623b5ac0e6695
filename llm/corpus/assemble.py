"""Deduplicate, split and count documents: from a table of clean ones, the spool, to the corpus.

    spool ──find_duplicates──► Duplicates ──write_corpus──► {train,val,test}.parquet, a row a document

Whether a document stays may depend on all documents before it, and its split on its near duplicates, so documents are
written to a table first. In memory is only a hash of each, 16 bytes, and its signature where near duplicates are
looked for. Rows are moved in whole batches; a text becomes a Python string only where it has to be cut.
"""

import math
import platform
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llm.core.errors import UserError
from llm.core.tables import CORPUS, SPLITS, TableWriter, iterate_rows
from llm.corpus.clean import document_id
from llm.corpus.document import DIALECT, DOUBTFUL_ENCODING, Document
from llm.corpus.duplicates import representatives
from llm.corpus.formats import is_undivided
from llm.corpus.params import CleanParams, PrepareParams, PythonSource, Source, SplitParams
from llm.corpus.sources import library_hash

SPOOL = CORPUS.append(pa.field("signature", pa.binary()))
BATCH_BYTES = 8_000_000  # of text in memory at a time
RULES = ("", "exact_duplicate", "near_duplicate")
BEYOND = "beyond_subset_fraction"
HARMLESS = {"empty", "hidden"}  # reasons that are common in folders and archives, so that they never end the stage
N_EXAMPLES = 5
MIN_HELD_OUT = 5  # documents of equal weight that a split is expected to have

Hashes = NDArray[np.uint64]  # of documents, shape (n, 2)


def _no_figures() -> defaultdict[str, dict[str, int]]:
    return defaultdict(lambda: {"documents": 0, "bytes": 0})


@dataclass
class Counts:
    """Documents by source, by split, and by the rule that dropped them; notes on files."""

    found: Counter[str] = field(default_factory=Counter)  # documents by source
    kept: defaultdict[str, dict[str, int]] = field(default_factory=_no_figures)  # by split and by "source NAME"
    changed: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)  # documents, bytes, and the first five
    encodings: dict[str, str] = field(default_factory=dict)  # that may be wrong, by path
    dialects: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # paths of tables
    undivided: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # paths by source

    def read(self, document: Document, source: Source) -> bool:
        """Count a document, and return whether it stays; UserError where it may neither be read nor skipped."""
        if document.reason == DOUBTFUL_ENCODING:
            self.encodings[document.path] = document.note
        elif document.reason == DIALECT:
            self.dialects[document.note].append(document.path)
        else:
            self.found[source.name] += 1
            if getattr(source, "separator", None) and document.readable and is_undivided(document.path):
                self.undivided[source.name].append(document.path)
            is_bad = not document.readable and document.reason not in HARMLESS
            if is_bad and getattr(source, "on_error", "skip") == "fail":
                problem = f"{document.path}: {document.note} (on_error: skip leaves it out)"
                raise UserError(f"source {source.name}: {problem}")
            if document.reason:
                self.drop(document.reason, document.path, document.n_bytes, document.note)
        self.changed["documents"] += document.normalised_bytes > 0
        self.changed["bytes"] += document.normalised_bytes
        self.changed["control_bytes"] += document.control_bytes
        return not document.reason

    def drop(self, rule: str, path: str, n_bytes: int, note: str = "") -> None:
        """Count a dropped document."""
        of_rule = self.dropped.setdefault(rule, {"documents": 0, "bytes": 0, "examples": []})
        of_rule["documents"] += 1
        of_rule["bytes"] += n_bytes
        if len(of_rule["examples"]) < N_EXAMPLES:
            of_rule["examples"].append([path, note])

    def keep(self, rows: pa.Table, split: str) -> None:
        """Count rows of the corpus."""
        by_source = rows.group_by("source").aggregate([("n_bytes", "sum"), ("n_bytes", "count")])
        for row in by_source.to_pylist():
            for group in (split, f"source {row['source']}"):
                self.kept[group]["documents"] += row["n_bytes_count"]
                self.kept[group]["bytes"] += row["n_bytes_sum"]

    def dropped_in_words(self) -> str:
        """Return how many documents each rule dropped."""
        return ", ".join(f"{of['documents']} {rule.replace('_', ' ')}" for rule, of in sorted(self.dropped.items()))

    def metrics(self, prepare: PrepareParams, n_repeated: int) -> dict[str, Any]:
        """Return the figures of metrics/prepare.json."""
        metrics: dict[str, Any] = {
            **{key: {split: self.kept[split][key] for split in SPLITS} for key in ("documents", "bytes")},
            "split_method": prepare.split.method,
            "bytes_by_source": {source.name: self.kept[f"source {source.name}"]["bytes"] for source in prepare.sources},
            "changed_by_normalising": {key: self.changed[key] for key in ("documents", "bytes")},
            "control_character_bytes_removed": self.changed["control_bytes"],
            "repeated_docstrings": n_repeated,
            "dropped": {
                rule: {"documents": of["documents"], "bytes": of["bytes"]} for rule, of in sorted(self.dropped.items())
            },
        }
        if self.encodings:
            metrics["files_of_doubtful_encoding"] = len(self.encodings)
        if any(isinstance(source, PythonSource) for source in prepare.sources):
            metrics["python"] = {"version": platform.python_version(), "library_sha256": library_hash()}
        return metrics

    def details(self, prepare: PrepareParams, notes: list[str]) -> dict[str, Any]:
        """Return the figures, examples and notes of the report."""
        names = [source.name for source in prepare.sources]
        return {
            "sources": {name: {"found": self.found[name]} | self.kept[f"source {name}"] for name in names},
            "splits": {split: self.kept[split] for split in SPLITS},
            "notes": notes,
            "rules_off": [name for name, value in prepare.clean.model_dump().items() if value in (None, "keep")],
            "dropped": dict(sorted(self.dropped.items())),
            "encodings": self.encodings,
            "dialects": {key: {"files": len(of), "examples": of[:N_EXAMPLES]} for key, of in self.dialects.items()},
        }


class Duplicates(NamedTuple):
    """For each document: the rule that drops it (an index of RULES), and the number of its representative."""

    rule: NDArray[np.int8]
    representative: NDArray[np.int64]


def _column(spool: Path, name: str) -> Iterator[Any]:
    return (row[name] for row in iterate_rows(spool, [name], batch_rows=4096))


def as_hashes(doc_ids: Iterator[str] | list[str]) -> Hashes:
    """Return the numbers that ids are made of: shape (n, 2)."""
    return np.frombuffer(b"".join(map(bytes.fromhex, doc_ids)), dtype=">u8").astype(np.uint64).reshape(-1, 2)


def find_duplicates(spool: Path, rules: CleanParams) -> Duplicates:
    """Find documents that repeat an earlier one. The representative of a group is its first document."""
    hashes = as_hashes(_column(spool, "doc_id"))
    rule = np.zeros(len(hashes), dtype=np.int8)
    representative = np.arange(len(hashes))
    if rules.exact_duplicates == "drop":
        groups = pd.Series(representative).groupby([hashes[:, 0], hashes[:, 1]])
        representative = groups.transform("min").to_numpy(copy=True)
        rule[representative != np.arange(len(hashes))] = 1
    if rules.near_duplicates is not None:
        distinct = np.flatnonzero(rule == 0)
        signatures = (state for state, of in zip(_column(spool, "signature"), rule, strict=True) if not of)
        near = distinct[representatives(signatures, rules.near_duplicates)]
        representative[distinct] = near
        if rules.near_duplicates.action == "drop":
            rule[distinct[near != distinct]] = 2
    return Duplicates(rule, representative)


def split_by_hash(hashes: Hashes, split: SplitParams, subset_fraction: float) -> NDArray[np.str_]:
    """Return the split of each document, or BEYOND; it depends on its id alone: adding a document moves no other one.

    >>> split = SplitParams(method="document", val=0.05, test=0.05)
    >>> split_by_hash(as_hashes(["0" * 32, "8" * 32, "8" * 16 + "f" * 16]), split, subset_fraction=0.9).tolist()
    ['val', 'train', 'beyond_subset_fraction']
    """
    place, place_in_subset = hashes.T / 2.0**64
    is_beyond = (place_in_subset >= subset_fraction) & (subset_fraction < 1)
    return np.select([is_beyond, place < split.val, place < split.val + split.test], [BEYOND, "val", "test"], "train")


def cut(text: str, split: SplitParams) -> dict[str, str]:
    """Cut one text into up to three parts in its order, by fractions of its characters; empty parts are left out.

    >>> cut("abcdefghij", SplitParams(method="position", val=0.1, test=0.2))
    {'train': 'abcdefg', 'val': 'h', 'test': 'ij'}
    """
    first = len(text) - round(len(text) * (split.val + split.test))
    second = len(text) - round(len(text) * split.test)
    parts = {"train": text[:first], "val": text[first:second], "test": text[second:]}
    return {name: part for name, part in parts.items() if part}


def has_enough_documents(n_bytes: NDArray[np.int64], prepare: PrepareParams) -> bool:
    """Return whether whole documents of these lengths make a val and a test of about the fractions.

    The smaller of the two has to have MIN_HELD_OUT of the effective number of documents, (Σ n)² / Σ n²: one long and a
    hundred short ones are one.
    """
    held_out = [fraction for fraction in (prepare.split.val, prepare.split.test) if fraction]
    effective = n_bytes.sum(dtype=float) ** 2 / max(np.square(n_bytes, dtype=float).sum(), 1.0)
    return not held_out or prepare.subset_fraction * effective * min(held_out) >= MIN_HELD_OUT


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
        n_bytes = np.fromiter(_column(spool, "n_bytes"), dtype=np.int64)[duplicates.rule == 0]
        is_enough = has_enough_documents(n_bytes, prepare)
        method, enough = ("document", "enough") if is_enough else ("position", "too few")
        longest = int(n_bytes.max(initial=0)) / max(int(n_bytes.sum()), 1)
        why = f"{len(n_bytes):,} documents, the longest {longest:.0%} of the text, are {enough} to hold out whole ones"
    resolved = prepare.model_copy(update={"split": split.model_copy(update={"method": method})})
    return resolved, f"Split by {method}: {why} (prepare.split.method: auto)."


def write_corpus(folder: Path, spool: Path, duplicates: Duplicates, prepare: PrepareParams, counts: Counts) -> None:
    """Write `folder`/{train,val,test}.parquet; count the documents that stay, and those that do not."""
    _count_duplicates(spool, duplicates, counts)
    # A group is in the split of its representative.
    deciding = as_hashes(_column(spool, "doc_id"))[duplicates.representative]
    at = 0
    with ExitStack() as stack, pq.ParquetFile(spool, pre_buffer=False) as file:
        tables = {split: stack.enter_context(TableWriter(folder / f"{split}.parquet", CORPUS)) for split in SPLITS}
        for number in range(file.num_row_groups):
            batch = file.read_row_group(number, columns=CORPUS.names, use_threads=False)
            stay = duplicates.rule[at : at + batch.num_rows] == 0
            hashes = deciding[at : at + batch.num_rows][stay]
            at += batch.num_rows
            rows = batch.filter(pa.array(stay))
            is_cut = prepare.split.method == "position"
            parts = _cut_all(rows, prepare, counts) if is_cut else _by_hash(rows, hashes, prepare, counts)
            for split in SPLITS:
                tables[split].append(parts[split])
                counts.keep(parts[split], split)


def _count_duplicates(spool: Path, duplicates: Duplicates, counts: Counts) -> None:
    examples = {number for rule in (1, 2) for number in np.flatnonzero(duplicates.rule == rule)[:N_EXAMPLES].tolist()}
    first = {number: int(duplicates.representative[number]) for number in examples}
    paths = dict.fromkeys(first.values(), "")
    for number, row in enumerate(iterate_rows(spool, ["path", "n_bytes"], batch_rows=4096)):
        if number in paths:
            paths[number] = row["path"]
        if rule := duplicates.rule[number]:
            counts.drop(
                RULES[rule], row["path"], row["n_bytes"], f"like {paths[first[number]]}" if number in first else ""
            )


def _by_hash(rows: pa.Table, hashes: Hashes, prepare: PrepareParams, counts: Counts) -> dict[str, pa.Table]:
    """Return whole documents by split; those beyond the subset are dropped."""
    places = split_by_hash(hashes, prepare.split, prepare.subset_fraction)
    for row in rows.filter(pa.array(places == BEYOND)).select(["path", "n_bytes"]).to_pylist():
        counts.drop(BEYOND, row["path"], row["n_bytes"])
    return {split: rows.filter(pa.array(places == split)) for split in SPLITS}


def _cut_all(rows: pa.Table, prepare: PrepareParams, counts: Counts) -> dict[str, pa.Table]:
    """Return each document's parts by split; a part is a document with a hash of its own."""
    parts: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for row in rows.to_pylist():
        n_chars = math.ceil(len(row["text"]) * prepare.subset_fraction)
        if beyond := row["text"][n_chars:]:
            counts.drop(BEYOND, row["path"], len(beyond.encode()), f"from character {n_chars:,} on")
        for split, part in cut(row["text"][:n_chars], prepare.split).items():
            parts[split].append(row | {"doc_id": document_id(part), "text": part, "n_bytes": len(part.encode())})
    return {split: pa.Table.from_pylist(of_split, schema=CORPUS) for split, of_split in parts.items()}
