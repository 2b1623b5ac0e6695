"""A file of labeled rows in, rows in three splits out; what is wrong with it is named with its row.

CSV and TSV with a header, JSON lines, Parquet.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from llm import params
from llm.errors import UserError
from llm.text.clean import document_id
from llm.text.split import split_of
from llm.text.tables import SPLITS

# Where a file brings no splits of its own, these shares are held out by a hash of the text.
VAL_SHARE, TEST_SHARE = 0.1, 0.2


def read_labeled(
    path: Path, columns: list[str], split_column: str | None, may_be_empty: str | None = None
) -> pd.DataFrame:
    """The named columns as text, and a column `split`. Raises UserError for a file that has not got them.

    The last column is what is learned; without a `split_column` the hash of the others decides on the split. Rows
    where a column other than `may_be_empty` is empty are an error that names their numbers (the first row is 1).
    """
    wanted = [*columns, *([split_column] if split_column else [])]
    if len(set(wanted)) < len(wanted) or "split" in columns:
        raise UserError(
            f"{path}: wanted different columns, and none but the split's called split, given {', '.join(wanted)}"
        )
    table = _read(path)
    if table.empty:
        raise UserError(f"{path}: wanted labeled rows, given none")
    if missing := [column for column in wanted if column not in table.columns]:
        raise UserError(
            f"{path}: wanted the columns {', '.join(wanted)}; {', '.join(missing)} is not among "
            f"{', '.join(map(str, table.columns))}"
        )
    rows = table[wanted].copy()
    for column in wanted:
        rows[column] = rows[column].fillna("").astype(str)
        empty = rows[column].str.strip() == ""
        if empty.any() and column != may_be_empty:
            numbers = [str(number + 1) for number in empty.to_numpy().nonzero()[0]]
            raise UserError(f"{path}: {column}: wanted text in every row, empty in row {_some(numbers)}")
    if split_column is None:
        given = rows[columns[:-1]].agg("\0".join, axis=1)
        rows["split"] = [split_of(document_id(text), VAL_SHARE, TEST_SHARE) for text in given]
    else:
        rows = rows.rename(columns={split_column: "split"})
        if unknown := sorted(set(rows["split"]) - set(SPLITS)):
            raise UserError(f"{path}: {split_column}: wanted train, val or test, given {_some(unknown)}")
    for split in SPLITS:
        if not (rows["split"] == split).any():
            raise UserError(f"{path}: wanted rows in train, val and test, {split} has none of {len(rows)}")
    return rows.reset_index(drop=True)


def _read(path: Path) -> pd.DataFrame:
    try:
        match path.suffix.lower():
            case ".csv":
                return _read_separated(path, ",")
            case ".tsv":
                return _read_separated(path, "\t")
            case ".jsonl":
                return _read_json_lines(path)
            case ".parquet":
                return pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: wanted a file of labeled rows, there is none") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: wanted a header and labeled rows, the file is empty") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: wanted {path.suffix} rows, {str(error).splitlines()[0]}") from None
    raise UserError(f"{path}: wanted a .csv, .tsv, .jsonl or .parquet file, given {path.suffix or 'no ending'}")


def _read_separated(path: Path, separator: str) -> pd.DataFrame:
    table = pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator)
    # With a field more than the header in each row, pandas takes the first field for the row's name.
    if not isinstance(table.index, pd.RangeIndex):
        raise UserError(
            f"{path}: wanted rows of as many fields as the header has, {len(table.columns)}, row 1 has more"
        )
    return table


def _read_json_lines(path: Path) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}: line {number}: wanted a JSON object, {error}") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}: line {number}: wanted a JSON object, given {params.describe(row)}")
            rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def _some(values: list[str]) -> str:
    return ", ".join(values[:5]) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
