"""Builders of compressed files and archives."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable

import zstandard

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def make_zip(
    members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, forge: Callable = len, mode: int = 0
) -> bytes:
    """A zip; `forge` changes its directory, while the members stay as they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.infolist()[0].external_attr |= mode << 16 if mode else 0
        forge(archive.infolist())
    return file.getvalue()


def make_tar(members: dict[str, bytes], strange: tarfile.TarInfo | None = None) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            member = strange if strange and strange.name == name else tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()
