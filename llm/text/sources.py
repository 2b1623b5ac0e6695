"""Where documents come from: the standard library of the running Python, files, the network, a dataset.

    python       → ("json/decoder.py", "…source…"), …, ("topics/assert", "…The language reference…")
    files        → ("my/book.txt", "…"), ("dump.jsonl.gz:1", "…"), …
    url          → as a file, once it is downloaded
    huggingface  → ("train:1", "…"), …

A source is a list of units (a file, a module, a dataset), in a fixed order; a unit yields its documents, and says
what gave none. Units are what the work is shared out by: reading one needs nothing of the others.
"""

import fnmatch
import hashlib
import importlib
import subprocess
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from llm.errors import UserError
from llm.text.containers import split_suffixes
from llm.text.download import default_cache, fetch
from llm.text.formats import read_file
from llm.text.huggingface import read_dataset
from llm.text.params import FilesSource, HuggingFaceSource, PythonSource, Source, UrlSource
from llm.text.raw import RawDocument, Unreadable

# Tests are text about tests; site-packages belong to the machine; the build's own files name its paths.
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
SKIPPED_FILES = ("_sysconfigdata*", "config-*/*", "pydoc_data/topics.py", "sitecustomize.py", "usercustomize.py")
TOPICS = "topics/"


class Unit(NamedTuple):
    """A part of a source that can be read by itself: its name within the source, and the file, if it is one."""

    source: Source
    path: str
    file: Path | None

    def n_bytes(self) -> int | None:
        """How many bytes of text to expect, or None where that is not known beforehand."""
        if self.file is None:
            is_topic = isinstance(self.source, PythonSource)
            return len(_topics()[self.path.removeprefix(TOPICS)].encode()) if is_topic else None
        form, packed_in = split_suffixes(self.path)
        return None if packed_in or form in (".parquet", ".zip") else self.file.stat().st_size


def list_units(source: Source, raw: Path) -> list[Unit]:
    """All units of a source, sorted. `raw` is the folder that `files` may read; a `url` is downloaded here."""
    match source:
        case PythonSource():
            return _python_units(source)
        case FilesSource():
            return [Unit(source, file.relative_to(raw).as_posix(), file) for file in _find_files(source, raw)]
        case UrlSource():
            file = fetch(source.url, source.sha256, default_cache(), name=source.name)
            return [Unit(source, file.name, file)]
        case HuggingFaceSource():
            return [Unit(source, source.split, None)]


def read_unit(unit: Unit, max_document_bytes: int) -> Iterator[RawDocument | Unreadable]:
    """The documents of a unit in order; what is no document is named and not raised."""
    match unit.source:
        case PythonSource():
            yield _read_module(unit.source, unit.path, unit.file)
        case FilesSource() | UrlSource():
            assert unit.file
            yield from read_file(unit.file, unit.path, unit.source, max_document_bytes)
        case HuggingFaceSource():
            yield from read_dataset(unit.source, max_document_bytes)


def _python_units(source: PythonSource) -> list[Unit]:
    modules = [Unit(source, path, file) for path, file in _library_files() if _matches(path, source.include)]
    topics = [Unit(source, TOPICS + name, None) for name in sorted(_topics())]
    units = modules + [unit for unit in topics if _matches(unit.path, source.include)]
    if not units:
        raise UserError(f"source {source.name}: no module of the standard library matches {source.include}")
    return units


def _read_module(source: PythonSource, path: str, file: Path | None) -> RawDocument | Unreadable:
    if file is None:
        return RawDocument(source.name, path, _topics()[path.removeprefix(TOPICS)])
    try:
        with tokenize.open(file) as handle:  # honours a coding comment, as the interpreter does
            return RawDocument(source.name, path, handle.read())
    except (SyntaxError, UnicodeDecodeError) as error:
        problem = f"wanted Python source, it does not decode: {error}"
        return Unreadable(source.name, path, "not_decodable", problem, file.stat().st_size)


def _topics() -> dict[str, str]:
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return topics


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
        found.update(files)
    return sorted(found)


def untracked_files(units: Iterable[Unit], raw: Path) -> list[Path]:
    """The files of the user's that neither DVC nor Git tracks: an experiment elsewhere would not see them."""
    files = [unit.file for unit in units if unit.file and isinstance(unit.source, FilesSource)]
    candidates = [file for file in files if not _has_dvc_file(file, raw)]
    if not candidates:
        return []
    try:
        listed = subprocess.run(["git", "ls-files", "-z", "--", str(raw)], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []  # No Git here: nothing to be tracked by.
    tracked = {Path(name) for name in listed.stdout.split("\0")}
    return [file for file in candidates if file not in tracked]


def _has_dvc_file(file: Path, raw: Path) -> bool:
    places = [file, *(folder for folder in file.parents if folder.is_relative_to(raw))]
    return any(place.with_name(place.name + ".dvc").is_file() for place in places)
