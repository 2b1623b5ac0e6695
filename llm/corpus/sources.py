"""Where documents come from: the standard library, installed packages, files, the network, a dataset.

    python       → ("json/decoder.py", "…source…"), …, ("topics/assert", "…The language reference…")
    docstrings   → ("numpy/linalg/_linalg.py", "…signatures and docstrings…"), …
    files, url   → ("my/book.txt", "…"), ("dump.jsonl.gz:1", "…"), …
    huggingface  → ("train:1", "…"), …

A source is a list of units (a file, a module, a dataset) in a fixed order, each read without any other one.
"""

import fnmatch
import hashlib
import importlib
import subprocess
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from llm.core.errors import UserError
from llm.corpus.docstrings import BETWEEN_ENTRIES, module_text, package_files
from llm.corpus.document import Document, unreadable
from llm.corpus.download import default_cache, fetch
from llm.corpus.duplicates import RepeatFilter
from llm.corpus.files import find_files, incompatible, is_hidden_in
from llm.corpus.formats import attempt, field_text, read_file, to_document
from llm.corpus.params import DocstringsSource, FilesSource, HuggingFaceSource, PythonSource, Source, UrlSource
from llm.corpus.readers.streams import ContentError, printable

# Tests are text about tests; site-packages belong to the machine; the build's own files name its paths.
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
SKIPPED_FILES = ("_sysconfigdata*", "config-*/*", "pydoc_data/topics.py", "sitecustomize.py", "usercustomize.py")
TOPICS = "topics/"
NOT_PARSED = (OSError, SyntaxError, UnicodeDecodeError, RecursionError, MemoryError)


class Unit(NamedTuple):
    """A part of a source that is read by itself: its name within the source, and its file, if it is one."""

    source: Source
    path: str
    file: Path | None
    text: str | None = None  # where it was read to find the units
    n_repeated: int = 0  # entries that were left out of it

    def file_bytes(self) -> int:
        """Return the size of the file, or 0."""
        return self.file.stat().st_size if self.file and self.file.is_file() else 0


def list_units(source: Source, raw: Path, lock: Path = Path("requirements.lock")) -> list[Unit]:
    """Return all units of a source, sorted; a `url` is downloaded here.

    `raw` is the folder that `files` may read, `lock` pins the versions of the packages that `docstrings` reads.
    """
    match source:
        case PythonSource():
            return _python_units(source)
        case DocstringsSource():
            return _docstring_units(source, lock)
        case FilesSource():
            return _file_units(source, raw)
        case UrlSource():
            file = fetch(source.url, source.sha256, default_cache(), name=source.name)
            return [Unit(source, file.name, file)]
        case HuggingFaceSource():
            _check_dataset(source, raw)
            return [Unit(source, source.split, None)]


def read_unit(unit: Unit, max_document_bytes: int) -> Iterator[Document]:
    """Yield the documents of a unit in order, and what could not be read."""
    match unit.source:
        case PythonSource() | DocstringsSource():
            yield from _read_module(unit)
        case HuggingFaceSource():
            yield from read_dataset(unit.source, max_document_bytes)
        case _:
            assert unit.file
            if isinstance(unit.source, FilesSource) and (error := incompatible(unit.file, unit.path)):
                yield unreadable(unit.source.name, printable(unit.path), error, unit.file_bytes())
            else:
                yield from read_file(unit.file, unit.path, unit.source, max_document_bytes)


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _exclude(source: PythonSource | DocstringsSource, found: list[Unit]) -> list[Unit]:
    units = [unit for unit in found if not _matches(unit.path, source.exclude)]
    if not units:
        raise UserError(f"source {source.name}: exclude: expected patterns that leave a module, got {source.exclude}")
    return units


def _python_units(source: PythonSource) -> list[Unit]:
    topics = sorted(importlib.import_module("pydoc_data.topics").topics.items())
    units = [Unit(source, path, file) for path, file in _library_files()]
    units += [Unit(source, TOPICS + name, None, text) for name, text in topics]
    included = [unit for unit in units if _matches(unit.path, source.include)]
    if not included:
        raise UserError(f"source {source.name}: no module of the standard library matches {source.include}")
    return _exclude(source, included)


def _library_files() -> list[tuple[str, Path]]:
    """Return the standard library's modules as (path within it, file), sorted by path."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [(PurePosixPath(file.relative_to(root)), file) for file in root.rglob("*.py")]
    return sorted(
        (str(path), file)
        for path, file in files
        if SKIPPED_FOLDERS.isdisjoint(path.parts) and not _matches(str(path), SKIPPED_FILES)
    )


def library_hash() -> str:
    """Return the sha256 of all that the `python` source could read, which DVC cannot watch as a dependency."""
    total = hashlib.sha256()
    for path, file in _library_files():
        total.update(f"{path}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    topics = importlib.import_module("pydoc_data.topics")
    assert topics.__file__
    total.update(Path(topics.__file__).read_bytes())
    return total.hexdigest()


def _docstring_units(source: DocstringsSource, lock: Path) -> list[Unit]:
    files = [found for name in source.packages for found in package_files(name, lock)]
    units = _exclude(source, [Unit(source, path, file) for path, file in files])
    if source.repeated == "keep":
        return units
    repeats = RepeatFilter()  # compares across modules, so each has to be read here
    return [_without_repeats(unit, repeats) for unit in tqdm(units, desc=source.name, unit=" modules")]


def _without_repeats(unit: Unit, repeats: RepeatFilter) -> Unit:
    try:
        parts = _module_text(unit).split(BETWEEN_ENTRIES)
    except NOT_PARSED:
        return unit  # read again, and reported, with the others
    kept = [part for part in parts if not repeats.is_repeated(part.partition("\n\n")[2])]
    return unit._replace(text=BETWEEN_ENTRIES.join(kept), n_repeated=len(parts) - len(kept))


def _read_module(unit: Unit) -> Iterator[Document]:
    """Yield a module's source or documentation as one document; nothing for a module without documentation."""
    is_code = isinstance(unit.source, PythonSource)
    try:
        text = _module_text(unit)
    except NOT_PARSED as error:
        expected = "Python source that decodes" if is_code else "a module that Python 3.11 parses"
        problem = f"expected {expected}, got: {' '.join(str(error).split())}"
        reason = "not_decodable" if is_code else "not_parsed"
        yield unreadable(unit.source.name, unit.path, ContentError(reason, problem), unit.file_bytes())
        return
    if text or is_code:
        yield Document(unit.source.name, unit.path, text)


def _module_text(unit: Unit) -> str:
    if unit.text is not None:
        return unit.text
    assert unit.file
    if isinstance(unit.source, DocstringsSource):
        return module_text(unit.file.read_text(encoding="utf-8"))
    with tokenize.open(unit.file) as handle:  # decodes by a coding comment, as the interpreter does
        return handle.read()


def _file_units(source: FilesSource, raw: Path) -> list[Unit]:
    """Return the files of a source, sorted, each with the encoding that is named for it."""
    where = f"source {source.name}:"
    files = sorted({file for glob in source.globs for file in find_files(where, glob, raw)})
    of = dict.fromkeys(files, source)
    if isinstance(source.encoding, dict):
        of = dict.fromkeys(files, source.model_copy(update={"encoding": None}))
        for glob, encoding in reversed(source.encoding.items()):  # the first glob that matches counts
            found = set(find_files(where, glob, raw)) & set(files)
            if not found:
                raise UserError(f"{where} encoding: expected a glob that matches a file of the source, got {glob}")
            of |= dict.fromkeys(found, source.model_copy(update={"encoding": encoding}))
    return [Unit(of[file], file.relative_to(raw).as_posix(), file) for file in files]


def read_dataset(source: HuggingFaceSource, max_document_bytes: int) -> Iterator[Document]:
    """Yield one document a row; UserError where the library finds no such dataset or column, or cannot read on."""
    for number, row in enumerate(_dataset_rows(source), start=1):
        text = attempt(field_text, row, source.text_field)
        n_bytes = len(text.encode()) if isinstance(text, str) else 0
        yield to_document(source.name, f"{source.split}:{number}", text, n_bytes, max_document_bytes)


def _check_dataset(source: HuggingFaceSource, raw: Path) -> None:
    """Raise UserError for a local dataset that DVC does not watch."""
    folder = Path(source.dataset)
    if not folder.exists():
        return  # a name on the Hub, unless the library finds none
    expected = f"source {source.name}: dataset: expected a name on the Hub or a folder under {raw.as_posix()}/"
    if not folder.resolve().is_relative_to(raw.resolve()):
        raise UserError(f"{expected}, got {source.dataset}; copy it there")
    if link := next((path for path in folder.rglob("*") if path.is_symlink() and path.is_dir()), None):
        raise UserError(f"{expected} without links, got {link}; copy it there")


def _dataset_rows(source: HuggingFaceSource) -> Iterator[Mapping[str, object]]:
    where = f"source {source.name}:"
    try:
        import datasets
    except ImportError:
        raise UserError(f"{where} expected the package datasets, it is not installed (make extras)") from None
    name, field = source.dataset, source.text_field
    try:
        rows = datasets.load_dataset(name, source.config, split=source.split, revision=source.revision, streaming=True)
        columns = rows.column_names
        if columns is not None and field not in columns:  # some formats have columns only row by row
            raise UserError(f"{where} text_field: expected a column of {name} ({', '.join(columns)}), got {field}")
        # Other columns are not read; images, for one, would be decoded.
        yield from rows if columns is None else rows.select_columns(field)
    except UserError:
        raise
    except Exception as error:  # the library raises whatever its file systems and formats raise
        got = " ".join(str(error).split()) or type(error).__name__
        at = f"config {source.config}, split {source.split}, revision {source.revision}"
        raise UserError(f"{where} expected the dataset {name}, {at}, got {got}") from error


def unpinned_datasets(sources: Iterable[Source]) -> list[str]:
    """Return the datasets of the Hub that may change without notice, because no revision is named."""
    hub = (source for source in sources if isinstance(source, HuggingFaceSource) and not Path(source.dataset).exists())
    return [f"source {source.name}: {source.dataset}" for source in hub if source.revision is None]


def untracked_files(units: Iterable[Unit], raw: Path) -> list[Path]:
    """Return the user's files that neither DVC nor Git tracks: an experiment elsewhere would not have them."""
    files = [unit.file for unit in units if unit.file_bytes() and isinstance(unit.source, FilesSource)]
    try:
        listed = subprocess.run(["git", "ls-files", "-z", "--", str(raw)], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []  # no Git here, so nothing could be tracked
    tracked = set(listed.stdout.split("\0"))
    return [file for file in files if file and str(file) not in tracked and not _is_in_dvc(file, raw)]


def _is_in_dvc(file: Path, raw: Path) -> bool:
    paths = [file, *(folder for folder in file.parents if folder.is_relative_to(raw))]
    return is_hidden_in(raw, file) or any(path.with_name(path.name + ".dvc").is_file() for path in paths)
