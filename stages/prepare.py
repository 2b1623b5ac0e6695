"""Sources in params.yaml → documents of prepared text, without duplicates, split into train, val and test."""

import platform
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from tqdm import tqdm

from llm.core import stage
from llm.core.errors import UserError
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param, Scratch
from llm.core.tables import SPLITS
from llm.corpus.assemble import Kept, resolve_split, write_corpus
from llm.corpus.clean import Cleaned
from llm.corpus.document import DIALECT, DOUBTFUL_ENCODING
from llm.corpus.dropped import N_EXAMPLES, Dropped, describe
from llm.corpus.engine import clean_units
from llm.corpus.formats import is_undivided
from llm.corpus.params import PrepareParams, PythonSource, Source
from llm.corpus.sources import Unit, library_hash, list_units, unpinned_datasets, untracked_files
from llm.corpus.spool import Spool, find_duplicates

# What a folder or an archive may well hold beside its documents: counted, and no mistake of anybody's.
HARMLESS = {"empty", "hidden"}


def main(
    prepare: Annotated[PrepareParams, Param("prepare")],
    scratch: Scratch,
    raw: Input = Path("data/raw"),
    lock: Input = Path("requirements.lock"),
    corpus: Output = Path("data/corpus"),
    metrics: Output = Path("metrics/prepare.json"),
    report: Output = Path("reports/prepare.md"),
) -> None:
    """Write `corpus`/{train,val,test}.parquet and count what was kept and what was dropped."""
    units = [unit for source in prepare.sources for unit in list_units(source, raw, lock)]
    _warn(units, prepare, raw)
    found, normalised, dropped, encodings = Counter[str](), Counter[str](), Dropped(), dict[str, str]()
    undivided: dict[str, list[str]] = {source.name: [] for source in prepare.sources if _separator(source)}
    dialects: dict[str, list[str]] = {}
    with Spool(scratch / "documents.arrow") as spool:
        for document in _with_progress(units, prepare):
            if document.reason == DOUBTFUL_ENCODING:
                encodings[document.path] = document.note
                continue
            if document.reason == DIALECT:
                dialects.setdefault(document.note, []).append(document.path)
                continue
            found[document.source] += 1
            if document.source in undivided and document.readable and is_undivided(document.path):
                undivided[document.source].append(document.path)
            if document.reason:
                _drop(document, prepare, dropped)
            else:
                spool.add(document)
                normalised["documents"] += document.normalised_bytes > 0
                normalised["bytes"] += document.normalised_bytes
                normalised["control_bytes"] += document.control_bytes
    verdict = find_duplicates(spool, prepare.clean)
    resolved, decision = resolve_split(spool, verdict, prepare)
    kept = write_corpus(corpus, spool, verdict, resolved, dropped)
    if not kept["documents", "train"]:
        held_out = f"{kept['documents', 'val'] + kept['documents', 'test']} held out"
        raise UserError(
            f"prepare.sources: wanted at least one document to train on, given none ({dropped.in_words() or held_out})"
        )
    of_source = {source.name: f"source {source.name}" for source in prepare.sources}
    n_repeated = Counter[str]()
    for unit in units:
        n_repeated[unit.source.name] += unit.n_repeated
    notes = [decision, *_empty_splits(kept, resolved), *_useless_separators(prepare, undivided)]
    notes += [
        f"source {name}: {n:,} docstrings repeat earlier ones and are left out." for name, n in (+n_repeated).items()
    ]
    for note in notes if prepare.split.method == "auto" else notes[1:]:
        print(f"prepare: {note}", file=sys.stderr)
    content: dict[str, Any] = {
        "documents": {split: kept["documents", split] for split in SPLITS},
        "bytes": {split: kept["bytes", split] for split in SPLITS},
        "split_method": resolved.split.method,
        "bytes_by_source": {name: kept["bytes", group] for name, group in of_source.items()},
        "changed_by_normalising": {key: normalised[key] for key in ("documents", "bytes")},
        "control_character_bytes_removed": normalised["control_bytes"],
        "repeated_docstrings": sum(n_repeated.values()),
        "dropped": dropped.counts(),
    }
    if encodings:
        content["files_of_doubtful_encoding"] = len(encodings)
    if any(isinstance(source, PythonSource) for source in prepare.sources):
        content["python"] = {"version": platform.python_version(), "library_sha256": library_hash()}
    write_json(metrics, content)
    sources = {
        name: {"found": found[name], "kept": kept["documents", group], "bytes": kept["bytes", group]}
        for name, group in of_source.items()
    }
    splits = {split: {"documents": kept["documents", split], "bytes": kept["bytes", split]} for split in SPLITS}
    off = [name for name, value in prepare.clean.model_dump().items() if value in (None, "keep")]
    report.write_text(describe(sources, splits, off, dropped, notes, encodings, dialects), encoding="utf-8")
    _print_summary(dropped, encodings)
    for dialect, paths in dialects.items():
        print(f"prepare: {paths[0]}{f' and {len(paths) - 1:,} more files' if paths[1:] else ''}: {dialect}")


def _empty_splits(kept: Kept, prepare: PrepareParams) -> Iterator[str]:
    """A sentence for each held-out split that has no text."""
    for split, share in (("val", prepare.split.val), ("test", prepare.split.test)):
        if kept["bytes", split]:
            continue
        if not share:
            why = f"prepare.split.{split} is 0"
        elif prepare.split.method == "document":
            why = "no document's hash falls into it; prepare.split.method: position holds out the end of each document"
        else:
            why = f"every document is too short for a {split} of {share:g}"
        yield f"{split} is empty: {why}."


def _separator(source: Source) -> str | None:
    return getattr(source, "separator", None)


def _useless_separators(prepare: PrepareParams, undivided: dict[str, list[str]]) -> Iterator[str]:
    """A sentence for each source whose separator is not in all of its files."""
    for source in prepare.sources:
        if files := undivided.get(source.name):
            shown = ", ".join(files[:N_EXAMPLES]) + (", …" if len(files) > N_EXAMPLES else "")
            separator = _separator(source)
            yield (
                f"source {source.name}: the separator {separator!r} divides none of these files, each is one document: "
                f"{shown} ({len(files):,} in all)."
            )


def _print_summary(dropped: Dropped, encodings: dict[str, str]) -> None:
    """Print what the report has: what was left out, and where the encoding may be wrong."""
    if dropped.rules:
        print(f"prepare: left out: {dropped.in_words()}; see reports/prepare.md")
    for path, why in list(encodings.items())[:N_EXAMPLES]:
        print(f"prepare: warning: {path}: encoding {why}", file=sys.stderr)
    if len(encodings) > N_EXAMPLES:
        n_more = len(encodings) - N_EXAMPLES
        print(f"prepare: warning: {n_more} more encodings that may be wrong; see reports/prepare.md", file=sys.stderr)


def _warn(units: list[Unit], prepare: PrepareParams, raw: Path) -> None:
    for dataset in unpinned_datasets(prepare.sources):
        problem = f"{dataset} has no revision, so a change on the Hub goes unnoticed"
        print(f"prepare: warning: {problem}; name a commit", file=sys.stderr)
    files = untracked_files(units, raw)
    for file in files[:N_EXAMPLES]:
        print(f"prepare: warning: {file} is not tracked, `dvc add` makes it part of the version", file=sys.stderr)
    if len(files) > N_EXAMPLES:
        print(f"prepare: warning: {len(files) - N_EXAMPLES} more files are not tracked", file=sys.stderr)


def _with_progress(units: list[Unit], prepare: PrepareParams) -> Iterator[Cleaned]:
    """The documents of all units, under a bar of the bytes that were read."""
    sizes = [unit.n_bytes() for unit in units]
    known = [size for size in sizes if size is not None]
    total = sum(known) if len(known) == len(sizes) else None
    with tqdm(total=total, desc="prepare", unit="B", unit_scale=True) as bar:
        for document in clean_units(units, prepare):
            bar.update(document.n_bytes)
            yield document


def _drop(document: Cleaned, prepare: PrepareParams, dropped: Dropped) -> None:
    """Count a document that a rule drops; one that could not be read ends the stage, unless it may be skipped."""
    source = next(source for source in prepare.sources if source.name == document.source)
    unreadable = not document.readable and document.reason not in HARMLESS
    if unreadable and getattr(source, "on_error", "skip") == "fail":
        raise UserError(f"source {source.name}: {document.path}: {document.note} (on_error: skip passes over it)")
    dropped.add(document.reason, document.path, document.n_bytes, document.note)


if __name__ == "__main__":
    stage.run(main)
