"""A file of labeled rows in, a table of its rows out, numbered as an editor shows them.

CSV and TSV with a header or without, JSON lines, Parquet. Nothing is guessed: values of a .csv or .tsv are text.
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from llm import params
from llm.errors import UserError


def read_file(path: Path, header: bool = True) -> pd.DataFrame:
    """All columns and rows; the index counts rows from 1, and lines of a .jsonl file.

    Without a `header` the columns of a .csv or .tsv are called 1, 2, …; in such a .tsv quotes are text, and each line
    is a row. UserError in one line for a file that is not of its kind.
    """
    if path.is_dir():
        raise UserError(f"{path}: wanted a file of labeled rows, given a folder")
    try:
        match path.suffix.lower():
            case ".csv":
                table = _read_separated(path, ",", header)
            case ".tsv":
                table = _read_separated(path, "\t", header)
            case ".jsonl":
                table = _read_json_lines(path)
            case ".parquet":
                table = pd.read_parquet(path).astype(object)
                table.index = pd.RangeIndex(1, len(table) + 1)
            case other:
                raise UserError(f"{path}: wanted a .csv, .tsv, .jsonl or .parquet file, given {other or 'no ending'}")
    except FileNotFoundError:
        raise UserError(f"{path}: wanted a file of labeled rows, there is none") from None
    except pd.errors.EmptyDataError:
        wanted = "a header and labeled rows" if header else "labeled rows"
        raise UserError(f"{path}: wanted {wanted}, the file is empty") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: {_find_bad_byte(path)}") from None
    except pa.ArrowException:
        raise UserError(f"{path}: wanted a Parquet file, it is cut short or something else") from None
    except OSError as error:
        raise UserError(f"{path}: wanted a file of labeled rows, {error.strerror or error}") from None
    return table


def _read_separated(path: Path, separator: str, header: bool) -> pd.DataFrame:
    quoting: Literal[0, 3] = csv.QUOTE_NONE if separator == "\t" and not header else csv.QUOTE_MINIMAL
    try:
        # The header is a row here, for pandas would make text and text.1 of two columns called text.
        table = pd.read_csv(
            path,
            dtype=str,
            keep_default_na=False,
            sep=separator,
            header=None,
            quoting=quoting,
            encoding="utf-8-sig",
            skip_blank_lines=True,
        )
    except pd.errors.ParserError:
        raise UserError(f"{path}: {_find_bad_line(path, separator, quoting)}") from None
    _refuse_short_rows(path, separator, quoting, len(table.columns))
    if header:
        table.columns = pd.Index(["" if pd.isna(name) else name for name in table.iloc[0]])
        table = table.iloc[1:]
    else:
        table.columns = pd.Index([str(number + 1) for number in range(len(table.columns))])
    table.index = pd.RangeIndex(1, len(table) + 1)
    return table


def _find_bad_line(path: Path, separator: str, quoting: Literal[0, 3]) -> str:
    """What pandas could not read. It counts rows and calls them lines, but a quoted text may go over several."""
    n_fields, line = 0, 1
    for line, row in _rows_by_line(path, separator, quoting):
        n_fields = n_fields or len(row)
        if len(row) > n_fields:
            return f"line {line}: wanted {n_fields} field{'s' if n_fields > 1 else ''}, given {len(row)}"
    return f"line {line}: wanted a quote that ends the text, the file ends first"


def _refuse_short_rows(path: Path, separator: str, quoting: Literal[0, 3], n_fields: int) -> None:
    """UserError where pandas put empty text for fields that a row has not: a row without labels, it would seem."""
    for line, row in _rows_by_line(path, separator, quoting):
        is_blank = len(row) == 1 and not row[0].strip()  # pandas passes over it
        if len(row) < n_fields and not is_blank:
            raise UserError(f"{path}: line {line}: wanted {n_fields} fields, given {len(row)}")


def _rows_by_line(path: Path, separator: str, quoting: Literal[0, 3]) -> Iterator[tuple[int, list[str]]]:
    """The line that each row begins in, and its fields; no empty lines."""
    csv.field_size_limit(2**31 - 1)  # an open quote makes one text of the rest
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=separator, quoting=quoting)
        next_line = 1
        for row in reader:
            line, next_line = next_line, reader.line_num + 1
            if row:
                yield line, row


def _read_json_lines(path: Path) -> pd.DataFrame:
    rows: dict[int, dict[str, Any]] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                problem = f"{error.msg.removesuffix(' at')} at column {error.colno}"
                raise UserError(f"{path}: line {number}: wanted a JSON object, {problem}") from None
            except (ValueError, RecursionError):
                raise UserError(f"{path}: line {number}: wanted a JSON object, it is too deep or too long") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}: line {number}: wanted a JSON object, given {params.describe(row)}")
            if half := HALF_A_CHARACTER.search(line) and HALF.search(json.dumps(row, ensure_ascii=False)):
                told = f"wanted characters, given half of one, \\u{ord(half.group()):x}"
                raise UserError(f"{path}: line {number}: {told}")
            rows[number] = row
    return pd.DataFrame(list(rows.values()), index=list(rows), dtype=object)


# JSON writes a character beyond U+FFFF as two escapes; one alone is no text that UTF-8 knows.
HALF_A_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
HALF = re.compile("[\ud800-\udfff]")


def _find_bad_byte(path: Path) -> str:
    """The first byte that is no UTF-8; pandas knows its place within a part of the file only."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            return f"line {number}: wanted UTF-8 text, byte {error.start + 1} of the line is none"
    raise AssertionError(path)


def as_text(value: Any) -> str:
    """A value of a cell as text; nothing is the empty text, and a whole number has no point.

    >>> as_text(None), as_text(2.0), as_text(True)
    ('', '2', 'true')
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and pd.isna(value)) or value is pd.NA:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")  # a Parquet file need not say that its bytes are text
    return str(value)


def some(values: list[str], n_shown: int = 5) -> str:
    """The first few values for the line of an error, long ones cut.

    >>> some(["a", "b", "c"], n_shown=2)
    'a, b and 1 more'
    """
    shown = [value if value.isprintable() and len(value) <= 60 else repr(value[:60])[:60] for value in values[:n_shown]]
    return ", ".join(shown) + (f" and {len(values) - n_shown} more" if len(values) > n_shown else "")
