"""Parquet tables with a fixed layout: the same rows give the same bytes, whatever wrote them when.

    with TableWriter(path, CORPUS) as table:
        table.write({"doc_id": "…", "source": "python", "path": "abc.py", "text": "…", "n_bytes": 3})

Rows are buffered and written as row groups, so that memory does not grow with the table. A file appears under
its name when it is whole.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from llm.core.errors import UserError

SPLITS = ("train", "val", "test")

# One row a document of prepared text. `doc_id` is a hash of its text, `n_bytes` its length in UTF-8.
CORPUS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("text", pa.large_string()),
        ("n_bytes", pa.int64()),
    ]
)

# Columns with few different values, which a dictionary makes small; for all other ones it would be lost work.
REPEATING = {"source", "split", "label", "length"}


def tokens_schema(vocab_size: int) -> pa.Schema:
    """One row a document: its token ids, in 16 bits where the vocabulary allows."""
    width = pa.uint16() if vocab_size <= 1 << 16 else pa.uint32()
    columns = [("doc_id", pa.string()), ("source", pa.string()), ("path", pa.string())]
    return pa.schema([*columns, ("ids", pa.large_list(width)), ("n_tokens", pa.int64()), ("n_bytes", pa.int64())])


def segmentation_names(tokens: Path) -> list[str]:
    """The tables of train with dropped merges that stand beside it: train-1, train-2, …"""
    return sorted((path.stem for path in tokens.glob("train-*.parquet")), key=lambda name: int(name.partition("-")[2]))


class TableWriter:
    """Writes rows to a Parquet file, `group_bytes` of payload to a row group; zstd, no pandas metadata."""

    def __init__(self, path: Path, schema: pa.Schema, group_bytes: int = 16_000_000):
        self.path, self.schema, self.group_bytes = path, schema, group_bytes
        self.n_rows = 0
        self._rows: dict[str, list[Any]] = {name: [] for name in schema.names}
        self._tables: list[pa.Table] = []
        self._buffered = 0

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part = self.path.with_name(self.path.name + ".part")
        repeating = [name for name in self.schema.names if name in REPEATING]
        self._file = pq.ParquetWriter(self._part, self.schema, compression="zstd", use_dictionary=repeating or False)
        return self

    def write(self, row: dict[str, Any], n_bytes: int = 64) -> None:
        """Add one row; `n_bytes` is about what it weighs, and decides when a row group is full."""
        for name, values in self._rows.items():
            values.append(row[name])
        self._added(1, n_bytes)

    def append(self, table: pa.Table) -> None:
        """Add all rows of a table of the same schema, without a Python object for each."""
        self._close_rows()
        self._tables.append(table)
        self._added(table.num_rows, table.nbytes)

    def _added(self, n_rows: int, n_bytes: int) -> None:
        self.n_rows += n_rows
        self._buffered += n_bytes
        if self._buffered >= self.group_bytes:
            self._flush()

    def _close_rows(self) -> None:
        if self._rows[self.schema.names[0]]:
            self._tables.append(pa.table(self._rows, schema=self.schema))
            self._rows = {name: [] for name in self.schema.names}

    def _flush(self) -> None:
        self._close_rows()
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


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A whole table, or some of its columns; UserError where the file is no such table."""
    try:
        return pq.read_table(path, columns=columns)
    except FileNotFoundError:
        raise UserError(f"{path}: expected a Parquet table, it is missing") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: expected a Parquet table, {str(error).splitlines()[0]}") from None


def iterate_batches(path: Path, columns: list[str], batch_rows: int = 64) -> Iterator[pa.RecordBatch]:
    """A table a few rows at a time; UserError where the file is no such table."""
    try:
        table = pq.ParquetFile(path, pre_buffer=False)  # it would keep all that was read, to the end of the file
    except FileNotFoundError:
        raise UserError(f"{path}: expected a Parquet table, it is missing") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: expected a Parquet table, {str(error).splitlines()[0]}") from None
    with table:
        yield from table.iter_batches(batch_size=batch_rows, columns=columns, use_threads=False)


def iterate_rows(path: Path, columns: list[str], batch_rows: int = 64) -> Iterator[dict[str, Any]]:
    """The rows in order, a few at a time in memory."""
    for batch in iterate_batches(path, columns, batch_rows):
        yield from batch.to_pylist()


# A table without rows may say why in its schema: then to have nothing to do with it is no mistake.
_EMPTY_BECAUSE = b"groundup.empty_reason"


def with_reason(schema: pa.Schema, reason: str) -> pa.Schema:
    """The schema of a table that has no rows for a good reason."""
    return schema.with_metadata({_EMPTY_BECAUSE: reason.encode()})


def empty_reason(path: Path) -> str | None:
    """The reason that a Parquet table without rows gives, or None; UserError where the file is no such table."""
    try:
        reason = (pq.read_schema(path).metadata or {}).get(_EMPTY_BECAUSE)
    except FileNotFoundError:
        raise UserError(f"{path}: expected a Parquet table, it is missing") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: expected a Parquet table, {str(error).splitlines()[0]}") from None
    return reason.decode() if reason else None


def count_rows(path: Path) -> int:
    """How many rows a table has, read from its footer."""
    return int(pq.read_metadata(path).num_rows)
