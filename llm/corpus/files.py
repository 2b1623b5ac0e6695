"""The files that globs name, all under one folder; hidden files and linked folders are found, to be reported."""

import fnmatch
import os
import re
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
    paths = [path for pattern in _expand(glob) for path in _match(where, pattern, raw)]
    files = [path for path in paths if _is_listed(path)]
    visible = [file for file in files if not is_hidden_in(raw, file)]
    if not visible:
        hints = ["", ", which matches only folders; add /**/*", ", whose files are hidden"]
        hint = hints[bool(paths) + bool(files)]
        raise UserError(f"{where} expected a glob that matches a file, got {glob}{hint}")
    if link := next(filter(lambda file: _is_outside(file, raw), visible), None):
        raise UserError(f"{where} expected files under {raw.as_posix()}/, got {link}, a link out of it")
    return files


def _is_outside(file: Path, raw: Path) -> bool:
    return file.is_file() and not file.resolve().is_relative_to(raw.resolve())


def _is_listed(path: Path) -> bool:
    is_bookkeeping = any(fnmatch.fnmatch(path.name, pattern) for pattern in BOOKKEEPING)
    return not is_bookkeeping and (path.is_file() or _is_closed(path) or not path.exists())


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


def _expand(glob: str) -> list[str]:
    """Return the alternatives of a glob: a.{txt,md} → a.txt, a.md."""
    braces = re.search(r"\{([^{}]*,[^{}]*)\}", glob)
    if not braces:
        return [glob]
    before, after = glob[: braces.start()], glob[braces.end() :]
    return [whole for part in braces[1].split(",") for whole in _expand(before + part + after)]


def _match(where: str, glob: str, raw: Path) -> list[Path]:
    """Return the files and folders that a glob matches, and below a `**` the folders that are not entered."""
    pattern = Path(os.path.relpath(glob or ".", raw)).as_posix()
    if pattern.split("/")[0] == "..":
        raise UserError(f"{where} expected globs under {raw.as_posix()}/, got {glob}")
    if re.search(r"[^/]\*\*|\*\*[^/]", pattern):
        raise UserError(f"{where} expected ** as the whole name of a folder, got {glob}; write **/ before the name")
    path = raw / pattern
    if path.is_file() or (pattern != "." and _is_closed(path)):
        return [path]
    paths = _glob(path, ["**"]) if path.is_dir() else _glob(raw, pattern.split("/"))
    return [_closed_part(path, raw) for path in paths]


def _glob(folder: Path, parts: list[str]) -> list[Path]:
    if "**" not in parts:
        return [path for path in folder.glob("/".join(parts)) if not _is_closed(path)]  # `*` enters no folder
    parts = [*parts, "*"] if parts[-1] == "**" else parts
    in_every_folder = [*parts[: parts.index("**") + 1], "*"]
    return [*folder.glob("/".join(parts)), *filter(_is_closed, folder.glob("/".join(in_every_folder)))]


def _is_closed(path: Path) -> bool:
    """Return whether a path is a folder that is not entered: a link, which DVC does not follow, or not readable."""
    return path.is_dir() and (path.is_symlink() or not os.access(path, os.R_OK | os.X_OK))


def _closed_part(path: Path, raw: Path) -> Path:
    """Return the linked folder through which a path goes, or else the path."""
    above = [folder for folder in path.parents if folder != raw and folder.is_relative_to(raw)]
    return next((folder for folder in reversed(above) if folder.is_symlink()), path)
