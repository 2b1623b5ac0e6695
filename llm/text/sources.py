"""Where documents come from: the standard library of the running Python, or the user's files.

    python → ("json/decoder.py", "…source…"), …, ("topics/assert", "…The language reference…")
    files  → ("my/book.txt", "…"), …

A source yields raw documents in a fixed order and counts what it could not read.
"""

import fnmatch
import hashlib
import importlib
import subprocess
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from llm.errors import UserError
from llm.text.params import FilesSource, PythonSource, Source

# Tests are text about tests; site-packages belong to the machine; the build's own files name its paths.
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
SKIPPED_FILES = ("_sysconfigdata*", "config-*/*", "pydoc_data/topics.py", "sitecustomize.py", "usercustomize.py")
TEXT_SUFFIXES = {".txt", ".md"}


class RawDocument(NamedTuple):
    """A document as it was found: the source's name, a path within it, its text."""

    source: str
    path: str
    text: str


def read_source(source: Source, raw: Path, skipped: Counter[str]) -> Iterator[RawDocument]:
    """The documents of one source. `raw` is the folder that `files` may read; `skipped` counts by reason."""
    match source:
        case PythonSource():
            return _read_python(source, skipped)
        case FilesSource():
            return _read_files(source, raw, skipped)


def _read_python(source: PythonSource, skipped: Counter[str]) -> Iterator[RawDocument]:
    found = False
    for path, file in _library_files():
        if _matches(path, source.include):
            try:
                with tokenize.open(file) as handle:  # honours a coding comment, as the interpreter does
                    text = handle.read()
            except (SyntaxError, UnicodeDecodeError):
                skipped["not_decodable"] += 1
                continue
            found = True
            yield RawDocument(source.name, path, text)
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    for name in sorted(topics):
        if _matches(path := f"topics/{name}", source.include):
            found = True
            yield RawDocument(source.name, path, topics[name])
    if not found:
        raise UserError(f"source {source.name}: no module of the standard library matches {source.include}")


def _library_files() -> list[tuple[str, Path]]:
    """The standard library's modules, as (path within it, file), sorted by path."""
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for file in root.rglob("*.py"):
        path = PurePosixPath(file.relative_to(root))
        if SKIPPED_FOLDERS.isdisjoint(path.parts) and not _matches(str(path), SKIPPED_FILES):
            files.append((str(path), file))
    return sorted(files)


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def library_hash() -> str:
    """The sha256 of all that the `python` source could read: it can be no dependency that DVC watches."""
    total = hashlib.sha256()
    for path, file in _library_files():
        total.update(f"{path}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    topics = importlib.import_module("pydoc_data.topics")
    assert topics.__file__
    total.update(Path(topics.__file__).read_bytes())
    return total.hexdigest()


def _read_files(source: FilesSource, raw: Path, skipped: Counter[str]) -> Iterator[RawDocument]:
    for file in _find_files(source, raw):
        try:
            text = file.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            skipped["not_utf8"] += 1
            continue
        yield RawDocument(source.name, file.relative_to(raw).as_posix(), text)


def _find_files(source: FilesSource, raw: Path) -> list[Path]:
    """The files that the globs name, sorted; every glob must name at least one, and all lie under `raw`."""
    inside = raw.resolve()
    found: set[Path] = set()
    for glob in source.globs:
        parts = PurePosixPath(glob).parts
        start = raw.as_posix().rstrip("/") + "/"
        if not glob.startswith(start) or ".." in parts:
            raise UserError(f"source {source.name}: wanted globs under {start}, given {glob}")
        try:
            matches = sorted(raw.glob(glob.removeprefix(start)))
        except (ValueError, IndexError, NotImplementedError):  # What pathlib raises for a pattern that is none.
            matches = []
        # What Git and DVC keep beside the texts (.gitignore, book.txt.dvc) is no text, whatever the glob.
        files = [file for file in matches if file.is_file() and file.suffix != ".dvc" and file.name[0] != "."]
        if not files:
            raise UserError(f"source {source.name}: wanted a glob that matches a file, given {glob}")
        for file in files:
            if not file.resolve().is_relative_to(inside):
                raise UserError(f"source {source.name}: wanted files under {start}, {file} is a link out of it")
            if file.suffix.lower() not in TEXT_SUFFIXES:
                raise UserError(f"source {source.name}: wanted .txt or .md files, {glob} names {file}")
        found.update(files)
    return sorted(found)


def untracked_files(sources: Iterable[Source], raw: Path) -> list[Path]:
    """The files that are read but that neither DVC nor Git tracks: an experiment elsewhere would not see them."""
    files = [file for source in sources if isinstance(source, FilesSource) for file in _find_files(source, raw)]
    candidates = [file for file in files if not _has_dvc_file(file, raw)]
    if not candidates:
        return []
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--", *map(str, candidates)], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []  # No Git here: nothing to be tracked by.
    tracked = {Path(name) for name in listed.stdout.split("\0")}
    return [file for file in candidates if file not in tracked]


def _has_dvc_file(file: Path, raw: Path) -> bool:
    places = [file, *(folder for folder in file.parents if folder.is_relative_to(raw))]
    return any(place.with_name(place.name + ".dvc").is_file() for place in places)
