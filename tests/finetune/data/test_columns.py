"""A file comes out with its rows as they were and columns more, or not at all."""

import csv
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm.core.errors import UserError
from llm.corpus.readers.rows import SUFFIXES
from llm.finetune.data.columns import Change, add_columns

HARD = ["plain", 'a "quoted", text', "two\nlines\r\nand more", "", "déjà 🙂", " spaces ", "'", "\\N", "a\tb"]
NAMES = ["upper", "length"]


def upper(texts: list[list[str]]) -> list[list[str | float | None]]:
    """The first text in capitals and the length of all; nothing where there is no text."""
    return [[row[0].upper(), float(len("".join(map(str, row))))] if row[0] else [None, None] for row in texts]


def change(texts: tuple[str, ...] = ("text",), header: bool = True, chunk_rows: int = 2) -> Change:
    return Change(texts, NAMES, header, chunk_rows)


def write(path: Path, table: pd.DataFrame) -> Path:
    match path.suffix:
        case ".parquet":
            table.to_parquet(path)
        case ".json":
            path.write_text(json.dumps(table.to_dict("records"), indent=1))
        case ".jsonl" | ".ndjson":
            path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in table.to_dict("records")))
        case suffix:
            table.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    return path


def read(path: Path) -> list[dict[str, object]]:
    match path.suffix:
        case ".parquet":
            return pq.read_table(path).to_pylist()
        case ".json":
            return json.loads(path.read_text())
        case ".jsonl" | ".ndjson":
            return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize("chunk_rows", [1, 4, 100])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_row_is_as_it_was_with_what_is_added(tmp_path, suffix, chunk_rows):
    table = pd.DataFrame({"id": [f"{number:03}" for number in range(len(HARD))], "text": HARD})
    file, out = write(tmp_path / f"rows{suffix}", table), tmp_path / f"new/out{suffix}"
    add_columns(file, out, change(chunk_rows=chunk_rows), upper)
    added = upper([[text] for text in HARD])
    if suffix in (".csv", ".tsv"):
        added = [["" if value is None else str(value) for value in values] for values in added]
    names = ["id", "text", *NAMES]
    rows = zip(table["id"], HARD, added, strict=True)
    assert read(out) == [dict(zip(names, [number, text, *values], strict=True)) for number, text, values in rows]
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_two_texts_come_in_the_order_of_their_names(tmp_path):
    file = write(tmp_path / "rows.csv", pd.DataFrame({"a": ["x"], "b": ["yy"]}))
    seen = []
    add_columns(file, tmp_path / "out.csv", change(("b", "a")), lambda texts: seen.extend(texts) or upper(texts))
    assert seen == [["yy", "x"]]


# A file, its content, how it is read, the output.
OUTPUTS = [
    ("a.tsv", b'ham\t"hi\n', change(("2",), header=False), 'ham\t"hi\t"HI\t3.0\n'),
    ("a.csv", b'ham,"a ""b"", c"\n', change(("2",), header=False), 'ham,"a ""b"", c","A ""B"", C",8.0\n'),
    (
        "a.csv",
        '\ufefftext,n\r\n"a\r\nb",1\r\n\r\nc,2\r\n'.encode(),
        change(),
        'text,n,upper,length\n"a\r\nb",1,"A\r\nB",4.0\nc,2,C,1.0\n',
    ),
    (
        "a.csv",
        'id;text\r\n1;"où; là"\r\n'.encode("cp1252"),
        Change(["text"], NAMES, True, 2, "cp1252"),
        'id;text;upper;length\n1;"où; là";"OÙ; LÀ";6.0\n',
    ),
    ("a.csv", "text\ndéjà\n".encode("utf-16"), change(), "text,upper,length\ndéjà,DÉJÀ,4.0\n"),
    ("a.csv", b"text,,\na,,\n", change(), "text,,,upper,length\na,,,A,1.0\n"),
    ("a.csv", b"text\n", change(), "text,upper,length\n"),
    ("a.tsv", b'id\ttext\n1\t"Hello\n', change(), 'id\ttext\tupper\tlength\n1\t"Hello\t"HELLO\t6.0\n'),
    ("a.jsonl", b'{"text": 2.0, "n": NaN}\n', change(), '{"text": 2.0, "n": NaN, "upper": "2", "length": 1.0}\n'),
    ("a.jsonl", b'{"text": null}\n', change(), '{"text": null, "upper": null, "length": null}\n'),
    ("a.jsonl", b"", change(), ""),
    (
        "a.json",
        b'[{"text": "a"},\n {"text": "b"}]',
        change(),
        '[\n{"text": "a", "upper": "A", "length": 1.0},\n{"text": "b", "upper": "B", "length": 1.0}\n]\n',
    ),
    ("a.json", b"[]", change(), "[\n]\n"),
]


@pytest.mark.parametrize(("name", "content", "of", "expected"), OUTPUTS)
def test_the_output_is_separated_and_quoted_as_the_input(tmp_path, name, content, of, expected):
    (tmp_path / name).write_bytes(content)
    out = tmp_path / f"out{Path(name).suffix}"
    add_columns(tmp_path / name, out, of, upper)
    assert out.read_bytes().decode() == expected


def test_the_schema_of_parquet_stays(tmp_path):
    kinds = pa.schema([pa.field("text", pa.large_string()), pa.field("n", pa.int8())], metadata={"from": "here"})
    table = pa.table({"text": pa.chunked_array([["a", None], ["b"]], pa.large_string()), "n": [1, None, 3]}, kinds)
    pq.write_table(table, tmp_path / "rows.parquet")
    add_columns(tmp_path / "rows.parquet", tmp_path / "out.parquet", change(chunk_rows=1), upper)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.select(["text", "n"]).equals(table, check_metadata=True)
    assert found["upper"].to_pylist() == ["A", None, "B"]
    assert found.schema.field("length").type == pa.float64()
    pq.write_table(found.select(["text"]).slice(0, 0), tmp_path / "rows.parquet")
    add_columns(tmp_path / "rows.parquet", tmp_path / "out.parquet", change(), upper)
    assert pq.read_table(tmp_path / "out.parquet").to_pydict() == {"text": [], "upper": [], "length": []}


REFUSED = [
    ("rows.csv", "title,body\na,b\n", "rows.csv: expected columns text, got title, body"),
    ("rows.csv", "text,upper\na,b\n", "rows.csv: expected no column upper, which is to be added, got one"),
    ("rows.csv", "text,n\na,1\nb,2\nc\n", "rows.csv: line 4: expected 2 fields, as in the first row, got 1"),
    ("rows.csv", "", "rows.csv: expected a header and rows, got an empty file"),
    ("rows.txt", "text\na\n", "rows.txt: expected a .csv, .tsv, .jsonl, .ndjson, .json, .parquet file, got .txt"),
    ("rows.jsonl", '{"text": "a"}\n\n{"text\n', "rows.jsonl: line 3: expected a JSON object"),
    ("rows.jsonl", '{"text": "a"}\n{"texts": "b"}\n', "rows.jsonl: expected columns text, got texts"),
    ("rows.jsonl", '{"text": ["a"]}\n', "rows.jsonl: line 1: text: expected text, got ['a']"),
    (
        "rows.csv",
        b"text\n\xc3\xa9\xc3\xa9\nd\xe9j\n",
        "rows.csv: line 3: expected text in UTF-8, got the byte 0xe9 at 1",
    ),
    ("rows.csv", "text,text\na,b\n", "rows.csv: text: expected one column of this name, got several"),
    ("rows.json", '[{"text": "a"}, {"te', "rows.json: row 2: expected a JSON object or the array"),
    ("rows.parquet", "PAR1 broken", "rows.parquet: expected a whole Parquet file"),
]


@pytest.mark.parametrize(("name", "content", "line"), REFUSED)
def test_a_file_that_cannot_be_read_is_one_line_and_nothing_is_written(tmp_path, name, content, line):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    out = tmp_path / f"out{Path(name).suffix}"
    out.write_text("as it was")
    with pytest.raises(UserError) as caught:
        add_columns(tmp_path / name, out, change(), upper)
    assert str(caught.value).startswith(f"{tmp_path / line}")
    assert "\n" not in str(caught.value)
    assert out.read_text() == "as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, out.name])


def test_an_impossible_output_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"rows\.csv: expected a file of rows, there is none"):
        add_columns(tmp_path / "rows.csv", tmp_path / "out.csv", change(), upper)
    file = write(tmp_path / "rows.csv", pd.DataFrame({"text": ["a"]}))
    for out in (file, tmp_path / "out.jsonl"):
        with pytest.raises(UserError, match=r"expected another \.csv file than"):
            add_columns(file, out, change(), upper)
    (tmp_path / "rows.tsv").write_text('text\tn\n"a\t1\n')
    with pytest.raises(UserError, match="expected values without quotes"):
        add_columns(tmp_path / "rows.tsv", tmp_path / "out.tsv", change(), lambda _: [["two\nlines", 1.0]])
    assert not (tmp_path / "out.tsv").exists()


def test_a_chunk_is_added_at_a_time_and_a_failure_leaves_nothing(tmp_path):
    sizes = []

    def fail(texts: list[list[str]]) -> list[list[str | float | None]]:
        sizes.append(len(texts))
        if texts[0][0] == "g":
            raise KeyboardInterrupt
        return upper(texts)

    for suffix in SUFFIXES:
        file = write(tmp_path / f"rows{suffix}", pd.DataFrame({"text": list("abcdefg")}))
        with pytest.raises(KeyboardInterrupt):
            add_columns(file, tmp_path / f"out{suffix}", change(chunk_rows=3), fail)
        file.unlink()
    assert sizes == [3, 3, 1] * len(SUFFIXES)
    assert not list(tmp_path.iterdir())
