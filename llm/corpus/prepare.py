"""Prepare the corpus: read the sources, clean, deduplicate and split documents, and count them.

Units are read one after the other, or on the machines of a Ray cluster (https://docs.ray.io, an optional extra), whose
workers have to see the files under the same paths.
"""

import sys
from collections.abc import Callable, Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llm.core.errors import UserError
from llm.core.tables import TableWriter
from llm.corpus.assemble import (
    BATCH_BYTES,
    N_EXAMPLES,
    SPOOL,
    Counts,
    find_duplicates,
    resolve_split,
    write_corpus,
)
from llm.corpus.clean import clean
from llm.corpus.document import Document
from llm.corpus.params import PrepareParams
from llm.corpus.sources import Unit, list_units, read_unit, unpinned_datasets, untracked_files

REPORT = "reports/prepare.md"


def prepare_corpus(
    prepare: PrepareParams, raw: Path, lock: Path, corpus: Path, scratch: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write `corpus`/{train,val,test}.parquet; return the metrics, and the details of the report.

    UserError for a source that cannot be read, or where no document is left to train on.
    """
    units = [unit for source in prepare.sources for unit in list_units(source, raw, lock)]
    _warn_of_sources(units, prepare, raw)
    counts, spool = Counts(), scratch / "documents.parquet"
    sources = {source.name: source for source in prepare.sources}
    with TableWriter(spool, SPOOL, BATCH_BYTES) as table:
        for document in _with_progress(units, prepare):
            if counts.read(document, sources[document.source]):
                table.write(document._asdict(), document.n_bytes)
    duplicates = find_duplicates(spool, prepare.clean)
    resolved, decision = resolve_split(spool, duplicates, prepare)
    write_corpus(corpus, spool, duplicates, resolved, counts)
    if not counts.kept["train"]["documents"]:
        held_out = counts.kept["val"]["documents"] + counts.kept["test"]["documents"]
        got = counts.dropped_in_words() or f"{held_out} held out"
        raise UserError(f"prepare.sources: expected at least one document to train on, got none ({got})")
    notes = [*_empty_splits(counts, resolved), *_useless_separators(counts, prepare), *_repeated_docstrings(units)]
    _print_summary(counts, [decision, *notes] if prepare.split.method == "auto" else notes)
    n_repeated = sum(unit.n_repeated for unit in units)
    return counts.metrics(resolved, n_repeated), counts.details(prepare, [decision, *notes])


def _with_progress(units: list[Unit], prepare: PrepareParams) -> Iterator[Document]:
    # Of compressed files the total is too small: tqdm then shows none.
    n_bytes = sum(unit.file_bytes() if unit.text is None else len(unit.text) for unit in units)
    with tqdm(total=n_bytes or None, desc="prepare", unit="B", unit_scale=True) as bar:
        for document in clean_units(units, prepare):
            bar.update(document.n_bytes)
            yield document


def clean_units(units: list[Unit], prepare: PrepareParams) -> Iterator[Document]:
    """Yield the documents of all units, in order."""

    def work(row: dict[str, int]) -> Iterator[dict[str, Any]]:
        for document in read_unit(units[row["item"]], prepare.max_document_bytes):
            yield clean(document, prepare.clean)._asdict()

    items = [{"item": number} for number in range(len(units))]
    rows = _with_ray(work, items) if prepare.engine == "ray" else chain.from_iterable(map(work, items))
    return (Document(**row) for row in rows)


def _with_ray(work: Callable[..., Iterator[Any]], items: list[dict[str, int]]) -> Iterator[dict[str, Any]]:
    try:
        import ray.data
    except ImportError:
        raise UserError("prepare.engine: expected the package ray, it is not installed (make extras)") from None
    ray.init(include_dashboard=False, log_to_driver=False)
    try:
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        yield from ray.data.from_items(items).flat_map(work).iter_rows()
    finally:
        ray.shutdown()


def _empty_splits(counts: Counts, prepare: PrepareParams) -> Iterator[str]:
    for split, fraction in (("val", prepare.split.val), ("test", prepare.split.test)):
        why = f"every document is too short for a {split} of {fraction:g}"
        if not fraction:
            why = f"prepare.split.{split} is 0"
        elif prepare.split.method == "document":
            why = "no document's hash falls into it; prepare.split.method: position holds out the end of each document"
        if not counts.kept[split]["bytes"]:
            yield f"{split} is empty: {why}."


def _useless_separators(counts: Counts, prepare: PrepareParams) -> Iterator[str]:
    for source in prepare.sources:
        if files := counts.undivided.get(source.name):
            shown = ", ".join(files[:N_EXAMPLES]) + (", …" if len(files) > N_EXAMPLES else "")
            separator = f"the separator {getattr(source, 'separator', '')!r}"
            problem = f"{separator} divides none of these files, each is one document: {shown} ({len(files):,} in all)"
            yield f"source {source.name}: {problem}."


def _repeated_docstrings(units: list[Unit]) -> Iterator[str]:
    for name, of_source in groupby(units, key=lambda unit: unit.source.name):
        if n_repeated := sum(unit.n_repeated for unit in of_source):
            yield f"source {name}: {n_repeated:,} docstrings repeat earlier ones and are left out."


def _warn(lines: list[str], more: str) -> None:
    for line in lines[:N_EXAMPLES]:
        print(f"prepare: warning: {line}", file=sys.stderr)
    if len(lines) > N_EXAMPLES:
        print(f"prepare: warning: {len(lines) - N_EXAMPLES} more {more}", file=sys.stderr)


def _warn_of_sources(units: list[Unit], prepare: PrepareParams, raw: Path) -> None:
    datasets = unpinned_datasets(prepare.sources)
    no_revision = "has no revision, so a change on the Hub goes unnoticed; name a commit"
    _warn([f"{dataset} {no_revision}" for dataset in datasets], "datasets have no revision")
    files = untracked_files(units, raw)
    _warn([f"{file} is not tracked, `dvc add` makes it part of the version" for file in files], "files are not tracked")


def _print_summary(counts: Counts, notes: list[str]) -> None:
    for note in notes:
        print(f"prepare: {note}", file=sys.stderr)
    if counts.dropped:
        print(f"prepare: left out: {counts.dropped_in_words()}; see {REPORT}")
    doubtful = [f"{path}: encoding {why}" for path, why in counts.encodings.items()]
    _warn(doubtful, f"encodings that may be wrong; see {REPORT}")
    for dialect, paths in counts.dialects.items():
        print(f"prepare: {paths[0]}{f' and {len(paths) - 1:,} more files' if paths[1:] else ''}: {dialect}")
