r"""Rows of CSV, TSV and JSON files: encoding, delimiter, quotes, and the line in which each row begins.

    ham⇥"Hello there⏎     find_dialect ──► Dialect("\t", quoted=False)     separated by tabs, quotes are text
    spam⇥Win a prize⏎     read_rows    ──► Row(1, ["ham", '"Hello there']), Row(2, ["spam", "Win a prize"])

Text sources, labeled rows and `predict` share these rules. A reader is given lines that keep their line ends.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

from llm.corpus.readers import encodings
from llm.corpus.readers.containers import BUFFER_BYTES, ContentError
from llm.corpus.readers.encodings import Encoding

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
SAMPLE_ROWS = 100  # that decide on the delimiter
# A quoted cell whose lines are rows themselves, with this many delimiters between them, was not meant to be one.
SWALLOWED_DELIMITERS = 10
QUOTED_FIELD = re.compile(r'"(?:[^"]|"")*"\s*')
CHUNK_CHARS = 1 << 20
OPTION_ADVICE = "name its encoding, such as cp1252: --encoding, or encoding: in params.yaml"


class RowsError(ValueError):
    """A file that cannot be read to its end; the text says where, what was expected and what was found."""


class Row(NamedTuple):
    """The line that a row begins in and its fields, or the problem because of which it has none."""

    line: int
    fields: list[str]
    problem: str | None = None

    def checked(self) -> list[str]:
        """The fields; RowsError that names the line where there is a problem."""
        if self.problem:
            raise RowsError(f"line {self.line}: {self.problem}")
        return self.fields


@dataclass(frozen=True)
class Dialect:
    """How the rows of a file are separated. Without `quoted`, a quote is text and each line is a row."""

    delimiter: str
    quoted: bool = True
    has_separator_line: bool = False  # Excel's sep=; before the header

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of csv.reader and csv.writer."""
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        return {"delimiter": self.delimiter, "quoting": quoting, "quotechar": '"' if self.quoted else None}

    def __str__(self) -> str:
        quotes = "quotes enclose cells" if self.quoted else "quotes are text"
        return f"separated by {DELIMITERS.get(self.delimiter, self.delimiter)}, {quotes}"


def find_dialect(open_lines: Callable[[], Iterable[str]], suffix: str, is_whole: bool = True) -> Dialect:
    """Return the dialect of a file: its delimiter by the first rows, and whether quotes enclose cells by all lines.

    `open_lines` gives the lines from the beginning each time it is called; unless they are the `whole` file, the last
    one may be cut. A .tsv is separated by tabs, a .csv by what divides its first rows evenly. Where tabs separate,
    quotes are text if that leaves fewer rows with a wrong number of fields, or as many and a quote is not closed in
    its own cell. Everywhere else they enclose cells (RFC 4180).
    """
    first = next(iter(open_lines()), "").strip("\r\n")
    if named := re.fullmatch(r'"?sep=(.)"?', first, flags=re.IGNORECASE):
        return Dialect(named[1], _is_quoted(open_lines, named[1], is_whole), has_separator_line=True)
    delimiter = "\t" if suffix.lower() == ".tsv" else _find_delimiter(open_lines)
    return Dialect(delimiter, _is_quoted(open_lines, delimiter, is_whole))


def _find_delimiter(open_lines: Callable[[], Iterable[str]]) -> str:
    """The delimiter by which most of the first rows have as many fields as the first one; a comma where none does."""
    csv.field_size_limit((1 << 31) - 1)
    found, most = ",", 0.0
    for delimiter in DELIMITERS:
        try:
            sizes = [len(row) for row in islice(csv.reader(open_lines(), delimiter=delimiter), SAMPLE_ROWS) if row]
        except csv.Error:
            continue
        agreeing = sizes.count(sizes[0]) / len(sizes) if sizes and sizes[0] > 1 else 0.0
        if agreeing > most:
            found, most = delimiter, agreeing
    return found


def _is_quoted(open_lines: Callable[[], Iterable[str]], delimiter: str, is_whole: bool) -> bool:
    """Whether quotes enclose cells."""
    if delimiter != "\t":
        return True
    n_fields, n_bad, has_quotes, has_lone_quotes = 0, 0, False, False
    for line in open_lines():
        fields = line.rstrip("\r\n").split(delimiter)
        n_fields = n_fields or (len(fields) if line.strip() else 0)
        n_bad += bool(line.strip()) and len(fields) != n_fields
        quoted = [field for field in fields if field.startswith('"')]
        has_quotes = has_quotes or bool(quoted)
        has_lone_quotes = has_lone_quotes or not all(map(QUOTED_FIELD.fullmatch, quoted))
    if not has_quotes:
        return False
    n_bad_quoted = 0
    for row in read_rows(open_lines(), Dialect(delimiter), refuse_swallowed=False):
        is_bad = bool(row.problem) and (is_whole or row.problem != UNCLOSED)
        n_bad_quoted += is_bad or sum(_lines_like_rows(row.fields, n_fields, delimiter))
    if n_bad != n_bad_quoted:
        return n_bad_quoted < n_bad
    return n_bad == 0 or not has_lone_quotes


UNCLOSED = "expected a quote that closes the cell, got the end of the file"


def read_rows(lines: Iterable[str], dialect: Dialect, refuse_swallowed: bool = True) -> Iterator[Row]:
    """Yield the rows, blank lines left out; one is a problem if it has not as many fields as the first.

    So is a row with a broken quote, and one in which a quote seems to enclose the rows that follow it. No line is
    read before the row that it belongs to is asked for.
    """
    csv.field_size_limit((1 << 31) - 1)  # a cell may be a whole document
    reader = csv.reader(lines, strict=dialect.quoted, **dialect.options)
    if dialect.has_separator_line:
        next(reader, None)
    n_fields = 0
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            is_unclosed = "unexpected end of data" in str(error)
            yield Row(line, [], UNCLOSED if is_unclosed else f"expected quotes around a whole cell, got {error}")
            continue
        if not fields or (len(fields) == 1 and fields[0].isspace()):
            continue
        n_fields = n_fields or len(fields)
        if len(fields) != n_fields:
            expected = f"{n_fields} field{'s' if n_fields > 1 else ''}"
            yield Row(line, [], f"expected {expected}, as in the first row, got {len(fields)}")
            continue
        like_rows = _lines_like_rows(fields, n_fields, dialect.delimiter) if reader.line_num > line else []
        n_swallowed = sum(like_rows) if all(like_rows[:-1]) else 0  # the last line may be the rest of a cell
        if refuse_swallowed and n_swallowed * (n_fields - 1) >= SWALLOWED_DELIMITERS:
            yield Row(line, [], f"expected a quote that closes its cell, got one that encloses {n_swallowed} rows")
        else:
            yield Row(line, fields)


def _lines_like_rows(fields: list[str], n_fields: int, delimiter: str) -> list[bool]:
    """Of each line of the first cell with several, behind its first one, whether it looks like a row.

    A cell with a quote in it is a true one: whoever doubled that quote enclosed the cell as well.
    """
    cells = [cell for cell in fields if "\n" in cell and '"' not in cell] if n_fields > 1 else []
    lines = cells[0].split("\n")[1:] if cells else []
    return [_is_row(line, n_fields, delimiter) for line in lines if line.strip()]


def _is_row(line: str, n_fields: int, delimiter: str) -> bool:
    """Whether a line has as many fields, and of two both; a line of verse may end in a comma."""
    fields = line.split(delimiter)
    return len(fields) == n_fields and bool(fields[0].strip()) and bool(n_fields > 2 or fields[1].strip())


@contextmanager
def open_text(path: Path, encoding: str | None = None) -> Iterator[tuple[TextIO, Encoding]]:
    """Open a text file, whose line ends stay; give its encoding too, which is found where none is named.

    RowsError where the content is not of that encoding, or none is clearly better than others.
    """
    try:
        file: io.BufferedReader = io.BufferedReader(io.FileIO(path), BUFFER_BYTES)
        with file:
            stream, found = encodings.open_text(file, path.suffix.lower(), encoding)
            with io.TextIOWrapper(stream, encoding="utf-8", newline="") as text:
                yield text, found
    except ContentError as error:
        raise RowsError(error.problem.replace(encodings.ENCODING_ADVICE, OPTION_ADVICE)) from None
    except UnicodeDecodeError:
        raise RowsError(f"{_find_bad_bytes(path)}; {OPTION_ADVICE}") from None


def _find_bad_bytes(path: Path) -> str:
    """Where the first bytes stand that are not UTF-8; the error knows their place within a buffer only."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            return f"line {number}: expected UTF-8 text, byte {error.start + 1} of the line is none"
    raise AssertionError(path)


class JsonRow(NamedTuple):
    """An object of a JSON file, and the place that it stands at: its line, or its number in an array, from 1."""

    number: int
    place: str
    content: dict[str, Any]


def is_array(path: Path, encoding: str | None = None) -> bool:
    """Whether a JSON file is one array, and not an object a line."""
    with open_text(path, encoding) as (text, _):
        return text.read(CHUNK_CHARS).lstrip().startswith("[")


def read_json(text: TextIO) -> Iterator[JsonRow]:
    """Yield the objects of a JSON array or of JSON lines; NaN and Infinity are numbers. RowsError for other content."""
    head = text.read(CHUNK_CHARS)
    if head.lstrip().startswith("["):
        rows = _array_items(head, text)
    else:
        rows = _json_lines(chain(io.StringIO(head + text.readline(), newline=""), text))
    for number, place, value in rows:
        if not isinstance(value, dict):
            raise RowsError(f"{place}: expected a JSON object, got {json.dumps(value)[:60]}")
        # JSON can spell half a surrogate pair, which is no character and has no bytes in UTF-8.
        if half := HALF.search(json.dumps(value, ensure_ascii=False)):
            raise RowsError(f"{place}: expected characters, got half of one, \\u{ord(half.group()):x}")
        yield JsonRow(number, place, value)


HALF = re.compile("[\ud800-\udfff]")
BEFORE, BETWEEN = re.compile(r"\s*"), re.compile(r"\s*,\s*|\s*(?=\])")
TOO_DEEP = "expected a JSON object, it is too deep or too long"


def _json_lines(lines: Iterable[str]) -> Iterator[tuple[int, str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, f"line {number}", json.loads(line)
        except json.JSONDecodeError as error:
            problem = f"{error.msg.removesuffix(' at')} at column {error.colno}"
            raise RowsError(f"line {number}: expected a JSON object on each line, or one array, {problem}") from None
        except (ValueError, RecursionError):
            raise RowsError(f"line {number}: {TOO_DEEP}") from None


def _array_items(buffer: str, text: TextIO) -> Iterator[tuple[int, str, Any]]:
    """The values of an array that begins with a buffer; little more of it is in memory than its longest value."""
    decode = json.JSONDecoder().raw_decode
    at, number, n_chars = buffer.index("[") + 1, 0, CHUNK_CHARS
    while True:
        place = f"row {number + 1}"
        problem = "the array is not closed"
        try:
            if found := (BETWEEN if number else BEFORE).match(buffer, at):
                if buffer.startswith("]", found.end()):
                    break
                value, end = decode(buffer, found.end())
                if end < len(buffer):
                    number, at = number + 1, end
                    yield number, place, value
                    continue
        except json.JSONDecodeError as error:
            problem = error.msg.removesuffix(" at")
        except (ValueError, RecursionError):
            raise RowsError(f"{place}: {TOO_DEEP}") from None
        # The value may be cut. Each time twice as much is read, for a long one is parsed anew.
        if not (more := text.read(n_chars)):
            raise RowsError(f"{place}: expected an array of JSON objects, {problem}")
        buffer, at, n_chars = buffer[at:] + more, 0, 2 * n_chars
    if (buffer[found.end() + 1 :] + text.read()).strip():
        raise RowsError("expected one JSON array, got more behind it")
