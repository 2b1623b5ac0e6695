"""Documents of a spool → the corpus: every one that stays in its split.

    Spool, Verdict ──► {train,val,test}.parquet, a row a document: doc_id, source, path, text, n_bytes

Rows are moved in whole batches; a text becomes a Python string only where it has to be cut.
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm.core.tables import CORPUS, SPLITS, TableWriter
from llm.corpus.clean import document_id
from llm.corpus.dropped import N_EXAMPLES, Dropped
from llm.corpus.params import PrepareParams
from llm.corpus.split import choose_method, cut, is_chosen, split_of
from llm.corpus.spool import RULES, Spool, Verdict

Kept = Counter[tuple[str, str]]  # ("documents" or "bytes", a split or "source NAME") → how many


def resolve_split(spool: Spool, verdict: Verdict, prepare: PrepareParams) -> tuple[PrepareParams, str]:
    """Replace `split.method: auto` by the method that suits the documents that stay; and say in a sentence which.

    Groups of near duplicates, which share a split, need whole documents.
    """
    method = prepare.split.method
    if method != "auto":
        return prepare, f"Split by {method}, as prepare.split.method says."
    n_bytes = np.concatenate([batch.column("n_bytes").to_numpy() for batch in spool.batches(["n_bytes"])] or [[]])
    n_bytes = n_bytes[verdict.rule == 0].astype(np.int64)
    near = prepare.clean.near_duplicates
    if near and near.action == "group":
        method, why = "document", "near duplicates are grouped"
    else:
        method = choose_method(n_bytes, prepare.split.val, prepare.split.test, prepare.subset_fraction)
        share = int(n_bytes.max(initial=0)) / max(int(n_bytes.sum()), 1)
        enough = "enough" if method == "document" else "too few"
        why = f"{len(n_bytes):,} documents, the longest {share:.0%} of the text, are {enough} to hold out whole ones"
    resolved = prepare.model_copy(update={"split": prepare.split.model_copy(update={"method": method})})
    return resolved, f"Split by {method}: {why} (prepare.split.method: auto)."


def write_corpus(folder: Path, spool: Spool, verdict: Verdict, prepare: PrepareParams, dropped: Dropped) -> Kept:
    """Write `folder`/{train,val,test}.parquet; what does not stay is counted in `dropped`."""
    kept: Kept = Counter()
    deciding = spool.ids()[verdict.stands_for]  # relatives go where the one goes that stands for them
    names = _name_duplicates(spool, verdict)
    at = 0
    with ExitStack() as stack:
        tables = {split: stack.enter_context(TableWriter(folder / f"{split}.parquet", CORPUS)) for split in SPLITS}
        for batch in spool.batches(CORPUS.names):
            rules = verdict.rule[at : at + batch.num_rows]
            sizes = batch.column("n_bytes").to_numpy()
            for row in np.flatnonzero(rules):
                path, why = names.get(at + int(row), ("", ""))
                dropped.add(RULES[rules[row]], path, int(sizes[row]), why)
            stay = rules == 0
            parts = _share_out(batch.filter(pa.array(stay)), deciding[at : at + batch.num_rows][stay], prepare, dropped)
            for split, part in parts:
                tables[split].append(part)
                _count(part, split, kept)
            at += batch.num_rows
    return kept


def _share_out(
    batch: pa.Table, deciding: NDArray[np.uint64], prepare: PrepareParams, dropped: Dropped
) -> Iterator[tuple[str, pa.Table]]:
    """The rows of a batch by split: whole documents, or their parts; what is beyond the share is dropped."""
    shares = prepare.split
    assert shares.method != "auto", "resolve_split comes first"
    if shares.method == "position":
        yield from _cut_all(batch, prepare, dropped)
        return
    ids = [f"{high:016x}{low:016x}" for high, low in deciding.tolist()]
    splits = np.array([split_of(id_, shares.val, shares.test) for id_ in ids], dtype=object)
    if prepare.subset_fraction < 1:
        chosen = np.array([is_chosen(id_, prepare.subset_fraction) for id_ in ids], dtype=bool)
        for path, n_bytes in zip(*_columns(batch.filter(pa.array(~chosen)), "path", "n_bytes"), strict=True):
            dropped.add("beyond_share", path, n_bytes, "")
        batch, splits = batch.filter(pa.array(chosen)), splits[chosen]
    for split in SPLITS:
        yield split, batch.filter(pa.array(splits == split, type=pa.bool_()))


def _cut_all(batch: pa.Table, prepare: PrepareParams, dropped: Dropped) -> Iterator[tuple[str, pa.Table]]:
    """Each document's parts by position; a part is a document of its own, with a hash of its own.

    The end of a document that is beyond the share is counted as dropped.
    """
    rows: dict[str, list[dict[str, object]]] = {split: [] for split in SPLITS}
    for row in batch.to_pylist():
        n_chars = math.ceil(len(row["text"]) * prepare.subset_fraction)
        text = row["text"][:n_chars]
        if beyond := row["text"][n_chars:]:
            dropped.add("beyond_share", row["path"], len(beyond.encode()), f"from character {n_chars:,} on")
        for split, part in cut(text, prepare.split.val, prepare.split.test).items():
            rows[split].append(row | {"doc_id": document_id(part), "text": part, "n_bytes": len(part.encode())})
    for split in SPLITS:
        yield split, pa.Table.from_pylist(rows[split], schema=CORPUS)


def _count(part: pa.Table, split: str, kept: Kept) -> None:
    by_source = part.group_by("source").aggregate([("n_bytes", "sum"), ("n_bytes", "count")])
    for row in by_source.to_pylist():
        for group in (split, f"source {row['source']}"):
            kept["documents", group] += row["n_bytes_count"]
            kept["bytes", group] += row["n_bytes_sum"]


def _name_duplicates(spool: Spool, verdict: Verdict) -> dict[int, tuple[str, str]]:
    """For the first few documents that each rule drops, their path and whose duplicate they are."""
    shown = [int(n) for rule in range(1, len(RULES)) for n in np.flatnonzero(verdict.rule == rule)[:N_EXAMPLES]]
    wanted = {*shown, *(int(verdict.stands_for[number]) for number in shown)}
    paths: dict[int, str] = {}
    at = 0
    for batch in spool.batches(["path"]) if wanted else ():
        inside = [number for number in wanted if at <= number < at + batch.num_rows]
        paths |= {number: batch.column("path")[number - at].as_py() for number in inside}
        at += batch.num_rows
    return {number: (paths[number], f"like {paths[int(verdict.stands_for[number])]}") for number in shown}


def _columns(table: pa.Table, *names: str) -> list[list[object]]:
    return [table.column(name).to_pylist() for name in names]
