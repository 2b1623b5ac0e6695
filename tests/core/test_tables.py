"""Parquet tables: equal rows give equal bytes, and a file is complete or absent."""

from pathlib import Path

import pyarrow as pa
import pytest

from llm.core.errors import UserError
from llm.core.tables import (
    CORPUS,
    TableWriter,
    empty_reason,
    iterate_batches,
    iterate_rows,
    read_table,
    segmentation_names,
    tokens_schema,
    with_reason,
)

NUMBERS = pa.schema([("n", pa.int64()), ("word", pa.string())])
ROWS = [{"n": n, "word": f"word {n * n % 17}"} for n in range(200)]


def write(path: Path, rows: list[dict], schema: pa.Schema = NUMBERS, group_bytes: int = 16_000_000) -> Path:
    with TableWriter(path, schema, group_bytes) as table:
        for row in rows:
            table.write(row)
    return path


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "first.parquet", ROWS, group_bytes=1000).read_bytes()
    assert write(tmp_path / "folder" / "second.parquet", ROWS, group_bytes=1000).read_bytes() == first
    assert write(tmp_path / "other.parquet", ROWS[::-1], group_bytes=1000).read_bytes() != first


@pytest.mark.parametrize("group_bytes", [1, 64, 1000, 10**9])
def test_rows_and_tables_come_back_in_order(group_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    with TableWriter(path, NUMBERS, group_bytes) as table:
        table.append(pa.Table.from_pylist(ROWS[:50], schema=NUMBERS))
        for row in ROWS[50:70]:
            table.write(row, n_bytes=0 if row["n"] == 69 else 64)
        table.append(pa.Table.from_pylist(ROWS[70:], schema=NUMBERS))
    assert read_table(path).to_pylist() == list(iterate_rows(path, ["n", "word"], batch_rows=7)) == ROWS
    assert read_table(path, ["word"]).column_names == ["word"]
    assert [batch.num_rows for batch in iterate_batches(path, ["n"], batch_rows=70)] == [70, 70, 60]


@pytest.mark.parametrize("group_bytes", [1, 10**9])
@pytest.mark.parametrize("bad", [{"n": 1}, {"n": "many", "word": ""}], ids=["missing column", "wrong type"])
def test_a_failed_writer_keeps_the_earlier_file(bad: dict, group_bytes: int, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", ROWS)
    before = path.read_bytes()
    with pytest.raises((KeyError, pa.ArrowInvalid)):
        write(path, [*ROWS[:3], bad], group_bytes=group_bytes)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (before, [path])


def test_token_ids_take_16_bits_if_the_vocabulary_fits(tmp_path: Path) -> None:
    row = {"doc_id": "a", "source": "s", "path": "p", "ids": [0, 65535], "n_tokens": 2, "n_bytes": 2}
    assert read_table(write(tmp_path / "tokens.parquet", [row], tokens_schema(65536))).to_pylist() == [row]
    assert tokens_schema(65536).field("ids").type.value_type == pa.uint16()
    assert tokens_schema(65537).field("ids").type.value_type == pa.uint32()


def test_an_empty_table_may_state_a_reason(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.parquet", [], CORPUS)
    stated = write(tmp_path / "stated.parquet", [], with_reason(NUMBERS, "nothing was found: naïve"))
    assert (empty_reason(plain), empty_reason(stated)) == (None, "nothing was found: naïve")
    assert read_table(plain).schema == CORPUS
    assert list(iterate_rows(plain, ["text"])) == []


def test_segmentations_are_listed_by_number(tmp_path: Path) -> None:
    for name in ("train", "train-10", "train-2", "train-1", "val"):
        (tmp_path / f"{name}.parquet").touch()
    assert segmentation_names(tmp_path) == ["train-1", "train-2", "train-10"]


@pytest.mark.parametrize("read", [read_table, empty_reason, lambda path: next(iterate_rows(path, ["n"]))])
def test_a_file_that_is_not_a_table_is_named(read: object, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    with pytest.raises(UserError, match=r"rows\.parquet: expected a Parquet table, it is missing$"):
        read(path)
    path.write_text("n,word\n1,one\n")
    with pytest.raises(UserError, match=r"rows\.parquet: expected a Parquet table, got: ") as error:
        read(path)
    assert "\n" not in str(error.value)
