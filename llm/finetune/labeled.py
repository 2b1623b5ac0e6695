"""A file of labeled rows in, rows in three splits out; what is wrong with it is named with its row.

CSV and TSV with a header, JSON lines, Parquet.
"""

from pathlib import Path

import pandas as pd

from llm.errors import UserError
from llm.text.clean import document_id
from llm.text.split import split_of
from llm.text.tables import SPLITS

# Where a file brings no splits of its own, these shares are held out by a hash of the text.
VAL_SHARE, TEST_SHARE = 0.1, 0.2


def read_labeled(path: Path, columns: list[str], split_column: str | None) -> pd.DataFrame:
    """The named columns as text, and a column `split`. Raises UserError for a file that has not got them.

    Rows where one of the columns is empty are an error: their numbers (the first data row is 1) are named.
    """
    table = _read(path)
    wanted = [*columns, *([split_column] if split_column else [])]
    if missing := [column for column in wanted if column not in table.columns]:
        raise UserError(
            f"{path}: wanted the columns {', '.join(wanted)}; {', '.join(missing)} is not among "
            f"{', '.join(map(str, table.columns))}"
        )
    if table.empty:
        raise UserError(f"{path}: wanted labeled rows, given none")
    rows = table[wanted].copy()
    for column in wanted:
        empty = rows[column].isna() | (rows[column].astype(str).str.strip() == "")
        if empty.any():
            numbers = [str(number + 1) for number in empty.to_numpy().nonzero()[0]]
            raise UserError(f"{path}: {column}: wanted text in every row, empty in row {_some(numbers)}")
        rows[column] = rows[column].astype(str)
    if split_column is None:
        rows["split"] = [split_of(document_id(text), VAL_SHARE, TEST_SHARE) for text in rows[columns[0]]]
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
                return pd.read_csv(path, dtype=str, keep_default_na=False)
            case ".tsv":
                return pd.read_csv(path, dtype=str, keep_default_na=False, sep="\t")
            case ".jsonl":
                return pd.read_json(path, lines=True, dtype=False)
            case ".parquet":
                return pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: wanted a file of labeled rows, there is none") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: wanted a header and labeled rows, the file is empty") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: wanted {path.suffix} rows, {str(error).splitlines()[0]}") from None
    raise UserError(f"{path}: wanted a .csv, .tsv, .jsonl or .parquet file, given {path.suffix or 'no ending'}")


def _some(values: list[str]) -> str:
    return ", ".join(values[:5]) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
