"""A file of rows in, the same file with columns more out: CSV, TSV, JSON lines, Parquet, of any size.

    text              ──add──►      text            prediction
    the rain falls                  the rain falls  rain

A chunk of rows is in memory at a time. The output takes its place when it is whole, and what was there stays as it was
until then.
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from llm import params
from llm.errors import UserError
from llm.finetune.reading import as_text

Value = str | float | None
# The texts of some rows, a list a row → the values that are added, a list a row.
Add = Callable[[list[list[str]]], list[list[Value]]]


@dataclass(frozen=True)
class Change:
    """Which columns of a file are read, which are added (a text first, numbers after it), how many rows at a time.

    Without a `header` the columns of a .csv or .tsv are called 1, 2, …, and the output has none either.
    """

    texts: Sequence[str]
    names: Sequence[str]
    header: bool
    chunk_rows: int

    def check(self, columns: Sequence[str], file: Path) -> None:
        """UserError where the file has not got what is read, or has what is to be added."""
        if missing := [column for column in self.texts if column not in columns]:
            raise UserError(
                f"{file}: wanted the columns {', '.join(self.texts)}; {', '.join(missing)} is not among "
                f"{', '.join(map(str, columns))}"
            )
        if taken := [name for name in self.names if name in columns]:
            raise UserError(f"{file}: wanted no column {taken[0]}, for one is to be added, given one")


def add_columns(file: Path, out: Path, change: Change, add: Add) -> None:
    """Write the rows of `file` with what `add` says of their texts to `out`, in the same format.

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
        convert(file, part, change, add)
        part.replace(out)
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: wanted UTF-8, {error.reason}") from None
    finally:
        part.unlink(missing_ok=True)


def _convert_separated(file: Path, part: Path, change: Change, add: Add) -> None:
    separator = "\t" if file.suffix.lower() == ".tsv" else ","
    # As in `llm.finetune.reading`: without a header quotes in a .tsv are text.
    quotes: Literal[0, 3] = csv.QUOTE_NONE if separator == "\t" and not change.header else csv.QUOTE_MINIMAL
    mark = None if quotes == csv.QUOTE_NONE else '"'
    csv.field_size_limit(2**31 - 1)  # a text may be a whole document
    with file.open(newline="", encoding="utf-8-sig") as source, part.open("w", newline="", encoding="utf-8") as target:
        rows = _read_separated(csv.reader(source, delimiter=separator, quoting=quotes, quotechar=mark), file)
        first = next(rows, None)
        if first is None:
            raise UserError(f"{file}: wanted {'a header and ' if change.header else ''}rows, the file is empty")
        columns = first if change.header else [str(number) for number in range(1, len(first) + 1)]
        change.check(columns, file)
        places = [columns.index(name) for name in change.texts]
        writer = csv.writer(target, delimiter=separator, quoting=quotes, quotechar=mark, lineterminator="\n")
        if change.header:
            writer.writerow([*columns, *change.names])
        numbered = enumerate(rows if change.header else chain([first], rows), start=1)
        while chunk := list(islice(numbered, change.chunk_rows)):
            for number, row in chunk:
                if len(row) != len(columns):
                    raise UserError(f"{file}: row {number}: wanted {len(columns)} fields, given {len(row)}")
            added = add([[row[place] for place in places] for _, row in chunk])
            writer.writerows([*row, *values] for (_, row), values in zip(chunk, added, strict=True))


def _read_separated(reader: Iterator[list[str]], file: Path) -> Iterator[list[str]]:
    """The rows that are not empty."""
    try:
        yield from (row for row in reader if row)
    except csv.Error as error:
        raise UserError(f"{file}: wanted {file.suffix} rows, {error}") from None


def _convert_json_lines(file: Path, part: Path, change: Change, add: Add) -> None:
    with file.open(encoding="utf-8-sig") as source, part.open("w", encoding="utf-8") as target:
        numbered = ((number, line) for number, line in enumerate(source, start=1) if line.strip())
        while chunk := list(islice(numbered, change.chunk_rows)):
            rows = [_read_object(line, number, change, file) for number, line in chunk]
            added = add(
                [
                    [_read_text(row[name], name, f"{file}: line {number}") for name in change.texts]
                    for row, (number, _) in zip(rows, chunk, strict=True)
                ]
            )
            for row, values in zip(rows, added, strict=True):
                whole = row | dict(zip(change.names, values, strict=True))
                target.write(json.dumps(whole, ensure_ascii=False) + "\n")


def _read_object(line: str, number: int, change: Change, file: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: line {number}: wanted a JSON object, {error}") from None
    if not isinstance(row, dict):
        raise UserError(f"{file}: line {number}: wanted a JSON object, given {params.describe(row)}")
    change.check(list(row), file)
    return row


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
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: wanted .parquet rows, {' '.join(str(error).split())}") from None


def _read_text(value: Any, name: str, where: str) -> str:
    if isinstance(value, dict | list):
        raise UserError(f"{where}: {name}: wanted text, given {params.describe(value)}")
    return as_text(value)


FORMATS: dict[str, Callable[[Path, Path, Change, Add], None]] = {
    ".csv": _convert_separated,
    ".tsv": _convert_separated,
    ".jsonl": _convert_json_lines,
    ".parquet": _convert_parquet,
}
