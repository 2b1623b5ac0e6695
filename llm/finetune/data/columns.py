"""A file of rows in, the same file with columns more out: CSV, TSV, JSON lines or array, Parquet, of any size.

    text              ──add──►      text            prediction
    the rain falls                  the rain falls  rain

A chunk of rows is in memory at a time. The output has the input's delimiter and rule of quotes, in UTF-8. It takes
its place when it is whole, and what was there stays as it was until then.
"""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llm.core import params
from llm.core.errors import UserError
from llm.corpus.readers.encodings import Encoding
from llm.corpus.readers.rows import SEPARATED, open_rows
from llm.corpus.readers.streams import ContentError
from llm.finetune.data.reading import JSON, as_text

Value = str | float | None
# The texts of some rows, a list a row → the values that are added, a list a row.
Add = Callable[[list[list[str]]], list[list[Value]]]


@dataclass(frozen=True)
class Change:
    """Which columns of a file are read, which are added (a text first, numbers after it), how many rows at a time.

    Without a `header` the columns of a .csv or .tsv are called 1, 2, …, and the output has none either. The
    `encoding` is None where it is to be found.
    """

    texts: Sequence[str]
    names: Sequence[str]
    header: bool
    chunk_rows: int
    encoding: str | None = None

    def check(self, columns: list[str], file: Path) -> None:
        """UserError where the file has not got what is read, or has what is to be added."""
        if missing := [column for column in self.texts if column not in columns]:
            raise UserError(
                f"{file}: wanted the columns {', '.join(self.texts)}; {', '.join(missing)} is not among "
                f"{', '.join(map(str, columns))}"
            )
        if again := [column for column in self.texts if columns.count(column) > 1]:
            raise UserError(f"{file}: {again[0]}: expected one column of this name, got several")
        if taken := [name for name in self.names if name in columns]:
            raise UserError(f"{file}: wanted no column {taken[0]}, for one is to be added, given one")


def add_columns(file: Path, out: Path, change: Change, add: Add) -> Encoding | None:
    """Write the rows of `file` with what `add` says of their texts to `out`, in the same format; gives its encoding.

    UserError in one line for a file that cannot be read to its end, or has not got the columns.
    """
    convert = FORMATS.get(file.suffix.lower())
    if convert is None:
        raise UserError(f"{file}: wanted a {', '.join(FORMATS)} file, given {file.suffix or 'no ending'}")
    if not file.is_file():
        raise UserError(f"{file}: wanted a file of rows, there is none")
    if out.suffix.lower() != file.suffix.lower() or out.resolve() == file.resolve():
        raise UserError(f"{out}: wanted another {file.suffix} file than {file} to write to")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    try:
        encoding = convert(file, part, change, add)
        part.replace(out)
        return encoding
    except ContentError as error:
        raise UserError(f"{file}: {error}") from None
    finally:
        part.unlink(missing_ok=True)


def _convert_separated(file: Path, part: Path, change: Change, add: Add) -> Encoding | None:
    with (
        open_rows(file, change.header, change.encoding) as rows,
        part.open("w", newline="", encoding="utf-8") as target,
    ):
        assert rows.columns is not None and rows.dialect is not None
        change.check(rows.columns, file)
        places = [rows.columns.index(name) for name in change.texts]
        writer = csv.writer(target, lineterminator="\n", **rows.dialect.options)
        try:
            if change.header:
                writer.writerow([*rows.columns, *change.names])
            while chunk := [row.values for row in islice(rows, change.chunk_rows)]:
                added = add([[row[place] for place in places] for row in chunk])
                writer.writerows([*row, *values] for row, values in zip(chunk, added, strict=True))
        except csv.Error as error:  # a label with a tab or a line break, where no quotes enclose cells
            problem = f"expected values that need no quotes ({rows.dialect}), got others: {error}"
            raise UserError(f"{file}: {problem}") from None
        return rows.encoding


def _convert_json(file: Path, part: Path, change: Change, add: Add) -> Encoding | None:
    """Lines stay lines, and an array stays an array."""
    with open_rows(file, encoding=change.encoding) as rows, part.open("w", encoding="utf-8") as target:
        begin, between, end = ("[\n", ",\n", "\n]\n") if rows.is_array else ("", "\n", "\n")
        mark = begin
        while chunk := list(islice(rows, change.chunk_rows)):
            for row in chunk:
                change.check(list(row.values), file)
            texts = [
                [_read_text(row.values[name], name, f"{file}: {row.place}") for name in change.texts] for row in chunk
            ]
            for row, values in zip(chunk, add(texts), strict=True):
                whole = row.values | dict(zip(change.names, values, strict=True))
                target.write(mark + json.dumps(whole, ensure_ascii=False))
                mark = between
        target.write(end if mark == between else begin + end.lstrip("\n"))
        return rows.encoding


def _convert_parquet(file: Path, part: Path, change: Change, add: Add) -> None:
    try:
        with pq.ParquetFile(file) as source:
            given = source.schema_arrow
            change.check(given.names, file)
            kinds = [pa.string(), *(pa.float64() for _ in change.names[1:])]
            schema = pa.schema([*given, *map(pa.field, change.names, kinds)], metadata=given.metadata)
            with pq.ParquetWriter(part, schema) as writer:
                number = 0
                for batch in source.iter_batches(change.chunk_rows):
                    texts: list[list[str]] = []
                    for row in zip(*(batch.column(name).to_pylist() for name in change.texts), strict=True):
                        number += 1
                        values = zip(row, change.texts, strict=True)
                        texts.append([_read_text(value, name, f"{file}: row {number}") for value, name in values])
                    added = add(texts)
                    arrays = [pa.array([row[place] for row in added], kind) for place, kind in enumerate(kinds)]
                    writer.write_batch(pa.RecordBatch.from_arrays([*batch.columns, *arrays], schema=schema))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: wanted .parquet rows, {' '.join(str(error).split())}") from None


def _read_text(value: Any, name: str, where: str) -> str:
    if isinstance(value, dict | list):
        raise UserError(f"{where}: {name}: wanted text, given {params.describe(value)}")
    return as_text(value)


FORMATS: dict[str, Callable[[Path, Path, Change, Add], Encoding | None]] = {
    **dict.fromkeys(SEPARATED, _convert_separated),
    **dict.fromkeys(JSON, _convert_json),
    ".parquet": _convert_parquet,
}
