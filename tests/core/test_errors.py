"""Errors of the system become one line that names the file; our own mistakes keep their traceback."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm.core.errors import UserError, one_line_errors


def system_error(number: int, *files: Any) -> OSError:
    return OSError(number, os.strerror(number), *files)


def trigger(fail: Any, folder: Path) -> None:
    if isinstance(fail, Exception):
        raise fail
    fail(folder)


FULL = "the disk: no space left, No space left on device; free some and run it again"
BELOW_FILE = "{folder}/file/inner: expected folders above it, {folder}/file is a file"
RUST = "Error while serializing: I/O error: No space left on device (os error 28)"
ARROW = "[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        (system_error(errno.ENOSPC, "/dev/full"), "/dev/full: no space left"),
        (Exception(RUST), FULL),
        (OSError(ARROW), FULL),
        (lambda folder: (folder / "file" / "inner").write_text("x"), BELOW_FILE),
        (lambda folder: (folder / "file" / "inner").mkdir(parents=True), BELOW_FILE),
        (lambda folder: folder.read_text(), "{folder}: expected a file, got: Is a directory"),
        (lambda folder: (folder / "no").read_text(), "{folder}/no: expected a file or folder, got: No such file"),
        (lambda folder: (folder / ("n" * 300)).touch(), "{folder}/n+: expected a shorter name, got: File name too"),
        (system_error(errno.EACCES, "secret"), "secret: expected permission to read or write it, got: Permission"),
        (system_error(errno.EROFS, Path("m")), "m: expected a disk that can be written to, got: Read-only file system"),
        (system_error(errno.EXDEV, "a", None, "b"), "a → b: .*cross-device link"),
        (OSError("connection\n  broken"), "connection broken"),
        (MemoryError(), "out of memory; "),
    ],
)
def test_a_system_error_is_one_line(fail: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="^" + message.replace("{folder}", str(tmp_path))) as caught, one_line_errors():
        trigger(fail, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_named_if_the_error_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {tmp_path / "full": 100, tmp_path / "free": 1 << 30}
    for path in sizes:
        path.mkdir()
    monkeypatch.setattr("llm.core.errors.shutil.disk_usage", lambda path: SimpleNamespace(free=sizes[path]))
    written = [tmp_path / "free", tmp_path / "full", tmp_path / "none"]
    with pytest.raises(UserError, match=rf"^{tmp_path}/full: no space left"), one_line_errors(written):
        raise Exception(RUST)


@pytest.mark.parametrize("error", [ValueError("os errors"), AssertionError(), KeyboardInterrupt(), UserError("mine")])
def test_other_errors_stay_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, one_line_errors():
        raise error
    assert caught.value is error
