"""Cleaned documents wait in a file until it is known which of them repeat an earlier one.

    Cleaned ──► Spool (one file, in order) ──find_duplicates──► Verdict: which rule drops it, who stands for it

Whether a document stays may hang on all documents before it, and its split on its near relatives. In memory is
only a hash of each document, 16 bytes, and its signature where near duplicates are looked for.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm.corpus.clean import Cleaned
from llm.corpus.duplicates import relatives
from llm.corpus.params import CleanParams

SPOOL = pa.schema(
    [
        ("source", pa.string()),
        ("path", pa.string()),
        ("text", pa.large_string()),
        ("doc_id", pa.string()),
        ("n_bytes", pa.int64()),
        ("signature", pa.binary()),
    ]
)


class Spool:
    """Documents in a file, in the order in which they come; read again in batches of about `batch_bytes` of text."""

    def __init__(self, path: Path, batch_bytes: int = 8_000_000):
        self.path, self.batch_bytes = path, batch_bytes
        self._ids = bytearray()
        self._rows: list[Cleaned] = []
        self._buffered = 0

    def __enter__(self) -> Self:
        self._file = pa.OSFile(str(self.path), "wb")
        self._writer = pa.ipc.new_file(self._file, SPOOL, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        """The hashes of all documents: shape (n, 2)."""
        return np.frombuffer(bytes(self._ids), dtype=">u8").astype(np.uint64).reshape(-1, 2)

    def batches(self, columns: list[str]) -> Iterator[pa.Table]:
        """The documents in order."""
        with pa.OSFile(str(self.path)) as file:  # a mapped file would count as memory, all of it
            wanted = [SPOOL.get_field_index(name) for name in columns]
            reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=wanted))
            for number in range(reader.num_record_batches):
                yield pa.Table.from_batches([reader.get_batch(number)]).select(columns)


@dataclass(frozen=True)
class Verdict:
    """For each document by number: the rule that drops it (an index of RULES), and the document that stands for it."""

    rule: NDArray[np.int8]
    stands_for: NDArray[np.int64]


RULES = ("", "exact_duplicate", "near_duplicate")


def find_duplicates(spool: Spool, rules: CleanParams) -> Verdict:
    """Which documents repeat an earlier one. A group of near relatives is stood for by its first document."""
    ids = spool.ids()
    rule = np.zeros(len(ids), dtype=np.int8)
    stands_for = np.arange(len(ids))
    if rules.exact_duplicates == "drop":
        stands_for = first_occurrence(ids)
        rule[stands_for != np.arange(len(ids))] = 1
    if rules.near_duplicates is not None:
        different = np.flatnonzero(rule == 0)
        relative = different[relatives(_signatures(spool, rule == 0), rules.near_duplicates)]
        stands_for[different] = relative
        if rules.near_duplicates.action == "drop":
            rule[different[relative != different]] = 2
    return Verdict(rule, stands_for)


def first_occurrence(ids: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each row of `ids` (n, 2) the number of the first row that equals it.

    >>> first_occurrence(np.array([[1, 7], [2, 7], [1, 7]], dtype=np.uint64)).tolist()
    [0, 1, 0]
    """
    order = np.lexsort((ids[:, 1], ids[:, 0]))  # stable: equal rows stay in their order
    ordered = ids[order]
    begins = np.ones(len(ids), dtype=bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(len(ids), dtype=np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1] if len(ids) else order
    return first


def _signatures(spool: Spool, wanted: NDArray[np.bool_]) -> Iterable[bytes]:
    at = 0
    for batch in spool.batches(["signature"]):
        for signature in batch.filter(pa.array(wanted[at : at + batch.num_rows])).column("signature"):
            yield signature.as_py()
        at += batch.num_rows
