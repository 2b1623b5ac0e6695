"""Cleaned documents in a file, until it is clear which of them repeat an earlier one.

    Cleaned ──► Spool (one file, in order) ──find_duplicates──► Duplicates: which rule drops it, and its representative

Whether a document stays may depend on all documents before it, and its split on its near duplicates. In memory is
only a hash of each document, 16 bytes, and its signature where near duplicates are looked for.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from llm.core.tables import CORPUS
from llm.corpus.clean import Cleaned
from llm.corpus.duplicates import representatives
from llm.corpus.params import CleanParams

SPOOL = CORPUS.append(pa.field("signature", pa.binary()))
RULES = ("", "exact_duplicate", "near_duplicate")


class Spool:
    """Documents in a file, in their order; read again in batches of about `batch_bytes` of text."""

    def __init__(self, path: Path, batch_bytes: int = 8_000_000):
        self.path, self.batch_bytes = path, batch_bytes
        self._ids = bytearray()
        self._rows: list[Cleaned] = []
        self._buffered = 0

    def __enter__(self) -> Self:
        self._file = pa.OSFile(str(self.path), "wb")
        self._writer = pa.ipc.new_file(self._file, SPOOL, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()
        self._file.close()

    def add(self, document: Cleaned) -> None:
        """Append one document."""
        self._ids += bytes.fromhex(document.doc_id)
        self._rows.append(document)
        self._buffered += document.n_bytes
        if self._buffered >= self.batch_bytes:
            self._flush()

    def _flush(self) -> None:
        columns = {name: [getattr(row, name) for row in self._rows] for name in SPOOL.names}
        self._writer.write_batch(pa.record_batch(columns, schema=SPOOL))
        self._rows, self._buffered = [], 0

    def ids(self) -> NDArray[np.uint64]:
        """Return the hashes of all documents: shape (n, 2)."""
        return np.frombuffer(bytes(self._ids), dtype=">u8").astype(np.uint64).reshape(-1, 2)

    def batches(self, columns: list[str]) -> Iterator[pa.Table]:
        """Yield the documents in order."""
        with pa.OSFile(str(self.path)) as file:  # the whole of a mapped file would count as memory
            included = [SPOOL.get_field_index(name) for name in columns]
            reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=included))
            for number in range(reader.num_record_batches):
                yield pa.Table.from_batches([reader.get_batch(number)]).select(columns)


class Duplicates(NamedTuple):
    """For each document: the rule that drops it (an index of RULES), and the number of its representative."""

    rule: NDArray[np.int8]
    representative: NDArray[np.int64]


def find_duplicates(spool: Spool, rules: CleanParams) -> Duplicates:
    """Find documents that repeat an earlier one. The representative of a group is its first document."""
    ids = spool.ids()
    rule = np.zeros(len(ids), dtype=np.int8)
    representative = np.arange(len(ids))
    if rules.exact_duplicates == "drop":
        hashes = [ids[:, 0], ids[:, 1]]
        representative = pd.Series(representative).groupby(hashes).transform("min").to_numpy(copy=True)
        rule[representative != np.arange(len(ids))] = 1
    if rules.near_duplicates is not None:
        distinct = np.flatnonzero(rule == 0)
        near = distinct[representatives(_signatures(spool, rule == 0), rules.near_duplicates)]
        representative[distinct] = near
        if rules.near_duplicates.action == "drop":
            rule[distinct[near != distinct]] = 2
    return Duplicates(rule, representative)


def _signatures(spool: Spool, selected: NDArray[np.bool_]) -> Iterable[bytes]:
    at = 0
    for batch in spool.batches(["signature"]):
        for signature in batch.filter(pa.array(selected[at : at + batch.num_rows])).column("signature"):
            yield signature.as_py()
        at += batch.num_rows
