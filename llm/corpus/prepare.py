"""Prepare the corpus: read the sources, clean, deduplicate and split documents, and count them."""

import platform
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llm.core.errors import UserError
from llm.core.tables import SPLITS
from llm.corpus.assemble import N_EXAMPLES, Dropped, Totals, resolve_split, write_corpus
from llm.corpus.clean import Cleaned
from llm.corpus.document import DIALECT, DOUBTFUL_ENCODING
from llm.corpus.engine import clean_units
from llm.corpus.formats import is_undivided
from llm.corpus.params import PrepareParams, PythonSource
from llm.corpus.sources import Unit, library_hash, list_units, unpinned_datasets, untracked_files
from llm.corpus.spool import Spool, find_duplicates

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


def prepare_corpus(
    prepare: PrepareParams, raw: Path, lock: Path, corpus: Path, scratch: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write `corpus`/{train,val,test}.parquet; return the metrics, and the details of the report.

    UserError for a source that cannot be read, or where no document is left to train on.
    """
    units = [unit for source in prepare.sources for unit in list_units(source, raw, lock)]
    _warn_of_sources(units, prepare, raw)
    reading = Reading()
    with Spool(scratch / "documents.arrow") as spool:
        for document in _with_progress(units, prepare):
            if _register(document, prepare, reading):
                spool.add(document)
    duplicates = find_duplicates(spool, prepare.clean)
    resolved, decision = resolve_split(spool, duplicates, prepare)
    totals = write_corpus(corpus, spool, duplicates, resolved, reading.dropped)
    if not totals["documents", "train"]:
        held_out = f"{totals['documents', 'val'] + totals['documents', 'test']} held out"
        got = _in_words(reading.dropped) or held_out
        raise UserError(f"prepare.sources: expected at least one document to train on, got none ({got})")
    notes = [*_empty_splits(totals, resolved), *_useless_separators(prepare, reading), *_repeated_docstrings(units)]
    _print_summary(reading, [decision, *notes] if prepare.split.method == "auto" else notes)
    return _metrics(reading, totals, resolved, units), _details(reading, totals, prepare, [decision, *notes])


def _register(document: Cleaned, prepare: PrepareParams, reading: Reading) -> bool:
    """Count a document, and return whether it stays; UserError where it may neither be read nor skipped."""
    if document.reason == DOUBTFUL_ENCODING:
        reading.encodings[document.path] = document.note
        return False
    if document.reason == DIALECT:
        reading.dialects[document.note].append(document.path)
        return False
    reading.found[document.source] += 1
    source = next(source for source in prepare.sources if source.name == document.source)
    if getattr(source, "separator", None) and document.readable and is_undivided(document.path):
        reading.undivided[document.source].append(document.path)
    if not document.reason:
        reading.changed["documents"] += document.normalised_bytes > 0
        reading.changed["bytes"] += document.normalised_bytes
        reading.changed["control_bytes"] += document.control_bytes
        return True
    unreadable = not document.readable and document.reason not in HARMLESS
    if unreadable and getattr(source, "on_error", "skip") == "fail":
        raise UserError(f"source {source.name}: {document.path}: {document.note} (on_error: skip leaves it out)")
    reading.dropped.count(document.reason, document.path, document.n_bytes, document.note)
    return False


def _with_progress(units: list[Unit], prepare: PrepareParams) -> Iterator[Cleaned]:
    sizes = [unit.n_bytes() for unit in units]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    with tqdm(total=total, desc="prepare", unit="B", unit_scale=True) as bar:
        for document in clean_units(units, prepare):
            bar.update(document.n_bytes)
            yield document


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
            rule: {key: of_rule[key] for key in ("documents", "bytes")}
            for rule, of_rule in sorted(reading.dropped.items())
        },
    }
    if reading.encodings:
        metrics["files_of_doubtful_encoding"] = len(reading.encodings)
    if any(isinstance(source, PythonSource) for source in prepare.sources):
        metrics["python"] = {"version": platform.python_version(), "library_sha256": library_hash()}
    return metrics


def _details(reading: Reading, totals: Totals, prepare: PrepareParams, notes: list[str]) -> dict[str, Any]:
    def kept(group: str) -> dict[str, int]:
        return {key: totals[key, group] for key in ("documents", "bytes")}

    names = [source.name for source in prepare.sources]
    return {
        "sources": {name: {"found": reading.found[name]} | kept(f"source {name}") for name in names},
        "splits": {split: kept(split) for split in SPLITS},
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


def _useless_separators(prepare: PrepareParams, reading: Reading) -> Iterator[str]:
    for source in prepare.sources:
        if files := reading.undivided.get(source.name):
            shown = ", ".join(files[:N_EXAMPLES]) + (", …" if len(files) > N_EXAMPLES else "")
            separator = getattr(source, "separator", None)
            yield (
                f"source {source.name}: the separator {separator!r} divides none of these files, each is one document: "
                f"{shown} ({len(files):,} in all)."
            )


def _repeated_docstrings(units: list[Unit]) -> list[str]:
    n_repeated = Counter[str]()
    for unit in units:
        n_repeated[unit.source.name] += unit.n_repeated
    return [
        f"source {name}: {n:,} docstrings repeat earlier ones and are left out." for name, n in (+n_repeated).items()
    ]


def _warn(lines: list[str], more: str) -> None:
    for line in lines[:N_EXAMPLES]:
        print(f"prepare: warning: {line}", file=sys.stderr)
    if len(lines) > N_EXAMPLES:
        print(f"prepare: warning: {len(lines) - N_EXAMPLES} more {more}", file=sys.stderr)


def _warn_of_sources(units: list[Unit], prepare: PrepareParams, raw: Path) -> None:
    for dataset in unpinned_datasets(prepare.sources):
        _warn([f"{dataset} has no revision, so a change on the Hub goes unnoticed; name a commit"], "")
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
