"""A file of labeled rows in, a table of its rows out, numbered as an editor shows them.

CSV and TSV with a header or without, JSON lines, a JSON array, Parquet. Values of a .csv or .tsv are text;
`llm.corpus.readers.rows` finds what separates them, and `RowsFile` says what was found.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llm.core.errors import UserError
from llm.corpus.readers.encodings import Encoding
from llm.corpus.readers.rows import JSON_LINES, SUFFIXES, open_rows
from llm.corpus.readers.streams import ContentError

JSON = (*JSON_LINES, ".json")


@dataclass(frozen=True)
class RowsFile:
    """All columns and rows; of a text file its encoding, and of a .csv or .tsv how its rows are separated.

    The index counts rows from 1, and lines where each is a JSON object.
    """

    table: pd.DataFrame
    encoding: Encoding | None = None
    dialect: str | None = None


def read_file(path: Path, header: bool = True, encoding: str | None = None) -> RowsFile:
    """Read a file of rows; its encoding is found unless one is given.

    Without a `header` the columns of a .csv or .tsv are called 1, 2, …. UserError in one line for a file that is not
    of its kind.
    """
    if path.is_dir():
        raise UserError(f"{path}: expected a file of labeled rows, got a folder")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: expected a {', '.join(SUFFIXES)} file, got {path.suffix or 'no ending'}")
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
