"""The dialect of CSV and TSV files: which character separates cells, and whether quotes enclose them."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
SAMPLE_ROWS = 100  # that decide on the delimiter
# A quoted cell whose lines look like rows, with at least this many delimiters in them, has a quote that is not closed.
SWALLOWED_DELIMITERS = 10
QUOTED_FIELD = re.compile(r'"(?:[^"]|"")*"\s*')
UNCLOSED = "expected a quote that closes the cell, got the end of the file"


class Cells(NamedTuple):
    """The line in which a row begins, its cells, and why they cannot be right."""

    line: int
    values: list[str]
    problem: str = ""


@dataclass(frozen=True)
class Dialect:
    """How rows are separated. Where they are not `quoted`, a quote is text and each line is a row."""

    delimiter: str
    quoted: bool = True
    has_separator_line: bool = False  # Excel's sep=; before the header

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of csv.reader and csv.writer."""
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        return {"delimiter": self.delimiter, "quoting": quoting, "quotechar": '"' if self.quoted else None}

    def __str__(self) -> str:
        quotes = "quotes enclose cells" if self.quoted else "quotes are text"
        return f"separated by {DELIMITERS.get(self.delimiter, self.delimiter)}, {quotes}"


def find_dialect(head: str, suffix: str, is_whole: bool = True) -> Dialect:
    """Return the dialect of a table that begins with `head`, the last line of which may be cut unless it `is_whole`.

    Where tabs separate, quotes are text if that leaves fewer rows with a wrong number of cells, or as many and a quote
    is not closed within its cell. Otherwise they enclose cells (RFC 4180).
    """
    named = re.match(r'"?sep=(.)"?[\r\n]', head, flags=re.IGNORECASE)
    delimiter = named[1] if named else "\t" if suffix == ".tsv" else _find_delimiter(head)
    quoted = delimiter != "\t" or _is_quoted(head, is_whole)
    return Dialect(delimiter, quoted, has_separator_line=named is not None)


def _find_delimiter(head: str) -> str:
    csv.field_size_limit((1 << 31) - 1)
    agreeing = dict.fromkeys(DELIMITERS, 0.0)
    for delimiter in DELIMITERS:
        rows = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)
        with suppress(csv.Error):
            sizes = [len(row) for row in islice(rows, SAMPLE_ROWS) if row]
            if sizes and sizes[0] > 1:
                agreeing[delimiter] = sizes.count(sizes[0]) / len(sizes)
    return max(agreeing, key=lambda delimiter: agreeing[delimiter])


def _is_quoted(head: str, is_whole: bool) -> bool:
    n_bad, n_quotes, n_lone = _count_plain(read_cells(io.StringIO(head, newline=""), Dialect("\t", quoted=False)))
    if not n_quotes:
        return False
    n_fields = n_bad_quoted = 0
    for row in read_cells(io.StringIO(head, newline=""), Dialect("\t")):
        n_fields = n_fields or len(row.values)
        is_bad = bool(row.problem) and (is_whole or row.problem != UNCLOSED)
        n_bad_quoted += sum(_lines_like_rows(row.values, n_fields, "\t")) or is_bad
    return n_bad_quoted < n_bad or (n_bad_quoted == n_bad and not (n_bad and n_lone))


def _count_plain(rows: Iterable[Cells]) -> tuple[int, int, int]:
    """Count the rows with a problem, the cells that begin with a quote, and those of them that no quote ends."""
    n_bad = n_quotes = n_lone = 0
    for row in rows:
        quoted = [cell for cell in row.values if cell.startswith('"')]
        n_bad += bool(row.problem)
        n_quotes += len(quoted)
        n_lone += sum(QUOTED_FIELD.fullmatch(cell) is None for cell in quoted)
    return n_bad, n_quotes, n_lone


def read_cells(lines: Iterable[str], dialect: Dialect) -> Iterator[Cells]:
    """Yield the rows without blank ones; each with a problem that differs from the first one in its number of cells.

    A row with a broken quote has a problem too, and one in which a quote seems to enclose the rows that follow it. No
    line is read before its row is requested.
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
            yield Cells(line, [], UNCLOSED if is_unclosed else f"expected quotes around a whole cell, got {error}")
            continue
        if len(fields) > 1 or not all(map(str.isspace, fields)):
            n_fields = n_fields or len(fields)
            yield Cells(line, fields, _row_problem(fields, n_fields, dialect.delimiter))


def _row_problem(fields: list[str], n_fields: int, delimiter: str) -> str:
    if len(fields) != n_fields:
        return f"expected {n_fields} field{'s' * (n_fields > 1)}, as in the first row, got {len(fields)}"
    like_rows = _lines_like_rows(fields, n_fields, delimiter)
    n_swallowed = sum(like_rows) if all(like_rows[:-1]) else 0  # the last line may be the rest of a cell
    if n_swallowed * (n_fields - 1) < SWALLOWED_DELIMITERS:
        return ""
    return f"expected a quote that closes its cell, got one that encloses {n_swallowed} rows"


def _lines_like_rows(fields: list[str], n_fields: int, delimiter: str) -> list[bool]:
    """Return, for each line but the first of the first cell with several, whether it looks like a row."""
    # A cell with a quote in it was enclosed on purpose, for its quotes are doubled.
    cell = next((cell for cell in fields if "\n" in cell and '"' not in cell), "") if n_fields > 1 else ""
    return [_is_row(line.split(delimiter), n_fields) for line in cell.split("\n")[1:] if line.strip()]


def _is_row(fields: list[str], n_fields: int) -> bool:
    # A line of verse may end in a comma: of two cells both are filled.
    return len(fields) == n_fields and bool(fields[0].strip()) and bool(n_fields > 2 or fields[1].strip())
