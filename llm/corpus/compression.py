"""Compressed files as streams of plain bytes, a buffer at a time, with a limit on how far they may swell.

A stream raises `ContentError` where its bytes are damaged, after all bytes before the damage, or where its output is
far larger than its input.
"""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import zstandard

from llm.corpus.readers.streams import BUFFER_BYTES, ChunkStream, ContentError, one_line

FREE_BYTES = 100_000_000  # that may come out of any file
MAX_RATIO = 200  # of bytes that come out to bytes that go in
WINDOW_BYTES = 1 << 31  # how far back xz and zstd may refer: as much as `zstd --long=31` needs
SHORT_SUFFIXES = {".tgz": ".tar.gz", ".tbz": ".tar.bz2", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}
# Errors of the libraries for bytes of another kind than the suffix names.
DAMAGE = (
    *(EOFError, OSError, ValueError, OverflowError, NotImplementedError, struct.error, zlib.error),
    *(lzma.LZMAError, zstandard.ZstdError, zipfile.BadZipFile, tarfile.TarError),
)


@dataclass
class Budget:
    """The bytes that may come out of decompressors for those that go in."""

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


@contextmanager
def as_damage(what: str) -> Iterator[None]:
    """Turn what the libraries raise for damaged bytes into a ContentError."""
    try:
        yield
    except DAMAGE as error:
        problem = f"expected {what}, got one that is cut short, damaged or something else ({one_line(error)})"
        raise ContentError("damaged", problem) from None


def decompress(stream: io.BufferedReader, compressions: list[str], budgets: list[Budget]) -> io.BufferedReader:
    """Return the stream without its compressions, the outermost first."""
    for suffix in compressions:
        plain = DECOMPRESSORS[suffix](stream)
        stream = ChunkStream(guard(plain, f"a whole {suffix} stream", budgets)).buffered()
    return stream


def guard(blocks: Iterator[bytes], what: str, budgets: list[Budget]) -> Iterator[bytes]:
    """Yield the chunks; ContentError for damage, and where they are too many for a budget."""
    with as_damage(what):
        for chunk in blocks:
            for budget in budgets:
                budget.spend(len(chunk))
            yield chunk


def chunks(stream: io.BufferedIOBase) -> Iterator[bytes]:
    """Yield all bytes of a stream."""
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
    ".gz": lambda stream: chunks(gzip.GzipFile(fileobj=stream)),
    ".bz2": partial(_frames, new=bz2.BZ2Decompressor, max_length=(BUFFER_BYTES,)),
    ".xz": partial(_frames, new=partial(lzma.LZMADecompressor, memlimit=WINDOW_BYTES), max_length=(BUFFER_BYTES,)),
    ".zst": partial(
        _frames,
        new=lambda: zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).decompressobj(),
        input_bytes=1024,  # 4 bytes may become 128 KiB, which come out at once
    ),
}
