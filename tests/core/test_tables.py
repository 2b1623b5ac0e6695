"""Parquet tables: the same rows give the same bytes, and a file is whole or absent."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm.core.errors import UserError
from llm.core.tables import (
    CORPUS,
    TableWriter,
    count_rows,
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


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "first.parquet", ROWS, group_bytes=1000)
    second = write(tmp_path / "folder" / "second.parquet", ROWS, group_bytes=1000)
    assert first.read_bytes() == second.read_bytes()
    assert write(tmp_path / "other.parquet", ROWS[::-1], group_bytes=1000).read_bytes() != first.read_bytes()


@pytest.mark.parametrize("group_bytes", [1, 64, 1000, 10**9])
def test_rows_come_back_in_their_order_whatever_the_groups(group_bytes: int, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", ROWS, group_bytes=group_bytes)
    assert list(iterate_rows(path, ["n", "word"], batch_rows=7)) == ROWS
    assert read_table(path).to_pylist() == ROWS
    assert count_rows(path) == len(ROWS)


def test_rows_are_written_in_groups_so_that_memory_does_not_grow(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", ROWS, group_bytes=64 * 50)
    assert pq.read_metadata(path).num_row_groups == 4


def test_a_row_that_weighs_nothing_is_written_too(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "rows.parquet", NUMBERS) as table:
        table.write(ROWS[0], n_bytes=0)
    assert read_table(tmp_path / "rows.parquet").to_pylist() == ROWS[:1]


def test_a_table_without_rows_is_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", [], CORPUS)
    assert read_table(path).schema == CORPUS
    assert list(iterate_rows(path, ["text"])) == []


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    with TableWriter(path, NUMBERS, group_bytes=1) as table:
        table.write(ROWS[0])
        assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["rows.parquet"]


def test_a_writer_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="word"):
        write(tmp_path / "rows.parquet", [ROWS[0], {"n": 1}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("group_bytes", [1, 10**9], ids=["at once", "at the end"])
def test_a_row_of_the_wrong_type_leaves_no_file(group_bytes: int, tmp_path: Path) -> None:
    with pytest.raises(pa.ArrowInvalid):
        write(tmp_path / "rows.parquet", [*ROWS, {"n": "many", "word": ""}], group_bytes=group_bytes)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_fails_leaves_the_earlier_file_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", ROWS)
    before = path.read_bytes()
    with pytest.raises(KeyError):
        write(path, [{}])
    assert path.read_bytes() == before


def test_token_ids_take_16_bits_where_the_vocabulary_allows(tmp_path: Path) -> None:
    row = {"doc_id": "a", "source": "s", "path": "p", "ids": [0, 65535], "n_tokens": 2, "n_bytes": 2}
    path = write(tmp_path / "tokens.parquet", [row], tokens_schema(65536))
    assert read_table(path).to_pylist() == [row]
    assert tokens_schema(65536).field("ids").type.value_type == pa.uint16()
    assert tokens_schema(65537).field("ids").type.value_type == pa.uint32()


def test_some_columns_can_be_read_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", ROWS)
    assert read_table(path, ["word"]).column_names == ["word"]
    assert next(iterate_rows(path, ["word"])) == {"word": "word 0"}


def test_an_empty_table_may_say_why(tmp_path: Path) -> None:
    silent = write(tmp_path / "silent.parquet", [])
    telling = write(tmp_path / "telling.parquet", [], with_reason(NUMBERS, "nothing was found: naïve"))
    assert empty_reason(silent) is None
    assert empty_reason(telling) == "nothing was found: naïve"
    assert read_table(telling).schema == NUMBERS


@pytest.mark.parametrize("group_bytes", [1, 500, 10**9])
def test_whole_tables_and_single_rows_come_back_in_their_order(group_bytes: int, tmp_path: Path) -> None:
    with TableWriter(tmp_path / "rows.parquet", NUMBERS, group_bytes) as table:
        table.append(pa.Table.from_pylist(ROWS[:50], schema=NUMBERS))
        for row in ROWS[50:70]:
            table.write(row)
        table.append(pa.Table.from_pylist(ROWS[70:], schema=NUMBERS))
        assert table.n_rows == len(ROWS)
    assert read_table(tmp_path / "rows.parquet").to_pylist() == ROWS


def test_a_table_comes_in_batches_of_so_many_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", ROWS)
    batches = list(iterate_batches(path, ["n"], batch_rows=70))
    assert [batch.num_rows for batch in batches] == [70, 70, 60]
    assert [n for batch in batches for n in batch.column("n").to_pylist()] == [row["n"] for row in ROWS]


def test_the_segmentations_of_train_are_listed_by_their_number(tmp_path: Path) -> None:
    for name in ("train", "train-10", "train-2", "train-1", "val"):
        (tmp_path / f"{name}.parquet").touch()
    assert segmentation_names(tmp_path) == ["train-1", "train-2", "train-10"]


@pytest.mark.parametrize("read", [read_table, empty_reason, lambda path: next(iterate_rows(path, ["n"]))])
def test_what_is_no_table_is_refused_by_its_name(read: object, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    with pytest.raises(UserError, match=r"rows\.parquet: expected a Parquet table, it is missing$"):
        read(path)
    path.write_text("n,word\n1,one\n")
    with pytest.raises(UserError, match=r"rows\.parquet: expected a Parquet table, ") as error:
        read(path)
    assert "\n" not in str(error.value)
