"""Add columns to a file of rows of any size: CSV, TSV, JSON lines or array, Parquet.

    text              ──add──►      text            prediction
    the rain falls                  the rain falls  rain

One chunk of rows is in memory at a time. The output has the delimiter and quoting of the input, in UTF-8, and replaces
an older one when it is complete.
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llm.core import params
from llm.core.errors import UserError
from llm.corpus.readers.encodings import Encoding
from llm.corpus.readers.rows import SEPARATED, SUFFIXES, Row, Rows, open_rows
from llm.corpus.readers.streams import ContentError
from llm.finetune.data.reading import as_text

Value = str | float | None
# The texts of each row → the added values of each row.
Add = Callable[[list[list[str]]], list[list[Value]]]


@dataclass(frozen=True)
class Change:
    """The columns to read and to add (the first is text, others are numbers), and the rows per chunk.

    Without a `header` the columns of a .csv or .tsv are called 1, 2, …, and the output has no header either.
    """

    texts: Sequence[str]
    names: Sequence[str]
    header: bool
    chunk_rows: int
    encoding: str | None = None

    def check(self, columns: list[str]) -> None:
        """Raise ContentError where a column to read is missing, or one to add exists."""
        problem = None
        if missing := [column for column in self.texts if column not in columns]:
            problem = f"expected columns {', '.join(missing)}, got {', '.join(map(str, columns))}"
        elif several := [column for column in self.texts if columns.count(column) > 1]:
            problem = f"{several[0]}: expected one column of this name, got several"
        elif taken := [name for name in self.names if name in columns]:
            problem = f"expected no column {taken[0]}, which is to be added, got one"
        if problem:
            raise ContentError("columns", problem)


def add_columns(file: Path, out: Path, change: Change, add: Add) -> Encoding | None:
    """Write the rows of `file` with the values of `add` to `out`, in the same format; return the encoding.

    UserError in one line for a file that cannot be read to its end or lacks the columns.
    """
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{file}: expected a {', '.join(SUFFIXES)} file, got {suffix or 'no suffix'}")
    if not file.is_file():
        raise UserError(f"{file}: expected a file of rows, there is none")
    if out.suffix.lower() != suffix or out.resolve() == file.resolve():
        raise UserError(f"{out}: expected another {suffix} file than {file} to write to")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    write = _write_separated if suffix in SEPARATED else _write_parquet if suffix == ".parquet" else _write_json
    try:
        with open_rows(file, change.header, change.encoding) as rows:
            if rows.columns is not None:
                change.check(rows.columns)
            write(file, part, rows, change, add)
        part.replace(out)
        return rows.encoding
    except (ContentError, pa.ArrowException, csv.Error) as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}") from None
    finally:
        part.unlink(missing_ok=True)


def _chunks(rows: Rows, change: Change, add: Add) -> Iterator[tuple[list[Row], list[list[Value]]]]:
    """Yield rows, a chunk at a time, with the values that are added."""
    while chunk := list(islice(rows, change.chunk_rows)):
        yield chunk, add([_texts_of(row, rows.columns, change) for row in chunk])


def _texts_of(row: Row, columns: list[str] | None, change: Change) -> list[str]:
    values = dict(zip(columns, row.values, strict=True)) if isinstance(row.values, list) and columns else row.values
    change.check(list(values)) if columns is None else None
    for name in change.texts:
        if isinstance(values[name], dict | list):
            raise ContentError("text", f"{row.place}: {name}: expected text, got {params.describe(values[name])}")
    return [as_text(values[name]) for name in change.texts]


def _write_separated(file: Path, part: Path, rows: Rows, change: Change, add: Add) -> None:
    assert rows.columns is not None and rows.dialect is not None
    with part.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target, lineterminator="\n", **rows.dialect.options)
        if change.header:
            writer.writerow([*rows.columns, *change.names])
        for chunk, added in _chunks(rows, change, add):
            try:
                writer.writerows([*row.values, *values] for row, values in zip(chunk, added, strict=True))
            except csv.Error as error:  # a label with a tab or a line break, where quotes are text
                raise ContentError(
                    "quotes", f"expected values without quotes ({rows.dialect}), got others: {error}"
                ) from None


def _write_json(file: Path, part: Path, rows: Rows, change: Change, add: Add) -> None:
    """Write lines as lines and an array as an array."""
    begin, between, end = ("[\n", ",\n", "\n]\n") if rows.is_array else ("", "\n", "\n")
    with part.open("w", encoding="utf-8") as target:
        mark = begin
        for chunk, added in _chunks(rows, change, add):
            for row, values in zip(chunk, added, strict=True):
                whole = row.values | dict(zip(change.names, values, strict=True))
                target.write(mark + json.dumps(whole, ensure_ascii=False))
                mark = between
        target.write(end if mark == between else begin + end.lstrip("\n"))


def _write_parquet(file: Path, part: Path, rows: Rows, change: Change, add: Add) -> None:
    """Write a table with the schema of the input, its metadata included."""
    with pq.ParquetFile(file) as source:
        schema, kinds = source.schema_arrow, [pa.string(), *(pa.float64() for _ in change.names[1:])]
        whole = pa.schema([*schema, *map(pa.field, change.names, kinds)], metadata=schema.metadata)
        batches = source.iter_batches(change.chunk_rows)
        with pq.ParquetWriter(part, whole) as writer:
            for batch, (_, added) in zip(batches, _chunks(rows, change, add), strict=True):
                arrays = [pa.array([row[place] for row in added], kind) for place, kind in enumerate(kinds)]
                writer.write_batch(pa.RecordBatch.from_arrays([*batch.columns, *arrays], schema=whole))
