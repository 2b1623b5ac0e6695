"""Where documents come from: the standard library of the running Python, packages, files, the network, a dataset.

    python       → ("json/decoder.py", "…source…"), …, ("topics/assert", "…The language reference…")
    docstrings   → ("numpy/linalg/_linalg.py", "…signatures and docstrings…"), …
    files        → ("my/book.txt", "…"), ("dump.jsonl.gz:1", "…"), …
    url          → as a file, once it is downloaded
    huggingface  → ("train:1", "…"), …

A source is a list of units (a file, a module, a dataset), in a fixed order; a unit yields its documents, and says
what gave none. Units are what the work is shared out by: reading one needs nothing of the others.
"""

import fnmatch
import hashlib
import importlib
import os
import re
import subprocess
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from llm.core.errors import UserError
from llm.corpus.containers import hidden, is_hidden, split_suffixes
from llm.corpus.docstrings import module_text, package_files
from llm.corpus.document import Found, RawDocument, Unreadable
from llm.corpus.download import default_cache, fetch
from llm.corpus.formats import read_file
from llm.corpus.huggingface import read_dataset
from llm.corpus.params import DocstringsSource, FilesSource, HuggingFaceSource, PythonSource, Source, UrlSource
from llm.corpus.readers.streams import ContentError, printable
from llm.corpus.repeats import RepeatFilter

# Tests are text about tests; site-packages belong to the machine; the build's own files name its paths.
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
SKIPPED_FILES = ("_sysconfigdata*", "config-*/*", "pydoc_data/topics.py", "sitecustomize.py", "usercustomize.py")
TOPICS = "topics/"
NOT_PARSED = (OSError, SyntaxError, UnicodeDecodeError, RecursionError, MemoryError)
# What Git, DVC and the stage `folders` keep beside the user's files.
BOOKKEEPING = (".gitignore", ".gitkeep", ".keep", "*.dvc")


class Unit(NamedTuple):
    """A part of a source that can be read by itself: its name within the source, and the file, if it is one."""

    source: Source
    path: str
    file: Path | None
    text: str | None = None  # where finding the units has read it already
    n_repeated: int = 0  # entries that were left out of it

    def n_bytes(self) -> int | None:
        """How many bytes of text to expect, or None where that is not known beforehand."""
        if self.file is None:
            is_topic = isinstance(self.source, PythonSource)
            return len(_topics()[self.path.removeprefix(TOPICS)].encode()) if is_topic else None
        form, packed_in = split_suffixes(self.path)
        if packed_in or form in (".parquet", ".zip"):
            return None
        return self.file.stat().st_size if self.file.is_file() else 0


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


def read_unit(unit: Unit, max_document_bytes: int) -> Iterator[Found]:
    """The documents of a unit in order; what is no document is named and not raised."""
    match unit.source:
        case PythonSource():
            yield _read_module(unit.source, unit.path, unit.file)
        case DocstringsSource():
            assert unit.file
            yield from _read_docstrings(unit)
        case FilesSource() | UrlSource():
            assert unit.file
            try:
                _check_file(unit)
            except ContentError as error:
                n_bytes = unit.file.stat().st_size if unit.file.is_file() else 0
                yield Unreadable(unit.source.name, printable(unit.path), error.reason, str(error), n_bytes)
                return
            yield from read_file(unit.file, unit.path, unit.source, max_document_bytes)
        case HuggingFaceSource():
            yield from read_dataset(unit.source, max_document_bytes)


def _python_units(source: PythonSource) -> list[Unit]:
    found: list[tuple[str, Path | None]] = [*_library_files(), *((TOPICS + name, None) for name in sorted(_topics()))]
    included = [(path, file) for path, file in found if _matches(path, source.include)]
    if not included:
        raise UserError(f"source {source.name}: no module of the standard library matches {source.include}")
    return _exclude(source, included)


def _read_module(source: PythonSource, path: str, file: Path | None) -> RawDocument | Unreadable:
    if file is None:
        return RawDocument(source.name, path, _topics()[path.removeprefix(TOPICS)])
    try:
        with tokenize.open(file) as handle:  # honours a coding comment, as the interpreter does
            return RawDocument(source.name, path, handle.read())
    except (SyntaxError, UnicodeDecodeError) as error:
        problem = f"wanted Python source, it does not decode: {error}"
        return Unreadable(source.name, path, "not_decodable", problem, file.stat().st_size)


def _docstring_units(source: DocstringsSource, lock: Path) -> list[Unit]:
    units = _exclude(source, [found for name in source.packages for found in package_files(name, lock)])
    if source.repeated == "keep":
        return units
    repeats = RepeatFilter()  # looks across modules, so that it cannot wait until each is read by itself
    return [_without_repeats(unit, repeats) for unit in tqdm(units, desc=source.name, unit=" modules")]


def _without_repeats(unit: Unit, repeats: RepeatFilter) -> Unit:
    assert unit.file
    try:
        text, n_repeated = repeats.apply(module_text(unit.file.read_text(encoding="utf-8")))
    except NOT_PARSED:
        return unit  # read again, and reported, with the others
    return unit._replace(text=text, n_repeated=n_repeated)


def _exclude(source: PythonSource | DocstringsSource, found: Iterable[tuple[str, Path | None]]) -> list[Unit]:
    units = [Unit(source, path, file) for path, file in found if not _matches(path, source.exclude)]
    if not units:
        raise UserError(f"source {source.name}: exclude: expected patterns that leave a module, got {source.exclude}")
    return units


def _read_docstrings(unit: Unit) -> Iterator[RawDocument | Unreadable]:
    """Yield a module's documentation as one document; nothing for a module that has none."""
    name, file = unit.source.name, unit.file
    assert file
    try:
        text = module_text(file.read_text(encoding="utf-8")) if unit.text is None else unit.text
    except NOT_PARSED as error:
        problem = f"expected a module that Python 3.11 parses, got: {' '.join(str(error).split())}"
        yield Unreadable(name, unit.path, "not_parsed", problem, file.stat().st_size if file.is_file() else 0)
        return
    if text:
        yield RawDocument(name, unit.path, text)


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


def _check_file(unit: Unit) -> None:
    """Raise ContentError for a path that is left out, or that DVC does not follow."""
    assert unit.file
    if isinstance(unit.source, FilesSource) and is_hidden(PurePosixPath(unit.path)):
        raise hidden()
    if unit.file.is_dir():
        if unit.file.is_symlink():
            problem = "expected files, got a linked folder, whose changes DVC does not see; copy it here"
            raise ContentError("linked_folder", problem)
        raise ContentError("unreadable", "expected a folder that can be read, got one without permission")


def _file_units(source: FilesSource, raw: Path) -> list[Unit]:
    """Return the files of a source, sorted, each with the encoding that is named for it."""
    files = sorted({file for glob in source.globs for file in _find_files(source, glob, raw)})
    if not isinstance(source.encoding, dict):
        return [Unit(source, file.relative_to(raw).as_posix(), file) for file in files]
    named: dict[Path, str] = {}
    for glob, encoding in source.encoding.items():
        found = set(_find_files(source, glob, raw)) & set(files)
        if not found:
            problem = f"source {source.name}: encoding: expected a glob that matches a file of the source, got {glob}"
            raise UserError(problem)
        for file in found:
            named.setdefault(file, encoding)
    copies = {encoding: source.model_copy(update={"encoding": encoding}) for encoding in {*named.values(), None}}
    return [Unit(copies[named.get(file)], file.relative_to(raw).as_posix(), file) for file in files]


def _find_files(source: FilesSource, glob: str, raw: Path) -> list[Path]:
    """Return the files that a glob names, and folders that it cannot enter; at least one, and all under `raw`.

    A folder stands for all files in it.
    """
    where = f"source {source.name}:"
    paths = [path for pattern in _expand(glob) for path in _match(where, pattern, raw)]
    files = [path for path in paths if path.is_file() or _is_closed(path) or not path.exists()]
    files = [file for file in files if not _matches(file.name, BOOKKEEPING)]
    if all(_is_hidden(file.relative_to(raw)) for file in files):
        problem = f"{where} expected a glob that matches a file, got {glob}"
        if files:
            problem += ", whose files are hidden"
        elif any(path.is_dir() for path in paths):
            problem += f", which matches folders; for the files in them write {glob}/**/*"
        raise UserError(problem)
    for file in files:
        is_inside = file.resolve().is_relative_to(raw.resolve()) or not file.is_file()
        if not is_inside and not _is_hidden(file.relative_to(raw)):
            raise UserError(f"{where} expected files under {raw.as_posix()}/, got {file}, a link out of it")
    return files


def _expand(glob: str) -> list[str]:
    """Write out the alternatives of a glob.

    >>> _expand("data/raw/*.{txt,md}")
    ['data/raw/*.txt', 'data/raw/*.md']
    """
    braces = re.search(r"\{([^{}]*,[^{}]*)\}", glob)
    if not braces:
        return [glob]
    before, after = glob[: braces.start()], glob[braces.end() :]
    return [whole for part in braces[1].split(",") for whole in _expand(before + part + after)]


def _match(where: str, glob: str, raw: Path) -> list[Path]:
    """Return the files and folders that a glob matches, and below a `**` the folders that it does not enter."""
    pattern = Path(os.path.relpath(glob or ".", raw)).as_posix()
    if pattern.split("/")[0] == "..":
        problem = f"{where} expected globs under {raw.as_posix()}/, got {glob}"
        inside = (raw / glob).as_posix()
        raise UserError(f"{problem}; write {inside}" if ".." not in inside and _glob(raw, glob) else problem)
    if (raw / pattern).is_file():
        return [raw / pattern]
    folder, parts = (raw / pattern, ["**", "*"]) if (raw / pattern).is_dir() else (raw, pattern.split("/"))
    if folder != raw and _is_closed(folder):
        return [folder]
    if parts[-1] == "**":
        parts.append("*")
    if wrong := next((part for part in parts if "**" in part and part != "**"), None):
        right = glob.replace(wrong, wrong.replace("**", "**/*", 1))
        raise UserError(f"{where} expected ** as the whole name of a folder, got {glob}; write {right}")
    matches = _glob(folder, "/".join(parts))
    if "**" in parts:
        matches += filter(_is_closed, _glob(folder, "/".join([*parts[: parts.index("**") + 1], "*"])))
    else:
        matches = [path for path in matches if not _is_closed(path)]  # `*` enters no folder
    return [_closed_part(path, raw) for path in matches]


def _glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return list(folder.glob(pattern))
    except (ValueError, IndexError, NotImplementedError):  # what pathlib raises for a pattern that is none
        return []


def _is_closed(path: Path) -> bool:
    """Return whether a path is a folder that is not entered: a link, which DVC does not follow, or not readable."""
    return path.is_dir() and (path.is_symlink() or not os.access(path, os.R_OK | os.X_OK))


def _closed_part(path: Path, raw: Path) -> Path:
    """Return the linked folder through which a path goes, or else the path."""
    above = [folder for folder in path.parents if folder != raw and folder.is_relative_to(raw)]
    return next((folder for folder in reversed(above) if folder.is_symlink()), path)


def _is_hidden(path: Path) -> bool:
    return is_hidden(PurePosixPath(path))


def _check_dataset(source: HuggingFaceSource, raw: Path) -> None:
    """Raise UserError for a local dataset that DVC does not watch."""
    folder = Path(source.dataset)
    if not folder.exists():
        return  # a name on the Hub, or the library says that there is none
    problem = (
        f"source {source.name}: dataset: expected a name on the Hub or a folder under {raw.as_posix()}/, which DVC"
    )
    if not folder.resolve().is_relative_to(raw.resolve()):
        raise UserError(f"{problem} watches, got {source.dataset}; copy it there")
    if link := next((path for path in _glob(folder, "**/*") if path.is_symlink() and path.is_dir()), None):
        raise UserError(f"{problem} watches without links, got {link}; copy it there")


def unpinned_datasets(sources: Iterable[Source]) -> list[str]:
    """Return the datasets of the Hub that may change without notice, because no revision is named."""
    hub = (source for source in sources if isinstance(source, HuggingFaceSource) and not Path(source.dataset).exists())
    return [f"source {source.name}: {source.dataset}" for source in hub if source.revision is None]


def untracked_files(units: Iterable[Unit], raw: Path) -> list[Path]:
    """The files of the user's that neither DVC nor Git tracks: an experiment elsewhere would not see them."""
    files = [unit.file for unit in units if unit.file and isinstance(unit.source, FilesSource)]
    seen = [file for file in files if file.is_file() and not _is_hidden(file.relative_to(raw))]
    candidates = [file for file in seen if not _has_dvc_file(file, raw)]
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
