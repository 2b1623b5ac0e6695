"""A file of labeled rows as a table: CSV and TSV with or without a header, JSON lines or array, Parquet."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llm.core.errors import UserError
from llm.corpus.readers.encodings import Encoding
from llm.corpus.readers.rows import SUFFIXES, open_rows
from llm.corpus.readers.streams import ContentError


@dataclass(frozen=True)
class RowsFile:
    """Columns and rows, numbered from 1, or by lines of JSON; the encoding and the dialect of a text file."""

    table: pd.DataFrame
    encoding: Encoding | None = None
    dialect: str | None = None


def read_file(path: Path, header: bool = True, encoding: str | None = None) -> RowsFile:
    """Read a file of rows; UserError in one line for one that cannot be read."""
    if path.is_dir():
        raise UserError(f"{path}: expected a file of labeled rows, got a folder")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: expected a {', '.join(SUFFIXES)} file, got {path.suffix or 'no suffix'}")
    try:
        with open_rows(path, header, encoding) as rows:
            found = list(rows)
    except FileNotFoundError:
        raise UserError(f"{path}: expected a file of labeled rows, there is none") from None
    except ContentError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: expected a file of labeled rows, {error.strerror or error}") from None
    index = [row.number for row in found]
    table = pd.DataFrame([row.values for row in found], index=index, columns=rows.columns, dtype=object)
    return RowsFile(table, rows.encoding, str(rows.dialect) if rows.dialect else None)


def as_text(value: Any) -> str:
    """Return the value of a cell as text; a missing value is empty, and a whole number has no decimal point.

    >>> as_text(None), as_text(2.0), as_text(True)
    ('', '2', 'true')
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and pd.isna(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):  # a Parquet file need not declare bytes as text
        return value.decode(errors="backslashreplace")
    return str(value)


def some(values: list[str], n_shown: int = 5) -> str:
    """Return the first values on one line, long ones shortened.

    >>> some(["a", "b", "c"], n_shown=2)
    'a, b and 1 more'
    """
    shown = [value if value.isprintable() and len(value) <= 60 else repr(value[:60])[:60] for value in values[:n_shown]]
    return ", ".join(shown) + (f" and {len(values) - n_shown} more" if len(values) > n_shown else "")
