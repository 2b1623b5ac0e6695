"""Write a stage's outputs whole: to a scratch folder on the outputs' own disk first, then by rename into place.

Contents are identified by sha256; `file_md5` and `listing_hash` are DVC's hashes.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SCRATCH = Path(".scratch")
IGNORED = {"__pycache__", SCRATCH.name}  # folders inside an input that are not part of it


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON with two spaces of indentation; keys keep their order, NaN is refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's file names and contents, as hexadecimal digits."""
    if path.is_dir():
        files = sorted(inner for inner in path.rglob("*") if inner.is_file() and not IGNORED & {*inner.parts})
        return digest({str(inner.relative_to(path)): file_hash(inner) for inner in files})
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Return the sha256 of a JSON value as hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def md5(content: bytes) -> str:
    """Return the md5 of bytes as hexadecimal digits."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def file_md5(path: Path) -> str:
    """Return the md5 of the bytes of a file, under which DVC stores it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def listing_hash(files: dict[str, str]) -> str:
    """Return DVC's hash of a folder: of the md5 of each file by its path in the folder.

    >>> listing_hash({"b": "3b5d5c3712955042212316173ccf37be", "a": "60b725f10c9c85c70d97880dfe8191b3"})
    '562ee692a592790b08e880eff9046f72.dir'
    """
    listing = [{"md5": files[path], "relpath": path} for path in sorted(files)]
    return md5(json.dumps(listing).encode()) + ".dir"


@contextmanager
def staged(targets: dict[str, Path], key: str) -> Iterator[dict[str, Path]]:
    """Yield a temporary path for each output, on the disk of its target; remove the temporary folders afterwards.

    Outputs with the same parent folder get the same temporary folder.
    """
    folders = {name: (target if _is_fixed(target) else target.parent) / SCRATCH for name, target in targets.items()}
    made = {above for folder in folders.values() for above in (folder, *folder.parents) if not above.exists()}
    try:
        for folder in {*folders.values()}:
            shutil.rmtree(folder / key, ignore_errors=True)  # left over from a killed run
            (folder / key).mkdir(parents=True)
        yield {name: folders[name] / key / target.name for name, target in targets.items()}
    finally:
        for folder in {*folders.values()}:
            shutil.rmtree(folder / key, ignore_errors=True)
        for folder in sorted({*folders.values(), *made}, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # not empty: it holds an output, or another stage writes there
                folder.rmdir()


def replace(target: Path, source: Path) -> None:
    """Move an output into place and delete what was there before."""
    if _is_fixed(target):
        for old in target.iterdir():
            if old.name != SCRATCH.name:
                _remove(old)
        for new in source.iterdir():
            new.replace(target / new.name)
    else:
        _remove(target)
        source.replace(target)


def _is_fixed(target: Path) -> bool:
    """Return whether an output is a folder that rename cannot replace: a link to another disk, or a mount point."""
    return target.is_dir() and (target.is_symlink() or target.is_mount())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
