"""A file of labeled rows as a table: CSV and TSV with or without a header, JSON lines or array, Parquet."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from llm.core.errors import UserError
from llm.corpus.readers.rows import SUFFIXES, Rows, open_rows
from llm.corpus.readers.streams import ContentError


def read_file(path: Path, header: bool = True, encoding: str | None = None) -> tuple[pd.DataFrame, Rows]:
    """Return rows, numbered from 1 or by lines of JSON, with their encoding and dialect; UserError in one line."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: expected a {', '.join(SUFFIXES)} file, got {path.suffix or 'no suffix'}")
    try:
        with open_rows(path, header, encoding) as rows:
            found = list(rows)
    except ContentError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: expected a file of labeled rows, got an error: {error.strerror or error}") from None
    index = [row.number for row in found]
    return pd.DataFrame([row.values for row in found], index=index, columns=rows.columns, dtype=object), rows


def as_text(value: Any) -> str:
    """Return the value of a cell as text; a missing value is empty, and a whole number has no decimal point.

    >>> as_text(None), as_text(2.0), as_text(True)
    ('', '2', 'true')
    """
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            # NaN: a JSON row without the key.
            return "" if math.isnan(value) else str(int(value) if value.is_integer() else value)
        case bytes():  # a Parquet file need not declare bytes as text
            return value.decode(errors="backslashreplace")
    return str(value)


def some(values: list[str], n_shown: int = 5) -> str:
    """Return the first values on one line, long ones shortened.

    >>> some(["a", "b", "c"], n_shown=2)
    'a, b and 1 more'
    """
    shown = [value if value.isprintable() and len(value) <= 60 else repr(value[:60])[:60] for value in values[:n_shown]]
    return ", ".join(shown) + (f" and {len(values) - n_shown} more" if len(values) > n_shown else "")
