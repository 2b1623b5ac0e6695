"""Compressed files and archives as streams of plain bytes; nothing is extracted to disk.

    a.jsonl.gz ──► Entry("a.jsonl.gz", ".jsonl", 57, stream)
    b.zip      ──► Entry("b.zip/x.txt", ".txt", 12, stream), Entry("b.zip/../y", "", 3, ContentError("bad_path", "…"))

Suffixes decide. Bytes pass from layer to layer, a buffer at a time: file ──► gunzip ──► tar member ──► unxz ──► stream.
A stream raises `ContentError` where its bytes are damaged, after all bytes before the damage, or where far more bytes
come out of it than go in.
"""

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self

import zstandard

from llm.corpus.readers.streams import (
    BUFFER_BYTES,
    ChunkStream,
    ContentError,
    as_damage,
    one_line,
    open_buffered,
    printable,
)

FREE_BYTES = 100_000_000  # that may come out of any file
MAX_RATIO = 200  # of bytes that come out to bytes that go in
WINDOW_BYTES = 1 << 31  # how far back xz and zstd may refer: as much as `zstd --long=31` needs
SHORT_SUFFIXES = {".tgz": ".tar.gz", ".tbz": ".tar.bz2", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}
ARCHIVES = {".zip", ".tar", ".7z", ".rar"}  # the last two are only refused, within another one
# Folders of version control and caches, and files of operating systems, beside those that begin with a dot.
LEFT_OUT = {"__pycache__", "__MACOSX", "CVS", "RCS", "SCCS", "_darcs", "Thumbs.db", "desktop.ini"}
HIDDEN = "expected a visible file, got a hidden one or one of version control or a cache"
MEMBER = "a whole member of an archive"
# Errors of the libraries for bytes of another kind than the suffix names.
DAMAGE = (
    *(EOFError, OSError, ValueError, OverflowError, NotImplementedError, struct.error, zlib.error),
    *(lzma.LZMAError, zstandard.ZstdError, zipfile.BadZipFile, tarfile.TarError),
)


class Entry(NamedTuple):
    """A file within its layers: its path, the suffix that names its format, its length in the layer, its bytes.

    The stream is to be read before the next entry is requested. It raises ContentError. Only a plain file's can seek.
    """

    path: str
    suffix: str
    n_bytes: int
    content: io.BufferedReader | ContentError


class Member(NamedTuple):
    """A member of an archive."""

    name: str
    n_bytes: int
    is_folder: bool
    is_file: bool
    open: Callable[[], Any]


@dataclass
class Budget:
    """The bytes that may come out of all decompressors of a file of `n_in` bytes."""

    n_in: int
    n_out: int = 0

    def spend(self, n_bytes: int) -> None:
        """Count bytes that came out; ContentError where they are too many."""
        self.n_out += n_bytes
        if self.n_out > max(FREE_BYTES, MAX_RATIO * self.n_in):
            expected = f"expected at most {MAX_RATIO} bytes from each compressed byte"
            raise ContentError("bomb", f"{expected}, got {self.n_out} from {self.n_in}")


def split_suffixes(name: str) -> tuple[str, list[str]]:
    """Return the suffix that names the format, and those of the compressions around it, the outermost first."""
    rest = PurePosixPath(name.lower())
    rest = rest.with_suffix(SHORT_SUFFIXES.get(rest.suffix, rest.suffix))
    compressions = []
    while rest.suffix in DECOMPRESSORS:
        compressions.append(rest.suffix)
        rest = rest.with_suffix("")
    return rest.suffix, compressions


def open_entries(file: Path, path: str) -> Iterator[Entry]:
    """Yield the file itself, or the members of an archive: of a tar in its order, of a zip sorted by name.

    `path` is its name in documents' paths. An entry that cannot be read has a ContentError: unreadable, damaged, bomb,
    empty (an archive without files), bad_path, hidden, not_a_file, nested_archive, encrypted or unsupported.
    """
    path = printable(path)
    suffix, compressions = split_suffixes(path)
    n_bytes = 0
    try:
        with open_buffered(file) as whole:
            n_bytes = os.fstat(whole.fileno()).st_size
            budget = Budget(n_bytes)
            stream = _decompress(whole, compressions, budget)
            if suffix not in (".zip", ".tar"):
                yield Entry(path, suffix, n_bytes, stream)
                return
            if suffix == ".zip" and compressions:
                raise ContentError("nested_archive", "expected a .zip as it is, got one that is compressed again")
            members = _zip_members(stream) if suffix == ".zip" else _tar_members(stream)
            entries = _member_entries(members, path, budget, suffix == ".tar") if stream.peek(1) else iter(())
            if (first := next(entries, None)) is None:
                raise ContentError("empty", "expected an archive of files, got an empty one")
            yield first
            yield from entries
    except ContentError as error:
        yield Entry(path, suffix, n_bytes, error)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        yield Entry(path, suffix, n_bytes, system_error(error))


def system_error(error: OSError | ValueError) -> ContentError:
    """Return the error for a file that the system does not open or read."""
    return ContentError("unreadable", f"expected a file that can be read, got {getattr(error, 'strerror', 0) or error}")


def is_hidden(path: PurePosixPath) -> bool:
    """Return whether a file is hidden or of version control or a cache, in a folder or an archive."""
    return any(part.startswith(".") or part in LEFT_OUT for part in path.parts)


def _decompress(stream: io.BufferedReader, compressions: list[str], budget: Budget) -> io.BufferedReader:
    """Return the stream without its compressions, the outermost first."""
    for suffix in compressions:
        plain = DECOMPRESSORS[suffix](stream)
        stream = ChunkStream(_guard(plain, f"a whole {suffix} stream", budget)).buffered()
    return stream


def _guard(chunks: Iterator[bytes], what: str, budget: Budget | None) -> Iterator[bytes]:
    """Yield the chunks; ContentError for damage, and where they are too many for the budget."""
    with as_damage(what, DAMAGE):
        for chunk in chunks:
            if budget:
                budget.spend(len(chunk))
            yield chunk


def _chunks(stream: io.BufferedIOBase) -> Iterator[bytes]:
    # read1 reads the layer below once: a longer read would lose what it had when its next part fails.
    return iter(lambda: stream.read1(BUFFER_BYTES), b"")


# bz2.open and lzma.open take a frame with a damaged beginning for the end of the file, and zstandard's stream_reader
# does so where a frame is cut.
def _frames(
    stream: io.BufferedReader, new: Callable[[], Any], input_bytes: int = BUFFER_BYTES, max_length: tuple[int, ...] = ()
) -> Iterator[bytes]:
    data = stream.read1(input_bytes)
    while data:
        frame = new()
        while not frame.eof:
            if not data and getattr(frame, "needs_input", True) and not (data := stream.read1(input_bytes)):
                raise EOFError("it ends within a frame")
            if chunk := frame.decompress(data, *max_length):
                yield chunk
            data = b""
        data = frame.unused_data or stream.read1(input_bytes)


DECOMPRESSORS: dict[str, Callable[[io.BufferedReader], Iterator[bytes]]] = {
    ".gz": lambda stream: _chunks(gzip.GzipFile(fileobj=stream)),
    ".bz2": partial(_frames, new=bz2.BZ2Decompressor, max_length=(BUFFER_BYTES,)),
    ".xz": partial(_frames, new=partial(lzma.LZMADecompressor, memlimit=WINDOW_BYTES), max_length=(BUFFER_BYTES,)),
    ".zst": partial(
        _frames,
        new=lambda: zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).decompressobj(),
        input_bytes=1024,  # 4 bytes may become 128 KiB, which come out at once
    ),
}


def _member_entries(members: Iterator[Member], archive: str, budget: Budget, in_tar: bool) -> Iterator[Entry]:
    for member in members:
        path = printable(f"{archive}/{PurePosixPath(member.name)}")
        try:
            if not _is_document(member):
                continue
            content = member.open()
        except ContentError as error:
            yield Entry(path, "", member.n_bytes, error)
            continue
        with closing(content):
            stream = ChunkStream(_guard(_chunks(content), MEMBER, None if in_tar else budget))
            suffix, compressions = split_suffixes(member.name)
            yield Entry(path, suffix, member.n_bytes, _decompress(stream.buffered(), compressions, budget))
        if in_tar and stream.failure:
            return  # the archive itself is damaged here, which the member's stream has reported


def _is_document(member: Member) -> bool:
    """Return False for a folder; ContentError for a member that is not to be read as a file of documents."""
    name, path = member.name, PurePosixPath(member.name)
    if not name or path.is_absolute() or ".." in path.parts or re.search(r"^[A-Za-z]:|\\|\0", name):
        raise ContentError("bad_path", f"expected a path within the archive, got {one_line(repr(name))}")
    if member.is_folder:
        return False
    if is_hidden(path):
        raise ContentError("hidden", HIDDEN)
    if not member.is_file:
        raise ContentError("not_a_file", "expected a regular file, got a link, a device or a sparse file")
    if (suffix := split_suffixes(name)[0]) in ARCHIVES:
        raise ContentError("nested_archive", f"expected files in an archive, got an archive in it ({suffix})")
    return True


class _TarInfo(tarfile.TarInfo):
    """A header of a tar. tarfile takes one that is damaged, cut or missing for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the true end: a block of zeros
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def _tar_members(stream: io.BufferedReader) -> Iterator[Member]:
    with as_damage("a whole tar archive", DAMAGE), tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarInfo) as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep each of them
            is_file = member.isreg() and not member.issparse()
            yield Member(member.name, member.size, member.isdir(), is_file, partial(tar.extractfile, member))
        assert tar.fileobj
        while tail := tar.fileobj.read(BUFFER_BYTES):
            if tail.strip(b"\0"):
                raise ContentError("damaged", "expected a tar archive alone, got one that is followed by other bytes")


def _zip_members(stream: io.BufferedReader) -> Iterator[Member]:
    with as_damage("a whole zip archive", DAMAGE), zipfile.ZipFile(stream) as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.orig_filename):
            # The upper half of the attributes is a mode where a Unix wrote them, else zero.
            is_file = stat.S_IFMT(member.external_attr >> 16) in {0, stat.S_IFREG}
            name = member.orig_filename  # zipfile cuts `filename` at a NUL
            yield Member(name, member.file_size, member.is_dir(), is_file, partial(_open_member, archive, member))


def _open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    if member.flag_bits & 1:
        raise ContentError("encrypted", "expected a member of a zip without a password, got an encrypted one")
    # By other methods zipfile decompresses all that it reads at once, and a bz2 of 4 KB may hold gigabytes.
    if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        got = f"got compression method {member.compress_type}"
        raise ContentError("unsupported", f"expected a member that is stored or deflated, {got}")
    with as_damage(MEMBER, DAMAGE):
        return archive.open(member)
