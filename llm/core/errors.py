"""Report errors of the user and of the system in one line instead of a traceback."""

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Messages of torch and NumPy for sizes that exceed the memory; neither has an exception class for it.
TOO_LARGE = re.compile(
    "can't allocate memory|out of memory|Invalid buffer size"
    "|size calculation overflowed|array is too big|Maximum allowed"
)
FULL = {errno.ENOSPC, errno.EDQUOT}
MISPLACED = {errno.ENOTDIR, errno.EEXIST, errno.ENOENT}  # perhaps a file where a folder is needed
FULL_BYTES = 1 << 20  # a disk with less free space than this is named as full
# The expectation by error number; the message of the system follows it.
EXPECTED = {
    errno.EACCES: "permission to read or write it",
    errno.EPERM: "permission to change it",
    errno.EROFS: "a disk that can be written to",
    errno.ENOENT: "a file or folder",
    errno.EISDIR: "a file",
    errno.ENOTDIR: "a folder",
    errno.EEXIST: "a folder",
    errno.ENAMETOOLONG: "a shorter name",
    errno.EMFILE: "fewer open files (ulimit -n)",
    errno.EBUSY: "a file or folder that can be replaced",
}


class UserError(Exception):
    """Invalid input from the user; the message is one line: the file or key, what was expected, what was found.

    `stage.run` and the command line print it and exit with 2. Violated invariants of our own are `AssertionError`.
    """


@contextmanager
def one_line_errors(written: Iterable[Path] = ()) -> Iterator[None]:
    """Turn errors of the system into UserError: a full disk, a missing permission, exhausted memory.

    Paths in `written` that are on a full disk are named if the error itself names no file.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        is_large = isinstance(error, RuntimeError | ValueError) and TOO_LARGE.search(str(error))
        if is_large or isinstance(error, MemoryError):
            raise UserError("out of memory; smaller batches, documents or models need less") from None
        number = error_number(error)
        if number is None:
            raise
        raise UserError(_describe(error, number, written)) from None


def error_number(error: Exception) -> int | None:
    """Return the errno of an error, or None; libraries written in Rust put it into the message.

    >>> error_number(Exception("I/O error: No space left on device (os error 28)"))
    28
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if found := re.search(r"\bos error (\d+)\b|\[errno (\d+)\]", str(error), flags=re.IGNORECASE):
        return int(found[1] or found[2])
    return errno.EIO if isinstance(error, OSError) else None


def _describe(error: Exception, number: int, written: Iterable[Path]) -> str:
    files = _files_of(error)
    where = " → ".join(files)
    if number in FULL:
        full = where or ", ".join(_full_disks(written)) or "the disk"
        return f"{full}: no space left, {os.strerror(number)}; free some and run it again"
    if number in MISPLACED and len(files) == 1 and (file := _file_above(where)):
        return f"{where}: expected folders above it, {file} is a file"
    message = " ".join(str(error).split()) if number == errno.EIO else os.strerror(number)
    expected = f"expected {EXPECTED[number]}, got: " if number in EXPECTED else ""
    return f"{where}: {expected}{message}".removeprefix(": ")


def _files_of(error: Exception) -> list[str]:
    names = (getattr(error, "filename", None), getattr(error, "filename2", None))
    return [os.fsdecode(name) for name in names if isinstance(name, bytes | str | os.PathLike)]


def _file_above(name: str) -> Path | None:
    return next((path for path in Path(name).parents if path.is_file()), None)


def _full_disks(written: Iterable[Path]) -> list[str]:
    return [str(path) for path in dict.fromkeys(written) if path.exists() and shutil.disk_usage(path).free < FULL_BYTES]
