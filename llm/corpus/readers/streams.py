"""Streams of bytes, and the error for content that cannot be read."""

import io
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER_BYTES = 1 << 18
REST = "what follows is not read"
LIMIT_ADVICE = "raise prepare.max_document_bytes"


def open_buffered(path: Path) -> io.BufferedReader:
    """Open a file with a buffer that `peek` fills."""
    return io.BufferedReader(io.FileIO(path), BUFFER_BYTES)


class ContentError(Exception):
    """Content that cannot be read: `reason` is a word to count by, the text one line: expected …, got …."""

    def __init__(self, reason: str, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason


@contextmanager
def as_damage(what: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn the errors that a library raises for damaged bytes into a ContentError."""
    try:
        yield
    except errors as error:
        problem = f"expected {what}, got one that is cut short, damaged or something else ({one_line(error)})"
        raise ContentError("damaged", problem) from None


class ChunkStream(io.RawIOBase):
    """Present an iterator of chunks of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self.failure: ContentError | None = None

    def readable(self) -> bool:
        """Return True, as a buffer requires."""
        return True

    def buffered(self) -> io.BufferedReader:
        """Return the stream with a buffer, which `peek` fills."""
        return io.BufferedReader(self, BUFFER_BYTES)

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill the buffer. An error is raised only when all bytes before it were returned, and then by every read."""
        room = memoryview(buffer).cast("B")
        n_bytes = 0
        while n_bytes < len(room) and (self._rest or self._next_chunk()):
            n_more = min(len(room) - n_bytes, len(self._rest))
            room[n_bytes : n_bytes + n_more] = self._rest[:n_more]
            self._rest = self._rest[n_more:]
            n_bytes += n_more
        if self.failure and not n_bytes:
            raise self.failure
        return n_bytes

    def _next_chunk(self) -> bool:
        try:
            if not self.failure:
                self._rest = memoryview(next(filter(None, self._chunks), b""))
        except ContentError as error:
            self.failure = error
        return bool(self._rest)


def printable(text: str) -> str:
    """Return the text on one line and in Unicode, with control characters and undecodable bytes escaped."""
    return re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda match: ascii(match[0])[1:-1], text)


def one_line(problem: object) -> str:
    """Return a library's message on one line of at most 200 characters."""
    return printable(textwrap.shorten(str(problem), 200, placeholder="…"))


def too_long(what: str, n_bytes: int, limit: int, note: str = "", advice: str = LIMIT_ADVICE) -> ContentError:
    """Return the error for a document, a row or a line beyond the limit."""
    hints = "; ".join(filter(None, [note, advice]))
    return ContentError("too_long", f"expected {what} of at most {limit} bytes, got {n_bytes}; {hints}")
