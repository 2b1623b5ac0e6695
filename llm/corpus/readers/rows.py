r"""The reader of rows: CSV, TSV, JSON lines, JSON arrays and Parquet, for the corpus, finetuning and `predict`.

    with open_rows(Path("spam.tsv")) as rows:     # raises ContentError for a file or a row that cannot be read
        rows.columns                              # ["label", "text"]; None for JSON, whose rows have keys of their own
        rows.encoding, rows.dialect               # Encoding("utf-8", …), Dialect("\t", …); None where there is none
        for row in rows:                          # Row(1, "line 2", ["ham", "Hello there"], 16)
            row.number, row.place, row.values     # values: a list in the order of `columns`; of JSON and Parquet a dict

A table in memory is `pd.DataFrame([row.values for row in rows], columns=rows.columns, dtype=object)`; numbers are those
that an editor shows: lines in JSON lines, else rows from 1. Rows are streamed, none is read before it is requested.
`rows_of` reads a stream instead, in UTF-8, with a limit on the bytes of a row; its rows carry their problems.
"""

import codecs
import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from llm.corpus.readers.dialects import Dialect, find_dialect, read_cells
from llm.corpus.readers.encodings import Encoding, decode, open_text
from llm.corpus.readers.streams import BUFFER_BYTES, ContentError, one_line, open_buffered

SEPARATED = (".csv", ".tsv")
JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (*SEPARATED, *JSON_LINES, ".json", ".parquet")
NO_LIMIT = 1 << 60
ROWS_PER_BATCH = 64  # of Parquet that are in memory at a time
FIRST_ROW, NEXT_ROW = re.compile(r"\s*\[\s*"), re.compile(r"\s*,\s*|\s*(?=\])")
HALF_A_PAIR = re.compile("[\ud800-\udfff]")  # which JSON can spell: not a character, and without bytes in UTF-8
REST = "what follows is not read"
LIMIT_ADVICE = "raise prepare.max_document_bytes"


class Row(NamedTuple):
    """A row: its number, its place for messages, its values, its length in the file, and why it cannot be read."""

    number: int
    place: str
    values: Any  # the cells of CSV in the order of the columns; a dict of JSON and Parquet
    n_bytes: int
    problem: ContentError | None = None

    def checked(self) -> "Row":
        """Return the row, or raise ContentError with its place."""
        try:
            if self.problem:
                raise self.problem
            check_unicode(self.values)
        except ContentError as error:
            raise ContentError(error.reason, f"{self.place}: {error}") from None
        return self


@dataclass(frozen=True)
class Rows:
    """The rows of a file, to be iterated once, and how they were found to be written."""

    rows: Iterator[Row]
    columns: list[str] | None = None
    dialect: Dialect | None = None
    encoding: Encoding | None = None
    is_array: bool = False  # of JSON

    def __iter__(self) -> Iterator[Row]:
        return self.rows


@contextmanager
def open_rows(path: Path, header: bool = True, encoding: str | None = None) -> Iterator[Rows]:
    """Open a file of rows by its suffix; its encoding is found unless one is named.

    Without a `header` the columns of a .csv or .tsv are called 1, 2, …. ContentError, here or while rows are iterated,
    is one line that names the place of the first row that cannot be read.
    """
    suffix = path.suffix.lower()
    with open_buffered(path) as file:
        stream, found = (file, None) if suffix == ".parquet" else open_text(file, suffix, encoding)
        dialect = find_dialect(lambda: _lines_of(path, encoding), suffix) if suffix in SEPARATED else None
        rows = rows_of(stream, suffix, header=header, dialect=dialect)
        yield replace(rows, encoding=found, rows=(row.checked() for row in rows))


def _lines_of(path: Path, encoding: str | None) -> Iterator[str]:
    with open_buffered(path) as file:
        yield from _decoded(open_text(file, path.suffix.lower(), encoding)[0])


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    return (line.decode("utf-8", "surrogateescape") for line in lines)


def rows_of(
    stream: io.BufferedReader,
    suffix: str,
    *,
    header: bool = True,
    column: str | None = None,
    dialect: Dialect | None = None,
    max_row_bytes: int = NO_LIMIT,
) -> Rows:
    """Return the rows of a stream, in UTF-8 unless it is Parquet, which has to be seekable.

    `column` is the only one that is needed: a table without it raises ContentError, and other columns of Parquet are
    not read. A row that cannot be read carries its problem; ContentError ends the rows where the next one cannot be
    found.
    """
    if suffix in SEPARATED:
        return _table(stream, dialect or _dialect_of(stream, suffix), header, column, max_row_bytes)
    if suffix == ".parquet":
        return _parquet(stream, column)
    is_fast = column is not None
    if (suffix == ".json" or not is_fast) and stream.peek(1).lstrip().startswith(b"["):
        return Rows(_array_rows(stream, max_row_bytes, is_fast), is_array=True)
    return Rows(_line_rows(stream, max_row_bytes, is_fast))


def check_unicode(values: Any) -> None:
    """Raise ContentError for damaged bytes in cells of a table, and for half a surrogate pair in JSON."""
    if isinstance(values, list):
        for cell in values:
            decode(cell.encode("utf-8", "surrogateescape"))
    elif half := HALF_A_PAIR.search(json.dumps(values, ensure_ascii=False, default=str)):
        raise ContentError("not_unicode", f"expected Unicode text, got half a surrogate pair, \\u{ord(half[0]):x}")


def too_long(what: str, n_bytes: int, limit: int, advice: str = LIMIT_ADVICE) -> ContentError:
    """Return the error for a document, a row or a line beyond the limit."""
    return ContentError("too_long", f"expected {what} of at most {limit} bytes, got {n_bytes}; {advice}")


def _check_column(column: str | None, names: list[str]) -> None:
    if column is not None and column not in names:
        raise ContentError("no_field", f"expected a column {column}, got {one_line(', '.join(names))}")


def _table(stream: io.BufferedReader, dialect: Dialect, header: bool, column: str | None, max_row_bytes: int) -> Rows:
    rows = _table_rows(stream, dialect, max_row_bytes, first=0 if header else 1)
    first = next(rows, None)
    if first is None:
        raise ContentError("empty", f"expected {'a header and ' if header else ''}rows, got an empty file")
    names = first.checked().values
    if header:
        _check_column(column, names)
        return Rows(rows, names, dialect)
    return Rows(chain([first], rows), [str(number) for number in range(1, len(names) + 1)], dialect)


def _dialect_of(stream: io.BufferedReader, suffix: str) -> Dialect:
    """Return the dialect of a table by its beginning."""
    head = stream.peek(1)
    text = head.decode("utf-8", "surrogateescape")
    is_whole = len(head) < BUFFER_BYTES - len(codecs.BOM_UTF8)
    return find_dialect(lambda: io.StringIO(text, newline=""), suffix, is_whole)


def _table_rows(stream: io.BufferedReader, dialect: Dialect, limit: int, first: int) -> Iterator[Row]:
    n_bytes = 0

    def lines() -> Iterator[bytes]:
        nonlocal n_bytes
        while line := stream.readline(limit - n_bytes + 1):
            if n_bytes or not line.isspace():  # blank lines between rows belong to none
                n_bytes += len(line)
            if n_bytes > limit:
                # Where the row ends cannot be found: the line may be within quotes.
                raise too_long("a row", n_bytes, limit, f"{REST}; {LIMIT_ADVICE}")
            yield line

    for number, cells in enumerate(read_cells(_decoded(lines()), dialect), first):
        problem = ContentError("bad_row", cells.problem) if cells.problem else None
        yield Row(number, f"line {cells.line}", cells.values, n_bytes, problem)
        n_bytes = 0


def _line_rows(stream: io.BufferedReader, limit: int, is_fast: bool) -> Iterator[Row]:
    number = 0
    while line := stream.readline(limit + 1):
        number, n_bytes = number + 1, len(line)
        if n_bytes > limit:
            while not line.endswith(b"\n") and (line := stream.readline(BUFFER_BYTES)):
                n_bytes += len(line)
            yield Row(number, f"line {number}", {}, n_bytes, too_long("a line", n_bytes, limit))
        elif not line.isspace():
            yield _json_row(number, "line", n_bytes, line, is_fast)


def _json_row(number: int, unit: str, n_bytes: int, content: bytes, is_fast: bool) -> Row:
    place = f"{unit} {number}"
    try:
        value = parse_json(content, is_fast)
        if not isinstance(value, dict):
            raise ContentError("bad_row", f"expected a JSON object, got {json_type(value)}")
    except ContentError as error:
        return Row(number, place, {}, n_bytes, error)
    return Row(number, place, value, n_bytes)


def parse_json(content: bytes, is_fast: bool = True) -> Any:
    """Parse a JSON value; NaN, Infinity and half a surrogate pair are taken, as Python writes them.

    The fast parser makes floats of the largest integers. ContentError for content that is not JSON.
    """
    import orjson

    try:
        if is_fast:
            return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass  # slower below, for what orjson refuses
    try:
        return json.loads(decode(content))
    except json.JSONDecodeError as error:
        problem = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        raise ContentError(
            "bad_row", f"expected a JSON object on each line, or one array, got invalid JSON: {problem}"
        ) from None
    except (ValueError, RecursionError):
        raise ContentError("bad_row", "expected a JSON object, got one that is too deep or too long") from None


def json_type(value: object) -> str:
    """Return what JSON calls the type of a value."""
    kinds = {type(None): "null", bool: "a boolean", list: "an array", dict: "an object", str: "a string"}
    return kinds.get(type(value), "a number")


def _array_rows(stream: io.BufferedReader, limit: int, is_fast: bool) -> Iterator[Row]:
    """Yield the objects of an array one by one; little more than the longest one is in memory."""
    bytes_to_text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    text, at, number, is_end, n_more = "", 0, 0, False, BUFFER_BYTES
    while not (begin := (NEXT_ROW if number else FIRST_ROW).match(text, at)) or not text.startswith("]", begin.end()):
        end, problem, may_be_cut = _end_of_value(text, begin.end() if begin else None, at)
        if begin and not problem and (end < len(text) or is_end):
            content = text[begin.end() : end].encode("utf-8", "surrogateescape")
            number, at, n_more = number + 1, end, BUFFER_BYTES
            yield _json_row(number, "row", len(content), content, is_fast)
            continue
        if is_end or not may_be_cut:
            problem = problem or "the end of the file"
            raise ContentError(
                "bad_row", f"row {number + 1}: expected a JSON object or the array's end, got {problem}; {REST}"
            )
        if len(text) - at > limit:
            raise too_long("a row", len(text) - at, limit, f"{REST}; {LIMIT_ADVICE}")
        # The row may be cut. Each time twice as much is read, for it is parsed anew.
        block = stream.read(n_more)
        is_end = len(block) < n_more
        text, at, n_more = text[at:] + bytes_to_text(block, is_end), 0, 2 * n_more
    assert begin
    if text[begin.end() + 1 :].strip() or stream.read(BUFFER_BYTES).strip():
        raise ContentError("bad_row", f"expected one JSON array, got more behind it; {REST}")


def _end_of_value(text: str, begin: int | None, at: int) -> tuple[int, str, bool]:
    """Return where a value ends, what is wrong with it, and whether more text could mend that."""
    if begin is None:
        rest = text[at : at + 20].strip()
        return at, repr(rest) if rest else "the end of the file", not rest
    try:
        return json.JSONDecoder().raw_decode(text, begin)[1], "", True
    except json.JSONDecodeError as error:
        may_be_cut = error.msg.startswith("Unterminated") or error.pos > len(text) - 20
        return at, one_line(error.msg), may_be_cut
    except (ValueError, RecursionError):
        return at, "one that is too deep or too long", False


def _parquet(stream: io.BufferedReader, column: str | None) -> Rows:
    from pyarrow import parquet

    with _as_damage():
        # Without a thread of Arrow's own: it would lock up on a stream that is written in Python.
        file = parquet.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False)
        schema = file.schema_arrow
    names = [name for name in schema.names if not name.startswith("__index_level_")]
    _check_column(column, names)
    if column is not None and not _is_text(kind := schema.field(column).type):
        raise ContentError("not_text", f"expected strings in the column {column}, got {one_line(kind)}")
    names = [column] if column is not None else names
    return Rows(_parquet_rows(file, names), names)


@contextmanager
def _as_damage() -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are not Unicode
        problem = f"expected a whole Parquet file, got one that is damaged or something else ({one_line(error)})"
        raise ContentError("damaged", problem) from None


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    values = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(values) or types.is_large_string(values) or types.is_string_view(values))


def _parquet_rows(file: Any, names: list[str]) -> Iterator[Row]:
    import pyarrow as pa

    number = 0
    texts = {name for name in names if _is_text(file.schema_arrow.field(name).type)}
    with _as_damage(), file:
        for batch in file.iter_batches(ROWS_PER_BATCH, columns=names, use_threads=False):
            # A file may call bytes a string that are not UTF-8: each text is decoded here, with an error of its own.
            columns = [
                batch[name].cast(pa.large_string()).view(pa.large_binary()) if name in texts else batch[name]
                for name in names
            ]
            for values in zip(*(column.to_pylist() for column in columns), strict=True):
                number += 1
                yield _parquet_row(number, dict(zip(names, values, strict=True)), texts)


def _parquet_row(number: int, values: dict[str, Any], texts: set[str]) -> Row:
    place, n_bytes = f"row {number}", sum(len(values[name] or b"") for name in texts)
    try:
        decoded = {name: decode(values[name]) for name in texts if values[name] is not None}
    except ContentError as error:
        return Row(number, place, {}, n_bytes, error)
    return Row(number, place, values | decoded, n_bytes)
