r"""The reader of rows: CSV, TSV, JSON lines, JSON arrays and Parquet, for the corpus, finetuning and `predict`.

    with open_rows(Path("spam.tsv")) as rows:     # raises ContentError for a file or a row that cannot be read
        rows.columns                              # ["label", "text"]; None for JSON, whose rows have keys of their own
        rows.encoding, rows.dialect               # Encoding("utf-8", …), Dialect("\t", …); None where there is none
        for row in rows:                          # Row(1, "line 2", ["ham", "Hello there"], 16)
            row.number, row.place, row.values     # values: a list in the order of `columns`; of JSON and Parquet a dict

Numbers are those that an editor shows: lines in JSON lines, else rows from 1. Rows are streamed, none is read before it
is requested. `rows_of` reads a stream in UTF-8, with a limit on the bytes of a row; its rows carry their problems.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from llm.corpus.readers.dialects import Dialect, find_dialect, read_cells
from llm.corpus.readers.encodings import Encoding, decode, open_text
from llm.corpus.readers.streams import BUFFER_BYTES, REST, ContentError, as_damage, one_line, open_buffered, too_long

SEPARATED = (".csv", ".tsv")
SUFFIXES = (*SEPARATED, ".jsonl", ".ndjson", ".json", ".parquet")
NO_LIMIT = 1 << 60
PARQUET = "a whole Parquet file"
ROWS_PER_BATCH = 64  # of Parquet that are in memory at a time
TOKEN = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL
)  # a whole string of JSON, or a mark outside of strings
DEPTH_CHANGES = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
Values = Iterator[tuple[int, Any, int]]  # the number of a line or a row, a value or the error in its place, its bytes


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
        rows = rows_of(stream, suffix, header=header)
        yield replace(rows, encoding=found, rows=(row.checked() for row in rows))


def rows_of(
    stream: io.BufferedReader,
    suffix: str,
    *,
    header: bool = True,
    column: str | None = None,
    max_row_bytes: int = NO_LIMIT,
) -> Rows:
    """Return the rows of a stream, in UTF-8 unless it is Parquet, which has to be seekable.

    `column` is the only one that is needed: a table without it raises ContentError, and other columns of Parquet are
    not read. A row that cannot be read carries its problem; ContentError ends the rows where the next one cannot be
    found.
    """
    if suffix in SEPARATED:
        return _table(stream, suffix, header, column, max_row_bytes)
    if suffix == ".parquet":
        return _parquet(stream, column)
    is_fast = column is not None
    if (suffix == ".json" or not is_fast) and stream.peek(1).lstrip().startswith(b"["):
        return Rows(_object_rows(_json_array(stream, max_row_bytes, is_fast), "row"), is_array=True)
    return Rows(_object_rows(_json_lines(stream, max_row_bytes, is_fast), "line"))


def check_unicode(values: Any) -> None:
    """Raise ContentError for damaged bytes in a list of cells, and for half a surrogate pair in text or JSON."""
    if isinstance(values, list):
        for cell in values:
            decode(cell.encode("utf-8", "surrogateescape"))
        return
    text = values if isinstance(values, str) else json.dumps(values, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f"expected Unicode text, got half a surrogate pair, \\u{ord(text[error.start]):x}"
        raise ContentError("not_unicode", problem) from None


def _check_column(column: str | None, names: list[str]) -> None:
    if column is not None and column not in names:
        raise ContentError("no_field", f"expected a column {column}, got {one_line(', '.join(names))}")


def _table(stream: io.BufferedReader, suffix: str, header: bool, column: str | None, limit: int) -> Rows:
    head = stream.peek(1)
    is_whole = len(head) < BUFFER_BYTES - len(codecs.BOM_UTF8)
    dialect = find_dialect(head.decode("utf-8", "surrogateescape"), suffix, is_whole)
    rows = _table_rows(stream, dialect, limit, first=0 if header else 1)
    if (first := next(rows, None)) is None:
        raise ContentError("empty", f"expected {'a header and ' if header else ''}rows, got an empty file")
    names = first.checked().values
    if header:
        _check_column(column, names)
        return Rows(rows, names, dialect)
    return Rows(chain([first], rows), [str(number) for number in range(1, len(names) + 1)], dialect)


def _table_rows(stream: io.BufferedReader, dialect: Dialect, limit: int, first: int) -> Iterator[Row]:
    n_bytes = 0

    def lines() -> Iterator[str]:
        nonlocal n_bytes
        while line := stream.readline(limit - n_bytes + 1):
            if n_bytes or not line.isspace():  # blank lines between rows belong to none
                n_bytes += len(line)
            if n_bytes > limit:
                # Where the row ends cannot be found: the line may be within quotes.
                raise too_long("a row", n_bytes, limit, REST)
            yield line.decode("utf-8", "surrogateescape")

    for number, (line, values, problem) in enumerate(read_cells(lines(), dialect), first):
        yield Row(number, f"line {line}", values, n_bytes, ContentError("bad_row", problem) if problem else None)
        n_bytes = 0


def _object_rows(values: Values, unit: str) -> Iterator[Row]:
    for number, value, n_bytes in values:
        problem = value if isinstance(value, ContentError) else None
        if not isinstance(value, dict | ContentError):
            problem = ContentError("bad_row", f"expected a JSON object, got {json_type(value)}")
        yield Row(number, f"{unit} {number}", {} if problem else value, n_bytes, problem)


def _json_lines(stream: io.BufferedReader, limit: int, is_fast: bool) -> Values:
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


def _json_array(stream: io.BufferedReader, limit: int, is_fast: bool) -> Values:
    """Yield the values of an array; little more than the longest one is in memory. ContentError where it is broken."""
    while stream.read(1) != b"[":
        pass  # white space
    for number, content in enumerate(filter(None, map(bytes.strip, _array_items(stream, limit))), 1):
        yield number, parse(content, is_fast), len(content)


def _array_items(stream: io.BufferedReader, limit: int) -> Iterator[bytes]:
    """Yield the bytes between the commas of an array whose first bracket was read."""
    text, start, at, depth, n_more = b"", 0, 0, 1, BUFFER_BYTES
    while block := stream.read(n_more):
        text, start, at, n_more = text[start:] + block, 0, at - start, 2 * n_more
        for token in TOKEN.finditer(text, at):
            if token[0] == b'"':
                break  # a string that ends in what is not read yet
            at = token.end()
            depth += DEPTH_CHANGES.get(token[0], 0)
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


def _parquet(stream: io.BufferedReader, column: str | None) -> Rows:
    import pyarrow as pa
    from pyarrow import parquet, types

    with as_damage(PARQUET, (pa.ArrowException, OSError, ValueError)):
        # Without a thread of Arrow's own: it would lock up on a stream that is written in Python.
        file = parquet.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False)
        schema = file.schema_arrow
    names = [name for name in schema.names if not name.startswith("__index_level_")]
    if column is not None:
        _check_column(column, names)
        kind = schema.field(column).type
        texts = kind.value_type if types.is_dictionary(kind) else kind
        if texts not in (pa.string(), pa.large_string(), pa.string_view()):
            raise ContentError("not_text", f"expected strings in the column {column}, got {one_line(kind)}")
        names = [column]
    return Rows(_object_rows(_parquet_values(file, names), "row"), names)


def _parquet_values(file: Any, names: list[str]) -> Values:
    import pyarrow as pa

    with as_damage(PARQUET, (pa.ArrowException, OSError, ValueError)), file:
        batches = file.iter_batches(ROWS_PER_BATCH, columns=names, use_threads=False)
        for number, value in enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), 1):
            yield number, value, sum(len(text) for text in value.values() if isinstance(text, str))
