"""The values of JSON lines and of a JSON array, as a stream.

Each is the number of a line or a row, a value or the error in its place, and its bytes.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from llm.corpus.readers.encodings import decode
from llm.corpus.readers.streams import BUFFER_BYTES, REST, ContentError, one_line, too_long

FIRST, NEXT = re.compile(r"\s*\[\s*"), re.compile(r"\s*,\s*|\s*(?=\])")
DECODER = json.JSONDecoder()
TOO_DEEP = "one that is too deep or too long"

Values = Iterator[tuple[int, Any, int]]


def json_lines(stream: io.BufferedReader, limit: int, is_fast: bool) -> Values:
    """Yield the value of each line that is not blank; lines of more than `limit` bytes are not kept."""
    number = 0
    while line := stream.readline(limit + 1):
        number, n_bytes = number + 1, len(line)
        if n_bytes > limit:
            while not line.endswith(b"\n") and (line := stream.readline(BUFFER_BYTES)):
                n_bytes += len(line)
            yield number, too_long("a line", n_bytes, limit), n_bytes
        elif not line.isspace():
            yield number, parse(line, is_fast), n_bytes


def parse(content: bytes, is_fast: bool = True) -> Any:
    """Return a JSON value, or the ContentError; the fast parser makes floats of the largest integers."""
    import orjson

    with suppress(orjson.JSONDecodeError):  # then Python's is slower, and takes NaN and half a surrogate pair
        if is_fast:
            return orjson.loads(content)
    try:
        return json.loads(decode(content))
    except ContentError as error:
        return error
    except json.JSONDecodeError as error:
        got = f"got invalid JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
        return ContentError("bad_row", f"expected a JSON object on each line, or one array, {got}")
    except (ValueError, RecursionError):
        return ContentError("bad_row", f"expected a JSON object, got {TOO_DEEP}")


def json_array(stream: io.BufferedReader, limit: int) -> Values:
    """Yield the values of an array; little more than the longest one is in memory. ContentError where it is broken."""
    bytes_to_text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    text, at, number, is_end, n_more, separator = "", 0, 0, False, BUFFER_BYTES, FIRST
    while not ((begin := separator.match(text, at)) and text.startswith("]", begin.end())):
        value, start, end, problem, may_be_cut = _next_value(text, begin, at)
        if not problem and (end < len(text) or is_end):
            number, at, n_more, separator = number + 1, end, BUFFER_BYTES, NEXT
            yield number, *_undamaged(text[start:end], value)
            continue
        if is_end or not may_be_cut:
            expected = f"row {number + 1}: expected a JSON object or the array's end"
            raise ContentError("bad_row", f"{expected}, got {problem or 'the end of the file'}; {REST}")
        if len(text) - at > limit:
            raise too_long("a row", len(text) - at, limit, REST)
        # The value may be cut. Each time twice as much is read, for it is parsed anew.
        block = stream.read(n_more)
        is_end = len(block) < n_more
        text, at, n_more = text[at:] + bytes_to_text(block, is_end), 0, 2 * n_more
    _check_end(text[begin.end() + 1 :], stream)


def _check_end(rest: str, stream: io.BufferedReader) -> None:
    if rest.strip() or stream.read(BUFFER_BYTES).strip():
        raise ContentError("bad_row", f"expected one JSON array, got more behind it; {REST}")


def _next_value(text: str, begin: re.Match[str] | None, at: int) -> tuple[Any, int, int, str, bool]:
    """Return a value, its start and end, the problem where there is none, and whether more text could solve it."""
    if begin is None:
        rest = text[at : at + 20].strip()
        return None, at, at, repr(rest) if rest else "the end of the file", not rest
    start = begin.end()
    try:
        value, end = DECODER.raw_decode(text, start)
        return value, start, end, "", True
    except json.JSONDecodeError as error:
        may_be_cut = error.msg.startswith("Unterminated") or error.pos > len(text) - 20
        return None, start, at, one_line(error.msg), may_be_cut
    except (ValueError, RecursionError):
        return None, start, at, TOO_DEEP, False


def _undamaged(content: str, value: Any) -> tuple[Any, int]:
    """Return the value, or the error for damaged bytes in it, and its bytes."""
    try:
        return value, len(content.encode())
    except UnicodeEncodeError:
        damaged = content.encode("utf-8", "surrogateescape")
        return parse(damaged), len(damaged)


def json_type(value: object) -> str:
    """Return what JSON calls the type of a value."""
    kinds = {type(None): "null", bool: "a boolean", list: "an array", dict: "an object", str: "a string"}
    return kinds.get(type(value), "a number")
