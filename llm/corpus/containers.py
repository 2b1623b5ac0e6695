"""Compressed files and archives as streams of plain bytes; nothing is extracted to disk.

    a.jsonl.gz ──► Entry("a.jsonl.gz", ".jsonl", 57, stream)
    b.zip      ──► Entry("b.zip/x.txt", ".txt", 12, stream), Entry("b.zip/../y", "", 3, ContentError("bad_path", "…"))

Suffixes decide. Bytes pass from layer to layer, a buffer at a time: file ──► gunzip ──► tar member ──► unxz ──► stream.
"""

import io
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self

from llm.corpus.compression import Budget, as_damage, chunks, decompress, guard, split_suffixes
from llm.corpus.readers.streams import BUFFER_BYTES, ChunkStream, ContentError, one_line, open_buffered, printable

MAX_MEMBERS = 1_000_000  # of a zip
ZIP_HEADER_BYTES = 30  # before each member, its name not counted
ARCHIVES = {".zip", ".tar", ".7z", ".rar"}  # the last two are only refused, within another one
# Folders of version control and caches, and files of operating systems, beside those that begin with a dot.
LEFT_OUT = {"__pycache__", "__MACOSX", "CVS", "RCS", "SCCS", "_darcs", "Thumbs.db", "desktop.ini"}
HIDDEN = "expected a visible file, got a hidden one or one of version control or a cache"


class Entry(NamedTuple):
    """A file within its layers: its path, the suffix that names its format, its length in the layer, its bytes.

    The stream is to be read before the next entry is requested. It raises ContentError. Only a plain file's can seek.
    """

    path: str
    suffix: str
    n_bytes: int
    content: io.BufferedReader | ContentError


class Member(NamedTuple):
    """A member of an archive; `n_packed` is None in a tar, which does not compress."""

    name: str
    n_bytes: int
    n_packed: int | None
    is_folder: bool
    is_file: bool
    open: Callable[[], Any]


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
            stream = decompress(whole, compressions, [budget])
            if suffix not in (".zip", ".tar"):
                yield Entry(path, suffix, n_bytes, stream)
                return
            if suffix == ".zip" and compressions:
                raise ContentError("nested_archive", "expected a .zip as it is, got one that is compressed again")
            members = _zip_members(stream) if suffix == ".zip" else _tar_members(stream)
            entries = _member_entries(members, path, budget) if stream.peek(1) else iter(())
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


def _member_entries(members: Iterator[Member], archive: str, budget: Budget) -> Iterator[Entry]:
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
            in_tar = member.n_packed is None
            budgets = [budget, Budget(member.n_bytes if member.n_packed is None else member.n_packed)]
            stream = ChunkStream(guard(chunks(content), "a whole member of an archive", [] if in_tar else budgets))
            suffix, compressions = split_suffixes(member.name)
            yield Entry(path, suffix, member.n_bytes, decompress(stream.buffered(), compressions, budgets))
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
    with as_damage("a whole tar archive"), tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarInfo) as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep each of them
            is_file = member.isreg() and not member.issparse()
            extract = partial(tar.extractfile, member)
            yield Member(member.name, member.size, None, member.isdir(), is_file, extract)
        assert tar.fileobj
        while tail := tar.fileobj.read(BUFFER_BYTES):
            if tail.strip(b"\0"):
                raise ContentError("damaged", "expected a tar archive alone, got one that is followed by other bytes")


def _zip_members(stream: io.BufferedReader) -> Iterator[Member]:
    with as_damage("a whole zip archive"), zipfile.ZipFile(stream) as archive:
        _check_directory(archive)
        for member in sorted(archive.infolist(), key=lambda member: member.orig_filename):
            # The upper half of the attributes is a mode where a Unix wrote them, else zero.
            is_file = stat.S_IFMT(member.external_attr >> 16) in {0, stat.S_IFREG}
            extract = partial(_open_member, archive, member)
            # zipfile cuts `filename` at a NUL.
            name, size, packed = member.orig_filename, member.file_size, member.compress_size
            yield Member(name, size, packed, member.is_dir(), is_file, extract)


def _check_directory(archive: zipfile.ZipFile) -> None:
    """Raise ContentError for a zip whose members overlap or are too many."""
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    if len(members) > MAX_MEMBERS:
        raise ContentError("bomb", f"expected at most {MAX_MEMBERS} members in a zip, got {len(members)}")
    starts = [*(member.header_offset for member in members), archive.start_dir]
    sizes = [ZIP_HEADER_BYTES + member.compress_size for member in members]
    if any(start + size > end for start, size, end in zip(starts, sizes, starts[1:], strict=False)):
        raise ContentError("bomb", "expected members of a zip side by side, got some that overlap")


def _open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    if member.flag_bits & 1:
        raise ContentError("encrypted", "expected a member of a zip without a password, got an encrypted one")
    # By other methods zipfile decompresses all that it reads at once, and a bz2 of 4 KB may hold gigabytes.
    if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        got = f"got compression method {member.compress_type}"
        raise ContentError("unsupported", f"expected a member that is stored or deflated, {got}")
    with as_damage("a whole member of an archive"):
        return archive.open(member)
