"""Write the corpus: every document of a spool that stays, in its split.

    Spool, Duplicates ──► {train,val,test}.parquet, a row a document: doc_id, source, path, text, n_bytes

Rows are moved in whole batches; a text becomes a Python string only where it has to be cut.
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm.core.tables import CORPUS, SPLITS, TableWriter
from llm.corpus.clean import document_id
from llm.corpus.params import PrepareParams
from llm.corpus.split import choose_method, cut, is_in_subset, split_of
from llm.corpus.spool import RULES, Duplicates, Spool

N_EXAMPLES = 5
BEYOND = "beyond_subset_fraction"
Totals = Counter[tuple[str, str]]  # ("documents" or "bytes", a split or "source NAME") → how many


class Dropped(dict[str, dict[str, Any]]):
    """Dropped documents by rule: how many, their bytes, and the first five with a note.

    >>> dropped = Dropped()
    >>> dropped.count("empty", "mine/a.txt", n_bytes=3, note="")
    >>> dropped
    {'empty': {'documents': 1, 'bytes': 3, 'examples': [['mine/a.txt', '']]}}
    """

    def count(self, rule: str, path: str, n_bytes: int, note: str) -> None:
        """Count one document."""
        of_rule = self.setdefault(rule, {"documents": 0, "bytes": 0, "examples": []})
        of_rule["documents"] += 1
        of_rule["bytes"] += n_bytes
        if len(of_rule["examples"]) < N_EXAMPLES:
            of_rule["examples"].append([path, note])


def resolve_split(spool: Spool, duplicates: Duplicates, prepare: PrepareParams) -> tuple[PrepareParams, str]:
    """Replace `split.method: auto` by the method that suits the documents that stay; return the reason too.

    Groups of near duplicates need whole documents, for each group is in one split.
    """
    method, split = prepare.split.method, prepare.split
    if method != "auto":
        return prepare, f"Split by {method}, as set in prepare.split.method."
    n_bytes = np.concatenate([batch.column("n_bytes").to_numpy() for batch in spool.batches(["n_bytes"])] or [[]])
    n_bytes = n_bytes[duplicates.rule == 0].astype(np.int64)
    near = prepare.clean.near_duplicates
    if near and near.action == "group":
        method, why = "document", "near duplicates are grouped"
    else:
        method = choose_method(n_bytes, split.val, split.test, prepare.subset_fraction)
        longest = int(n_bytes.max(initial=0)) / max(int(n_bytes.sum()), 1)
        enough = "enough" if method == "document" else "too few"
        why = f"{len(n_bytes):,} documents, the longest {longest:.0%} of the text, are {enough} to hold out whole ones"
    resolved = prepare.model_copy(update={"split": split.model_copy(update={"method": method})})
    return resolved, f"Split by {method}: {why} (prepare.split.method: auto)."


def write_corpus(
    folder: Path, spool: Spool, duplicates: Duplicates, prepare: PrepareParams, dropped: Dropped
) -> Totals:
    """Write `folder`/{train,val,test}.parquet; count documents that do not stay in `dropped`."""
    totals: Totals = Counter()
    deciding = spool.ids()[duplicates.representative]  # a group is in the split of its representative
    first = _examples(duplicates)
    paths: dict[int, str] = {}  # of the examples and their representatives, which come before them
    at = 0
    with ExitStack() as stack:
        tables = {split: stack.enter_context(TableWriter(folder / f"{split}.parquet", CORPUS)) for split in SPLITS}
        for batch in spool.batches(CORPUS.names):
            rules = duplicates.rule[at : at + batch.num_rows]
            sizes = batch.column("n_bytes").to_numpy()
            shown = [number for number in {*first, *first.values()} if at <= number < at + batch.num_rows]
            paths |= {number: batch.column("path")[number - at].as_py() for number in shown}
            for row in np.flatnonzero(rules):
                number = at + int(row)
                note = f"like {paths[first[number]]}" if number in first else ""
                dropped.count(RULES[rules[row]], paths.get(number, ""), int(sizes[row]), note)
            stay = rules == 0
            ids = deciding[at : at + batch.num_rows][stay]
            for split, part in _by_split(batch.filter(pa.array(stay)), ids, prepare, dropped):
                tables[split].append(part)
                _count(part, split, totals)
            at += batch.num_rows
    return totals


def _examples(duplicates: Duplicates) -> dict[int, int]:
    """Return the first few documents that each rule drops, with their representatives."""
    rules = range(1, len(RULES))
    numbers = [int(number) for rule in rules for number in np.flatnonzero(duplicates.rule == rule)[:N_EXAMPLES]]
    return {number: int(duplicates.representative[number]) for number in numbers}


def _by_split(
    batch: pa.Table, deciding: NDArray[np.uint64], prepare: PrepareParams, dropped: Dropped
) -> Iterator[tuple[str, pa.Table]]:
    """Yield the rows of a batch by split: whole documents of the subset, or parts of all documents."""
    split = prepare.split
    assert split.method != "auto", "resolve_split comes first"
    if split.method == "position":
        yield from _cut_all(batch, prepare, dropped)
        return
    ids = [f"{high:016x}{low:016x}" for high, low in deciding.tolist()]
    splits = np.array([split_of(id_, split.val, split.test) for id_ in ids], dtype=object)
    if prepare.subset_fraction < 1:
        chosen = np.array([is_in_subset(id_, prepare.subset_fraction) for id_ in ids], dtype=bool)
        for row in batch.filter(pa.array(~chosen)).select(["path", "n_bytes"]).to_pylist():
            dropped.count(BEYOND, row["path"], row["n_bytes"], "")
        batch, splits = batch.filter(pa.array(chosen)), splits[chosen]
    for name in SPLITS:
        yield name, batch.filter(pa.array(splits == name, type=pa.bool_()))


def _cut_all(batch: pa.Table, prepare: PrepareParams, dropped: Dropped) -> Iterator[tuple[str, pa.Table]]:
    """Yield each document's parts; a part is a document with a hash of its own."""
    rows: dict[str, list[dict[str, object]]] = {split: [] for split in SPLITS}
    for row in batch.to_pylist():
        n_chars = math.ceil(len(row["text"]) * prepare.subset_fraction)
        text = row["text"][:n_chars]
        if beyond := row["text"][n_chars:]:
            dropped.count(BEYOND, row["path"], len(beyond.encode()), f"from character {n_chars:,} on")
        for split, part in cut(text, prepare.split.val, prepare.split.test).items():
            rows[split].append(row | {"doc_id": document_id(part), "text": part, "n_bytes": len(part.encode())})
    for split in SPLITS:
        yield split, pa.Table.from_pylist(rows[split], schema=CORPUS)


def _count(part: pa.Table, split: str, totals: Totals) -> None:
    by_source = part.group_by("source").aggregate([("n_bytes", "sum"), ("n_bytes", "count")])
    for row in by_source.to_pylist():
        for group in (split, f"source {row['source']}"):
            totals["documents", group] += row["n_bytes_count"]
            totals["bytes", group] += row["n_bytes_sum"]
