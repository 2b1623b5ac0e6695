"""A file of labeled rows in, a table of its rows out, numbered as an editor shows them.

CSV and TSV with a header or without, JSON lines, Parquet. Nothing is guessed: values of a .csv or .tsv are text.
"""

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd

from llm import params
from llm.errors import UserError


def read_file(path: Path, header: bool = True) -> pd.DataFrame:
    """All columns and rows; the index counts rows from 1, and lines of a .jsonl file.

    Without a `header` the columns of a .csv or .tsv are called 1, 2, …; in such a .tsv quotes are text, and each line
    is a row. UserError in one line for a file that is not of its kind.
    """
    try:
        match path.suffix.lower():
            case ".csv":
                return _read_separated(path, ",", header)
            case ".tsv":
                return _read_separated(path, "\t", header)
            case ".jsonl":
                return _read_json_lines(path)
            case ".parquet":
                table = pd.read_parquet(path).astype(object)
                table.index = pd.RangeIndex(1, len(table) + 1)
                return table
    except FileNotFoundError:
        raise UserError(f"{path}: wanted a file of labeled rows, there is none") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: wanted a header and labeled rows, the file is empty") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: wanted UTF-8 text (utf-8), {_where(path, error)} is none") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: wanted {path.suffix} rows, {str(error).splitlines()[0].strip()}") from None
    raise UserError(f"{path}: wanted a .csv, .tsv, .jsonl or .parquet file, given {path.suffix or 'no ending'}")


def _read_separated(path: Path, separator: str, header: bool) -> pd.DataFrame:
    plain = separator == "\t" and not header
    table = pd.read_csv(
        path,
        dtype=str,
        keep_default_na=False,
        sep=separator,
        header=0 if header else None,
        quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL,
        encoding="utf-8-sig",
        skip_blank_lines=True,
    )
    # With a field more than the header in each row, pandas takes the first field for the row's name.
    if not isinstance(table.index, pd.RangeIndex):
        raise UserError(
            f"{path}: wanted rows of as many fields as the header has, {len(table.columns)}, row 1 has more"
        )
    if not header:
        table.columns = pd.Index([str(number + 1) for number in range(len(table.columns))])
    table.index = pd.RangeIndex(1, len(table) + 1)
    return table


def _read_json_lines(path: Path) -> pd.DataFrame:
    rows: dict[int, dict[str, Any]] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}: line {number}: wanted a JSON object, {error}") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}: line {number}: wanted a JSON object, given {params.describe(row)}")
            rows[number] = row
    return pd.DataFrame(list(rows.values()), index=list(rows), dtype=object)


def _where(path: Path, error: UnicodeDecodeError) -> str:
    """The line of the first byte that is no UTF-8; pandas knows its place within a part of the file only."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            line.decode()
        except UnicodeDecodeError as here:
            return f"byte {here.start + 1} of line {number}"
    return f"byte {error.start + 1}"


def as_text(value: Any) -> str:
    """A value of a cell as text; nothing is the empty text, and a whole number has no point."""
    if value is None or (isinstance(value, float) and pd.isna(value)) or value is pd.NA:
        return ""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
