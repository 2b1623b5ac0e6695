"""What compression and archives hold, as streams of plain bytes; nothing is extracted to disk.

    a.jsonl.gz ──► Entry("a.jsonl.gz", ".jsonl", stream)
    b.zip      ──► Entry("b.zip/x.txt", ".txt", stream), Unreadable("mine", "b.zip/../y", "bad_path", "…", 57)

Suffixes decide. A file's bytes pass from layer to layer, a buffer at a time:

    file ──► gunzip ──► tar member ──► unxz ──► stream

A layer that finds its bytes damaged, or that gives far more than it took, raises `ContentError`.
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
import textwrap
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, Self

import zstandard

from llm.corpus.document import Unreadable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER_BYTES = 1 << 18
ZSTD_INPUT_BYTES = 1 << 10  # 4 bytes of zstd can stand for 128 KiB, and its decompressor gives all at once
WINDOW_BYTES = 1 << 31  # how far back xz and zstd may refer: as much as `zstd --long=31` needs
FREE_BYTES = 100_000_000  # what may come out before the ratio is looked at
MAX_RATIO = 200  # bytes that may come out for each byte that went in
MAX_MEMBERS = 1_000_000  # of a zip
ZIP_HEADER_BYTES = 30  # before each member, its name not counted

SHORT_SUFFIXES = {".tgz": ".tar.gz", ".tbz": ".tar.bz2", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}
ARCHIVES = {".zip", ".tar", ".7z", ".rar"}  # the last two only to say what they are when they lie in another

# Folders of version control and caches, and files of operating systems, beside those that begin with a dot.
LEFT_OUT = {"__pycache__", "__MACOSX", "CVS", "RCS", "SCCS", "_darcs", "Thumbs.db", "desktop.ini"}

# What the libraries below raise for bytes that are not what the suffix says.
DAMAGE = (
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    NotImplementedError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
    zipfile.BadZipFile,
    tarfile.TarError,
)


class ContentError(Exception):
    """Content that gives no document: why, as a word to count by and as a line to read."""

    def __init__(self, reason: str, problem: str) -> None:
        super().__init__(f"{reason}: {problem}")
        self.reason = reason
        self.problem = problem


class Limits(NamedTuple):
    """How much may come out of a file, and of how many members a zip may be made."""

    free_bytes: int = FREE_BYTES
    ratio: int = MAX_RATIO
    members: int = MAX_MEMBERS


LIMITS = Limits()


class Entry(NamedTuple):
    """A file within all its layers: its path, the suffix that names its format, its bytes, how many lie in the layer.

    The stream is to be read before the next entry is asked for. It raises ContentError. Only the stream of a
    plain file can seek. `n_bytes` is the length of the file or member, compressed if it is compressed itself.
    """

    path: str
    suffix: str
    stream: io.BufferedReader
    n_bytes: int


@dataclass
class Flow:
    """The bytes that went into decompressors, and those that came out."""

    n_in: int = 0
    n_out: int = 0

    def let_out(self, n_bytes: int, limits: Limits) -> None:
        """Count what came out; ContentError where it is too much for what went in."""
        self.n_out += n_bytes
        if self.n_out > max(limits.free_bytes, limits.ratio * self.n_in):
            wanted = f"wanted at most {limits.ratio} bytes from each compressed byte"
            raise ContentError("bomb", f"{wanted}, given {self.n_out} from {self.n_in}")


class CountedFile(io.FileIO):
    """A file that counts what is read of it."""

    def __init__(self, file: Path, flow: Flow) -> None:
        with _readable():
            super().__init__(file, "rb")
        self._flow = flow

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        """Read once; ContentError where the disk refuses."""
        with _readable():
            n_bytes = super().readinto(buffer)
        self._flow.n_in += n_bytes or 0
        return n_bytes


class ChunkStream(io.RawIOBase):
    """The bytes of an iterator of chunks, as a file.

    >>> io.BufferedReader(ChunkStream(iter([b"one ", b"two"]))).read(6)
    b'one tw'
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self.failure: ContentError | None = None

    def readable(self) -> bool:
        """Without this word a buffer refuses to read."""
        return True

    def buffered(self) -> io.BufferedReader:
        """The same with a buffer, which a peek at the beginning fills."""
        return io.BufferedReader(self, BUFFER_BYTES)

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill the buffer. An error waits until all that was read before it is out, and then stays."""
        room = memoryview(buffer).cast("B")
        n_bytes = 0
        while n_bytes < len(room) and self._has_rest():
            n_more = min(len(room) - n_bytes, len(self._rest))
            room[n_bytes : n_bytes + n_more] = self._rest[:n_more]
            self._rest = self._rest[n_more:]
            n_bytes += n_more
        if self.failure and not n_bytes:
            raise self.failure
        return n_bytes

    def _has_rest(self) -> bool:
        try:
            while not self._rest and not self.failure:
                self._rest = memoryview(next(self._chunks))
        except StopIteration:
            return False
        except ContentError as error:
            self.failure = error
        return bool(self._rest)


def open_entries(file: Path, path: str, source: str, limits: Limits = LIMITS) -> Iterator[Entry | Unreadable]:
    """What lies in `file`: itself, or the members of an archive, in a tar's order or sorted by a zip's names.

    `path` is its name in documents' paths, `source` the one that an Unreadable bears. Raises nothing for what
    the file holds; what cannot be read is Unreadable: unreadable, damaged, bomb, empty for an archive of no
    files, and for members bad_path, hidden, not_a_file, nested_archive, encrypted, unsupported.
    """
    path = printable(path)
    suffix, compressions = split_suffixes(path)
    flow = Flow()
    n_bytes = 0
    try:
        with _open_file(file, flow) as whole:
            n_bytes = os.fstat(whole.fileno()).st_size
            stream = _decompress(whole, compressions, [flow], limits)
            if suffix == ".zip" and compressions:
                raise ContentError("nested_archive", "wanted a .zip as it is, given one that is compressed again")
            if suffix in {".zip", ".tar"} and not stream.peek(1):
                raise ContentError("empty", "wanted an archive of files, given an empty file")
            if suffix == ".zip":
                yield from _filled(_zip_entries(stream, path, source, limits))
            elif suffix == ".tar":
                yield from _filled(_tar_entries(stream, path, source, flow, limits))
            else:
                yield Entry(path, suffix, stream, n_bytes)
    except ContentError as error:
        yield Unreadable(source, path, error.reason, error.problem, n_bytes)


def split_suffixes(name: str) -> tuple[str, list[str]]:
    """The suffix that names the format, and those of the compressions around it, the outermost first.

    >>> split_suffixes("a/b.jsonl.GZ")
    ('.jsonl', ['.gz'])
    >>> split_suffixes("b.tgz")
    ('.tar', ['.gz'])
    """
    rest = PurePosixPath(name.lower())
    compressions = []
    rest = rest.with_suffix(SHORT_SUFFIXES.get(rest.suffix, rest.suffix))
    while rest.suffix in DECOMPRESSORS:
        compressions.append(rest.suffix)
        rest = rest.with_suffix("")
    return rest.suffix, compressions


def printable(text: str) -> str:
    r"""The text on one line and in Unicode: control characters and stray bytes of a file's name are spelled out.

    >>> printable("a\nb")
    'a\\nb'
    """
    return re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda match: ascii(match[0])[1:-1], text)


def one_line(problem: object) -> str:
    """A library's words, on one line of bounded length."""
    return printable(textwrap.shorten(str(problem), 200, placeholder="…"))


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL.
        problem = f"wanted a file that can be read, given {one_line(getattr(error, 'strerror', None) or error)}"
        raise ContentError("unreadable", problem) from None


@contextmanager
def _whole(wanted: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        problem = f"wanted {wanted}, given one that is cut short, damaged or none ({one_line(error)})"
        raise ContentError("damaged", problem) from None


def _open_file(file: Path, flow: Flow) -> io.BufferedReader:
    return io.BufferedReader(CountedFile(file, flow), BUFFER_BYTES)


def _filled(entries: Iterator[Entry | Unreadable]) -> Iterator[Entry | Unreadable]:
    is_empty = True
    for entry in entries:
        is_empty = False
        yield entry
    if is_empty:
        raise ContentError("empty", "wanted an archive of files, given an empty one")


def _decompress(
    stream: io.BufferedReader, compressions: list[str], flows: list[Flow], limits: Limits
) -> io.BufferedReader:
    for suffix in compressions:
        chunks = _guard(DECOMPRESSORS[suffix](stream), f"a whole {suffix} stream", flows, limits)
        stream = ChunkStream(chunks).buffered()
    return stream


def _guard(chunks: Iterator[bytes], wanted: str, flows: list[Flow], limits: Limits) -> Iterator[bytes]:
    with _whole(wanted):
        for chunk in chunks:
            for flow in flows:
                flow.let_out(len(chunk), limits)
            yield chunk


def _chunks(stream: io.BufferedIOBase) -> Iterator[bytes]:
    # read1 asks the layer below once: a larger read would lose what it had when the next one fails.
    while chunk := stream.read1(BUFFER_BYTES):
        yield chunk


def _gunzip(stream: io.BufferedReader) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=stream) as file:
        yield from _chunks(file)


def _bunzip2(stream: io.BufferedReader) -> Iterator[bytes]:
    return _frames(stream, bz2.BZ2Decompressor, BUFFER_BYTES)


def _unxz(stream: io.BufferedReader) -> Iterator[bytes]:
    return _frames(stream, lambda: lzma.LZMADecompressor(memlimit=WINDOW_BYTES), BUFFER_BYTES)


def _unzstd(stream: io.BufferedReader) -> Iterator[bytes]:
    return _frames(stream, ZstdFrame, ZSTD_INPUT_BYTES)


class ZstdFrame:
    """zstandard's decompressor of one frame, with the interface of bz2's and lzma's."""

    needs_input = True

    def __init__(self) -> None:
        self._frame = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).decompressobj()

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """What the data stands for, all at once: zstandard knows no `max_length`."""
        return self._frame.decompress(data)

    @property
    def eof(self) -> bool:
        """Whether the frame's end was seen."""
        return self._frame.eof

    @property
    def unused_data(self) -> bytes:
        """What followed the frame's end."""
        return self._frame.unused_data


Decompressor = bz2.BZ2Decompressor | lzma.LZMADecompressor | ZstdFrame


def _frames(stream: io.BufferedReader, new: Callable[[], Decompressor], input_bytes: int) -> Iterator[bytes]:
    """What concatenated frames hold.

    bz2.open and lzma.open take a frame that does not begin as one for the end of the file, and zstandard's
    stream_reader does so where a frame is cut: what follows would be lost without a word.
    """
    data = stream.read1(input_bytes)
    while data:
        frame = new()
        while not frame.eof:
            if not data and frame.needs_input:
                data = stream.read1(input_bytes)
                if not data:
                    raise EOFError("it ends within a frame")
            if chunk := frame.decompress(data, BUFFER_BYTES):
                yield chunk
            data = b""
        data = frame.unused_data or stream.read1(input_bytes)


DECOMPRESSORS = {".gz": _gunzip, ".bz2": _bunzip2, ".xz": _unxz, ".zst": _unzstd}


def _check_path(name: str) -> None:
    """Raise ContentError for a name that points out of the archive: only one that means harm has such a member."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or re.search(r"^[A-Za-z]:|\\|\0", name):
        raise ContentError("bad_path", f"wanted a path within the archive, given {one_line(repr(name))}")


def _check_member(name: str, is_file: bool) -> None:
    """Raise ContentError for a member that is no file to be read as documents."""
    check_hidden(PurePosixPath(name))
    if not is_file:
        raise ContentError("not_a_file", "wanted a regular file, given a link, a device or a sparse file")
    suffix, _ = split_suffixes(name)
    if suffix in ARCHIVES:
        raise ContentError("nested_archive", f"wanted files in an archive, given an archive in it ({suffix})")


def check_hidden(path: PurePosixPath) -> None:
    """Raise ContentError for a hidden file and for version control's and caches', in a folder or an archive."""
    if any(part.startswith(".") or part in LEFT_OUT for part in path.parts):
        raise ContentError("hidden", "expected a visible file, got a hidden one or one of version control or a cache")


def _member_path(archive: str, name: str) -> str:
    return printable(f"{archive}/{PurePosixPath(name)}")


class WholeTarInfo(tarfile.TarInfo):
    """A tar's member. tarfile takes a header that is damaged, cut or missing for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """Read the next header; ReadError where there is no whole one."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # The true end: a block of zeros.
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def _tar_entries(
    stream: io.BufferedReader, path: str, source: str, flow: Flow, limits: Limits
) -> Iterator[Entry | Unreadable]:
    with _whole("a whole tar archive"):
        tar = tarfile.open(fileobj=stream, mode="r|", tarinfo=WholeTarInfo)  # noqa: SIM115
    with closing(tar):
        while True:
            with _whole("a whole tar archive"):
                member = tar.next()
            if member is None:
                break
            tar.members.clear()  # type: ignore[attr-defined]  # Else it would keep each of them.
            try:
                _check_path(member.name)
                if member.isdir():
                    continue
                _check_member(member.name, is_file=member.isreg() and not member.issparse())
            except ContentError as error:
                where = _member_path(path, member.name)
                yield Unreadable(source, where, error.reason, error.problem, member.size)
                continue
            content = tar.extractfile(member)
            assert isinstance(content, io.BufferedReader)
            member_stream = ChunkStream(_guard(_chunks(content), "a whole tar member", [], limits))
            suffix, compressions = split_suffixes(member.name)
            flows = [flow, Flow(n_in=member.size)]
            inner = _decompress(member_stream.buffered(), compressions, flows, limits)
            yield Entry(_member_path(path, member.name), suffix, inner, member.size)
            if member_stream.failure:  # The archive itself is broken here, and the member told so.
                return
        _check_tail(tar)


def _check_tail(tar: tarfile.TarFile) -> None:
    """Raise ContentError where another thing than padding follows the end of a tar."""
    assert tar.fileobj
    with _whole("a whole tar archive"):
        while tail := tar.fileobj.read(BUFFER_BYTES):
            if tail.strip(b"\0"):
                raise ContentError("damaged", "wanted a tar archive alone, given one that is followed by other bytes")


def _zip_entries(stream: io.BufferedReader, path: str, source: str, limits: Limits) -> Iterator[Entry | Unreadable]:
    with _whole("a whole zip archive"):
        archive = zipfile.ZipFile(stream)
    with archive:
        _check_directory(archive, limits)
        flow = Flow()
        for member in sorted(archive.infolist(), key=lambda member: member.orig_filename):
            name = member.orig_filename  # zipfile cuts the other one at a NUL.
            where = _member_path(path, name)
            try:
                _check_path(name)
                if member.is_dir():
                    continue
                # The upper half of the attributes is a mode where a Unix wrote them, else zero.
                _check_member(name, is_file=stat.S_IFMT(member.external_attr >> 16) in {0, stat.S_IFREG})
                content = _open_member(archive, member)
            except ContentError as error:
                yield Unreadable(source, where, error.reason, error.problem, member.file_size)
                continue
            with closing(content):
                flow.n_in += member.compress_size
                flows = [flow, Flow(n_in=member.compress_size)]
                inner = ChunkStream(_guard(_chunks(content), "a whole zip member", flows, limits)).buffered()
                suffix, compressions = split_suffixes(name)
                yield Entry(where, suffix, _decompress(inner, compressions, flows, limits), member.file_size)


def _check_directory(archive: zipfile.ZipFile, limits: Limits) -> None:
    """Raise ContentError for a zip that holds more than there is room for: its members overlap, or are too many."""
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    if len(members) > limits.members:
        raise ContentError("bomb", f"wanted at most {limits.members} members in a zip, given {len(members)}")
    ends = [member.header_offset + ZIP_HEADER_BYTES + member.compress_size for member in members]
    starts = [member.header_offset for member in members]
    if any(end > start for end, start in zip(ends, [*starts[1:], archive.start_dir], strict=False)):
        raise ContentError("bomb", "wanted members of a zip side by side, given some that overlap")


def _open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> zipfile.ZipExtFile:
    if member.flag_bits & 1:
        raise ContentError("encrypted", "wanted a member of a zip in the open, given an encrypted one")
    # zipfile decompresses what it reads by other methods at once, and a bz2 of 4 KB may hold gigabytes.
    if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        given = f"given compression method {member.compress_type}"
        raise ContentError("unsupported", f"wanted a member that is stored or deflated, {given}")
    with _whole("a whole zip member"):
        content = archive.open(member)
        assert isinstance(content, zipfile.ZipExtFile)
        return content
