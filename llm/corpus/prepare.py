"""Prepare the corpus: read the sources, clean, deduplicate and split documents, and count them.

Units are read one after the other, or on the machines of a Ray cluster (https://docs.ray.io, an optional extra), whose
workers have to see the files under the same paths.
"""

import platform
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llm.core.errors import UserError
from llm.core.tables import SPLITS, TableWriter
from llm.corpus.assemble import (
    BATCH_BYTES,
    N_EXAMPLES,
    SPOOL,
    Dropped,
    Totals,
    find_duplicates,
    resolve_split,
    write_corpus,
)
from llm.corpus.clean import clean
from llm.corpus.document import DIALECT, DOUBTFUL_ENCODING, Document
from llm.corpus.formats import is_undivided
from llm.corpus.params import PrepareParams, PythonSource, Source
from llm.corpus.sources import Unit, library_hash, list_units, read_unit, unpinned_datasets, untracked_files

# Reasons that are common in folders and archives, so that they never end the stage.
HARMLESS = {"empty", "hidden"}
REPORT = "reports/prepare.md"


@dataclass
class Reading:
    """What reading and cleaning the documents found, beside the documents."""

    found: Counter[str] = field(default_factory=Counter)  # documents by source
    changed: Counter[str] = field(default_factory=Counter)
    dropped: Dropped = field(default_factory=Dropped)
    encodings: dict[str, str] = field(default_factory=dict)  # that may be wrong, by path
    dialects: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # paths of tables
    undivided: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # paths by source

    def count(self, document: Document, source: Source) -> bool:
        """Count a document, and return whether it stays; UserError where it may neither be read nor skipped."""
        if document.reason == DOUBTFUL_ENCODING:
            self.encodings[document.path] = document.note
        elif document.reason == DIALECT:
            self.dialects[document.note].append(document.path)
        else:
            self.found[source.name] += 1
            if getattr(source, "separator", None) and document.readable and is_undivided(document.path):
                self.undivided[source.name].append(document.path)
            if document.reason:
                self._drop(document, source)
        self.changed["documents"] += document.normalised_bytes > 0
        self.changed["bytes"] += document.normalised_bytes
        self.changed["control_bytes"] += document.control_bytes
        return not document.reason

    def _drop(self, document: Document, source: Source) -> None:
        is_harmless = document.readable or document.reason in HARMLESS
        if not is_harmless and getattr(source, "on_error", "skip") == "fail":
            raise UserError(f"source {source.name}: {document.path}: {document.note} (on_error: skip leaves it out)")
        self.dropped.count(document.reason, document.path, document.n_bytes, document.note)


def prepare_corpus(
    prepare: PrepareParams, raw: Path, lock: Path, corpus: Path, scratch: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write `corpus`/{train,val,test}.parquet; return the metrics, and the details of the report.

    UserError for a source that cannot be read, or where no document is left to train on.
    """
    sources = {source.name: source for source in prepare.sources}
    units = [unit for source in prepare.sources for unit in list_units(source, raw, lock)]
    _warn_of_sources(units, prepare, raw)
    reading, spool = Reading(), scratch / "documents.parquet"
    with TableWriter(spool, SPOOL, BATCH_BYTES) as table:
        for document in _with_progress(units, prepare):
            if reading.count(document, sources[document.source]):
                table.write(document._asdict(), document.n_bytes)
    duplicates = find_duplicates(spool, prepare.clean)
    resolved, decision = resolve_split(spool, duplicates, prepare)
    totals = write_corpus(corpus, spool, duplicates, resolved, reading.dropped)
    if not totals["documents", "train"]:
        held_out = f"{totals['documents', 'val'] + totals['documents', 'test']} held out"
        got = _in_words(reading.dropped) or held_out
        raise UserError(f"prepare.sources: expected at least one document to train on, got none ({got})")
    notes = [*_empty_splits(totals, resolved), *_useless_separators(sources, reading), *_repeated_docstrings(units)]
    _print_summary(reading, [decision, *notes] if prepare.split.method == "auto" else notes)
    return _metrics(reading, totals, resolved, units), _details(reading, totals, prepare, [decision, *notes])


def _with_progress(units: list[Unit], prepare: PrepareParams) -> Iterator[Document]:
    sizes = [unit.n_bytes() for unit in units]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    with tqdm(total=total, desc="prepare", unit="B", unit_scale=True) as bar:
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
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        yield from ray.data.from_items(items).flat_map(work).iter_rows()
    finally:
        if started_here:
            ray.shutdown()


def _figures(totals: Totals, group: str) -> dict[str, int]:
    return {key: totals[key, group] for key in ("documents", "bytes")}


def _metrics(reading: Reading, totals: Totals, prepare: PrepareParams, units: list[Unit]) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "documents": {split: totals["documents", split] for split in SPLITS},
        "bytes": {split: totals["bytes", split] for split in SPLITS},
        "split_method": prepare.split.method,
        "bytes_by_source": {source.name: totals["bytes", f"source {source.name}"] for source in prepare.sources},
        "changed_by_normalising": {key: reading.changed[key] for key in ("documents", "bytes")},
        "control_character_bytes_removed": reading.changed["control_bytes"],
        "repeated_docstrings": sum(unit.n_repeated for unit in units),
        "dropped": {
            rule: {"documents": of["documents"], "bytes": of["bytes"]} for rule, of in sorted(reading.dropped.items())
        },
    }
    if reading.encodings:
        metrics["files_of_doubtful_encoding"] = len(reading.encodings)
    if any(isinstance(source, PythonSource) for source in prepare.sources):
        metrics["python"] = {"version": platform.python_version(), "library_sha256": library_hash()}
    return metrics


def _details(reading: Reading, totals: Totals, prepare: PrepareParams, notes: list[str]) -> dict[str, Any]:
    names = [source.name for source in prepare.sources]
    return {
        "sources": {name: {"found": reading.found[name]} | _figures(totals, f"source {name}") for name in names},
        "splits": {split: _figures(totals, split) for split in SPLITS},
        "notes": notes,
        "rules_off": [name for name, value in prepare.clean.model_dump().items() if value in (None, "keep")],
        "dropped": dict(sorted(reading.dropped.items())),
        "encodings": reading.encodings,
        "dialects": {
            dialect: {"files": len(paths), "examples": paths[:N_EXAMPLES]}
            for dialect, paths in reading.dialects.items()
        },
    }


def _in_words(dropped: Dropped) -> str:
    return ", ".join(f"{of_rule['documents']} {rule.replace('_', ' ')}" for rule, of_rule in sorted(dropped.items()))


def _empty_splits(totals: Totals, prepare: PrepareParams) -> Iterator[str]:
    for split, fraction in (("val", prepare.split.val), ("test", prepare.split.test)):
        if totals["bytes", split]:
            continue
        why = f"every document is too short for a {split} of {fraction:g}"
        if not fraction:
            why = f"prepare.split.{split} is 0"
        elif prepare.split.method == "document":
            why = "no document's hash falls into it; prepare.split.method: position holds out the end of each document"
        yield f"{split} is empty: {why}."


def _useless_separators(sources: dict[str, Source], reading: Reading) -> Iterator[str]:
    for name, files in reading.undivided.items():
        shown = ", ".join(files[:N_EXAMPLES]) + (", …" if len(files) > N_EXAMPLES else "")
        separator = getattr(sources[name], "separator", None)
        problem = f"the separator {separator!r} divides none of these files, each is one document"
        yield f"source {name}: {problem}: {shown} ({len(files):,} in all)."


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


def _print_summary(reading: Reading, notes: list[str]) -> None:
    for note in notes:
        print(f"prepare: {note}", file=sys.stderr)
    if reading.dropped:
        print(f"prepare: left out: {_in_words(reading.dropped)}; see {REPORT}")
    doubtful = [f"{path}: encoding {why}" for path, why in reading.encodings.items()]
    _warn(doubtful, f"encodings that may be wrong; see {REPORT}")
    for dialect, paths in reading.dialects.items():
        print(f"prepare: {paths[0]}{f' and {len(paths) - 1:,} more files' if paths[1:] else ''}: {dialect}")
