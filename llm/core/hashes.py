"""DVC's hashes: the md5 of a file, and of a folder."""

import hashlib
import json
from pathlib import Path


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
