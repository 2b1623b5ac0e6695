"""The files that globs name, all under one folder; hidden files and linked folders are found, to be reported."""

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path, PurePosixPath

from llm.core.errors import UserError
from llm.corpus.containers import HIDDEN, is_hidden
from llm.corpus.readers.streams import ContentError

# What Git, DVC and the stage `folders` keep beside the user's files.
BOOKKEEPING = (".gitignore", ".gitkeep", ".keep", "*.dvc")


def find_files(where: str, glob: str, raw: Path) -> list[Path]:
    """Return the files that a glob names, at least one and all under `raw`, and folders that are not entered.

    A folder means all files in it. UserError begins with `where`.
    """
    pattern = _pattern(where, glob, raw)
    found = [path for path, is_closed in _walk(raw) if _matches(path.relative_to(raw).parts, pattern, is_closed)]
    visible = [path for path in found if not is_hidden_in(raw, path)]
    if not visible:
        raise UserError(
            f"{where} expected a glob that matches a visible file, such as {raw.as_posix()}/**/*, got {glob}"
        )
    if link := next(filter(lambda path: _is_outside(path, raw), visible), None):
        raise UserError(f"{where} expected files under {raw.as_posix()}/, got {link}, a link out of it")
    return found


def _is_outside(file: Path, raw: Path) -> bool:
    return file.is_file() and not file.resolve().is_relative_to(raw.resolve())


def is_hidden_in(raw: Path, file: Path) -> bool:
    """Return whether a file is hidden, or in a hidden folder under `raw`."""
    return is_hidden(PurePosixPath(file.relative_to(raw)))


def incompatible(file: Path, path: str) -> ContentError | None:
    """Return the error for a path that is left out, or whose changes DVC does not see; else None."""
    if is_hidden(PurePosixPath(path)):
        return ContentError("hidden", HIDDEN)
    if file.is_dir() and file.is_symlink():
        problem = "expected files, got a linked folder, whose changes DVC does not see; copy it here"
        return ContentError("linked_folder", problem)
    if file.is_dir():
        return ContentError("unreadable", "expected a folder that can be read, got one without permission")
    return None


def _pattern(where: str, glob: str, raw: Path) -> tuple[str, ...]:
    """Return a glob's parts under `raw`."""
    path = Path(os.path.relpath(glob or ".", raw))
    if path.parts[:1] == ("..",):
        raise UserError(f"{where} expected globs under {raw.as_posix()}/, got {glob}")
    if any("**" in part and part != "**" for part in path.parts):
        raise UserError(f"{where} expected ** as the whole name of a folder, got {glob}; write **/ before the name")
    if (raw / path).exists():  # whatever signs are in its name
        path = Path(escape(str(path)), "**") if (raw / path).is_dir() else Path(escape(str(path)))
    return (*path.parts, "*") if path.name == "**" else path.parts


def _walk(raw: Path) -> Iterator[tuple[Path, bool]]:
    """Yield each file, and each folder that is not entered: a link, which DVC does not follow, or not readable."""
    for folder, names, files in os.walk(raw):
        closed = [name for name in names if _is_closed(Path(folder, name))]
        names[:] = sorted({*names} - {*closed})
        yield from ((Path(folder, name), True) for name in closed)
        yield from ((Path(folder, name), False) for name in files if _is_listed(Path(folder, name)))


def _is_closed(folder: Path) -> bool:
    return folder.is_symlink() or not os.access(folder, os.R_OK | os.X_OK)


def _is_listed(path: Path) -> bool:
    # A broken link is reported, a pipe is not.
    return (path.is_file() or not path.exists()) and not any(fnmatchcase(path.name, name) for name in BOOKKEEPING)


def _matches(path: tuple[str, ...], pattern: tuple[str, ...], is_closed: bool) -> bool:
    """Return whether a pattern matches a file, or may match one in a folder that is not entered."""
    if not path or not pattern:
        return bool(pattern) if is_closed and not path else path == pattern
    if pattern[0] == "**":
        return is_closed or _matches(path, pattern[1:], is_closed) or _matches(path[1:], pattern, is_closed)
    return fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:], is_closed)
