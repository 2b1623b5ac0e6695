"""Errors of the system become one line that names the file and what to do; our own mistakes keep their traceback."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from llm.core.errors import UserError, error_number, one_line_errors


def no_space(folder: Path) -> None:
    if not Path("/dev/full").exists():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    Path("/dev/full").write_text("x")


def no_space_in_rust(folder: Path) -> None:
    raise Exception("Error while serializing: I/O error: No space left on device (os error 28)")


def no_space_in_arrow(folder: Path) -> None:
    raise OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device")


def file_as_folder(folder: Path) -> None:
    (folder / "file").write_text("x")
    (folder / "file" / "inner").write_text("x")


def file_above_folders(folder: Path) -> None:
    (folder / "file").write_text("x")
    (folder / "file" / "inner").mkdir(parents=True)


def folder_as_file(folder: Path) -> None:
    folder.read_text()


def missing(folder: Path) -> None:
    (folder / "none").read_text()


def long_name(folder: Path) -> None:
    (folder / ("n" * 300)).write_text("x")


def no_permission(folder: Path) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder / "secret"))


def read_only(folder: Path) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), folder / "models")


def other_disk(folder: Path) -> None:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), "a", None, "b")


def without_number(folder: Path) -> None:
    raise OSError("connection\n  broken")


def no_memory(folder: Path) -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("fail", "sentence"),
    [
        (no_space, "/dev/full: no space left|the disk: no space left"),
        (no_space_in_rust, "the disk: no space left, No space left on device; free some and run it again"),
        (no_space_in_arrow, "the disk: no space left, No space left on device; free some and run it again"),
        (file_as_folder, "{folder}/file/inner: expected folders above it, {folder}/file is a file"),
        (file_above_folders, "{folder}/file/inner: expected folders above it, {folder}/file is a file"),
        (folder_as_file, "{folder}: expected a file, got: Is a directory"),
        (missing, "{folder}/none: expected a file or folder, got: No such file or directory"),
        (long_name, "{folder}/n+: expected a shorter name, got: File name too long"),
        (no_permission, "{folder}/secret: expected permission to read or write it, got: Permission denied"),
        (read_only, "{folder}/models: expected a disk that can be written to, got: Read-only file system"),
        (other_disk, "a → b: .*cross-device link"),
        (without_number, "connection broken"),
        (no_memory, "out of memory; "),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_error_of_the_system_is_one_line(fail: Callable[[Path], None], sentence: str, tmp_path: Path) -> None:
    expected = "^(" + sentence.replace("{folder}", str(tmp_path)) + ")"
    with pytest.raises(UserError, match=expected) as caught, one_line_errors():
        fail(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_named_where_the_error_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {tmp_path / "full": 100, tmp_path / "free": 1 << 30}
    for path in sizes:
        path.mkdir()
    monkeypatch.setattr("llm.core.errors.shutil.disk_usage", lambda path: SimpleNamespace(free=sizes[path]))
    written = [tmp_path / "free", tmp_path / "full", tmp_path / "none"]
    with pytest.raises(UserError, match=rf"^{tmp_path}/full: no space left"), one_line_errors(written):
        no_space_in_rust(tmp_path)


@pytest.mark.parametrize("error", [ValueError("os errors"), AssertionError(), KeyboardInterrupt(), UserError("mine")])
def test_other_errors_stay_what_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, one_line_errors():
        raise error
    assert caught.value is error


def test_the_number_of_an_error_is_found_in_the_text_of_libraries() -> None:
    assert error_number(OSError(errno.EIO, "broken")) == errno.EIO
    assert error_number(Exception("Permission denied (os error 13)")) == errno.EACCES
    assert error_number(ValueError("the 28th error")) is None
