"""The values of JSON lines and of a JSON array, as a stream.

Each is the number of a line or a row, a value or the error in its place, and its bytes.
"""

import io
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from llm.corpus.readers.encodings import decode
from llm.corpus.readers.streams import BUFFER_BYTES, REST, ContentError, too_long

TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)  # a whole string, or a mark outside of strings
CHANGES = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}  # of the depth
CHANGES = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}  # of the depth

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
        return ContentError("bad_row", "expected a JSON object, got one that is too deep or too long")


def json_array(stream: io.BufferedReader, limit: int, is_fast: bool) -> Values:
    """Yield the values of an array; little more than the longest one is in memory. ContentError where it is broken."""
    while stream.read(1) != b"[":
        pass  # white space
    for number, content in enumerate(filter(None, map(bytes.strip, _contents(stream, limit))), 1):
        yield number, parse(content, is_fast), len(content)


def _contents(stream: io.BufferedReader, limit: int) -> Iterator[bytes]:
    """Yield the bytes between the commas of an array whose first bracket was read."""
    text, start, at, depth, n_more = b"", 0, 0, 1, BUFFER_BYTES
    while block := stream.read(n_more):
        text, start, at, n_more = text[start:] + block, 0, at - start, 2 * n_more
        for token in TOKEN.finditer(text, at):
            if token[0] == b'"':
                break  # a string that ends in what is not read yet
            at = token.end()
            depth += CHANGES.get(token[0], 0)
            if depth == 0 or (depth == 1 and token[0] == b","):
                yield text[start : token.start()]
                start, n_more = at, BUFFER_BYTES
            if depth == 0:
                return _check_end(text[at:] + stream.read(BUFFER_BYTES))
        if len(text) - start > limit:
            raise too_long("a row", len(text) - start, limit, REST)
    raise ContentError("bad_row", "expected a JSON array with an end, got the end of the file")


def _check_end(rest: bytes) -> None:
    if rest.strip():
        raise ContentError("bad_row", f"expected one JSON array, got more behind it; {REST}")


def json_type(value: object) -> str:
    """Return what JSON calls the type of a value."""
    kinds = {type(None): "null", bool: "a boolean", list: "an array", dict: "an object", str: "a string"}
    return kinds.get(type(value), "a number")
