"""Write and read Parquet tables; equal rows give equal bytes.

    with TableWriter(path, CORPUS) as table:
        table.write({"doc_id": "…", "source": "python", "path": "abc.py", "text": "…", "n_bytes": 3})

Rows are buffered and written as row groups. The file appears under its name when it is complete.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from llm.core.errors import UserError

SPLITS = ("train", "val", "test")
# One document in each row. `doc_id` is a hash of its text, `n_bytes` its length in UTF-8.
_ORIGIN = [("doc_id", pa.string()), ("source", pa.string()), ("path", pa.string())]
CORPUS = pa.schema([*_ORIGIN, ("text", pa.large_string()), ("n_bytes", pa.int64())])
# Columns with few distinct values; a dictionary encoding of any other column costs time and saves no space.
DICTIONARY_COLUMNS = {"source", "split", "label", "length"}
EMPTY_REASON = b"groundup.empty_reason"


def tokens_schema(vocab_size: int) -> pa.Schema:
    """Return the schema of tokenized documents; ids take 16 bits if the vocabulary fits."""
    width = pa.uint16() if vocab_size <= 1 << 16 else pa.uint32()
    return pa.schema([*_ORIGIN, ("ids", pa.large_list(width)), ("n_tokens", pa.int64()), ("n_bytes", pa.int64())])


def segmentation_names(tokens: Path) -> list[str]:
    """Return the names train-1, train-2, … of the tables of train that BPE dropout made."""
    return sorted((path.stem for path in tokens.glob("train-*.parquet")), key=lambda name: int(name.partition("-")[2]))


class TableWriter:
    """Write rows to a zstd-compressed Parquet file without pandas metadata, `group_bytes` to a row group."""

    def __init__(self, path: Path, schema: pa.Schema, group_bytes: int = 16_000_000):
        self.path, self.schema, self.group_bytes = path, schema, group_bytes
        self._rows: list[dict[str, Any]] = []
        self._tables: list[pa.Table] = []
        self._buffered = 0

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part = self.path.with_name(self.path.name + ".part")
        dictionary = [name for name in self.schema.names if name in DICTIONARY_COLUMNS]
        self._file = pq.ParquetWriter(self._part, self.schema, compression="zstd", use_dictionary=dictionary or False)
        return self

    def write(self, row: dict[str, Any], n_bytes: int = 64) -> None:
        """Add one row; `n_bytes` is its approximate size, which decides when a row group is full."""
        self._rows.append({name: row[name] for name in self.schema.names})
        self._count(n_bytes)

    def append(self, table: pa.Table) -> None:
        """Add all rows of a table of the same schema."""
        self._collect()
        self._tables.append(table)
        self._count(table.nbytes)

    def _count(self, n_bytes: int) -> None:
        self._buffered += n_bytes
        if self._buffered >= self.group_bytes:
            self._flush()

    def _collect(self) -> None:
        if self._rows:
            self._tables.append(pa.Table.from_pylist(self._rows, schema=self.schema))
            self._rows = []

    def _flush(self) -> None:
        self._collect()
        if self._tables:
            self._file.write_table(pa.concat_tables(self._tables))
        self._tables, self._buffered = [], 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._file:
                if kind is None:
                    self._flush()
            if kind is None:
                self._part.replace(self.path)
        finally:
            self._part.unlink(missing_ok=True)


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: expected a Parquet table, it is missing") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: expected a Parquet table, got: {str(error).splitlines()[0]}") from None


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a table, or some of its columns; UserError if the file is missing or not a table."""
    with _named_errors(path):
        return pq.read_table(path, columns=columns)


def iterate_batches(path: Path, columns: list[str], batch_rows: int = 64) -> Iterator[pa.RecordBatch]:
    """Read a table in batches of rows; UserError as `read_table`."""
    with _named_errors(path):
        table = pq.ParquetFile(path, pre_buffer=False)  # pre_buffer would keep the whole file in memory
    with table:
        yield from table.iter_batches(batch_size=batch_rows, columns=columns, use_threads=False)


def iterate_rows(path: Path, columns: list[str], batch_rows: int = 64) -> Iterator[dict[str, Any]]:
    """Yield the rows in order, with few of them in memory at a time."""
    for batch in iterate_batches(path, columns, batch_rows):
        yield from batch.to_pylist()


def with_reason(schema: pa.Schema, reason: str) -> pa.Schema:
    """Return the schema of a table that is empty for a reason, so that a stage that reads it is skipped, not failed."""
    return schema.with_metadata({EMPTY_REASON: reason.encode()})


def empty_reason(path: Path) -> str | None:
    """Return the reason that an empty table states, or None; UserError as `read_table`."""
    with _named_errors(path):
        reason = (pq.read_schema(path).metadata or {}).get(EMPTY_REASON)
    return reason.decode() if reason else None
