"""Files of every ordinary kind, in every container: the texts come out as they went in, and all else is named."""

import csv
import gzip
import io
import json
import random
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from llm.corpus.document import Document
from llm.corpus.formats import is_undivided, read_file
from llm.corpus.params import FilesSource
from tests.corpus.archives import COMPRESS, make_tar, make_zip

LIMIT = 10_000
TEXTS = ["The river runs.", 'Déjà vu, said "she";\n\nthe rain\tfalls, 雨 😀', "third"]
NOISE = random.Random(7).randbytes(5000)


def mine(**options: str | None) -> FilesSource:
    return FilesSource(name="mine", kind="files", globs=["data/raw/*"], **options)


def read(
    folder: Path, name: str, content: bytes, source: FilesSource | None = None, limit: int = LIMIT
) -> tuple[dict[str, str], dict[str, str]]:
    """The texts and the reasons, by what follows the file's name in a path."""
    (folder / "file").write_bytes(content)
    texts, reasons = {}, {}
    for found in read_file(folder / "file", name, source or mine(), limit):
        assert found.source == "mine" and found.path.startswith(name)
        if not found.reason:
            texts[found.path.removeprefix(name)] = found.text
        elif not found.readable:
            assert "expected" in found.note and "got" in found.note and "\n" not in found.note
            reasons[found.path.removeprefix(name)] = found.reason
    return texts, reasons


def unreadable(folder: Path, name: str, content: bytes, source: FilesSource | None = None) -> Document:
    """The one thing that is wrong."""
    (folder / "file").write_bytes(content)
    every = read_file(folder / "file", name, source or mine(), LIMIT)
    (found,) = (one for one in every if not one.readable)
    return found


def as_jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def as_table(texts: list[str], dialect: str = "excel") -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, dialect).writerows([["id", "text"], *(["1", text] for text in texts)])
    return file.getvalue().encode()


def as_tsv(texts: list[str]) -> bytes:
    return as_table(texts, "excel-tab")


def as_parquet(texts: list[str | None], kind: pa.DataType | None = None) -> bytes:
    file = io.BytesIO()
    column = pa.array(texts, kind or pa.string())
    parquet.write_table(pa.table({"id": pa.array(range(len(texts))), "text": column}), file, row_group_size=2)
    return file.getvalue()


WRITE: dict[str, Callable[..., bytes]] = {"jsonl": as_jsonl, "csv": as_table, "tsv": as_tsv, "parquet": as_parquet}
ROWS = {f":{number}": text for number, text in enumerate(TEXTS, 1)}
FORMATS: dict[str, tuple[bytes, dict[str, str]]] = {
    **{f"x.{name}": (write(TEXTS), ROWS) for name, write in WRITE.items()},
    "x.ndjson": (as_jsonl(TEXTS), ROWS),
    "x.json": (json.dumps([{"text": text} for text in TEXTS]).encode(), ROWS),
    "x.html": ("<html><title>No</title><p>Déjà <b>vu</b><p>Two".encode(), {"": "Déjà vu\n\nTwo"}),
    "x.htm": (b"<p>One", {"": "One"}),
    "x.xhtml": (b"<html xmlns='http://www.w3.org/1999/xhtml'><body><p>One</p></body></html>", {"": "One"}),
    "x.py": ('x = "é"\n'.encode(), {"": 'x = "é"\n'}),
    "x.md": (TEXTS[1].encode(), {"": TEXTS[1]}),
    "x": (b" \r\n# Title\n\nIt\0s\n---\n ", {"": " \r\n# Title\n\nIt\0s\n---\n "}),
}
# A container's suffix, what it makes of a file, and the path within it.
CONTAINERS: dict[str, tuple[Callable[[str, bytes], bytes], str]] = {
    **{suffix: (lambda _, content, pack=pack: pack(content), "") for suffix, pack in COMPRESS.items()},
    ".tgz": (lambda name, content: gzip.compress(make_tar({name: content})), "/{}"),
    ".ZIP": (lambda name, content: make_zip({f"{name}.gz": gzip.compress(content)}), "/{}.gz"),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_from_every_container(name: str, container: str, tmp_path: Path) -> None:
    content, expected = FORMATS[name]
    pack, within = CONTAINERS[container]
    texts, reasons = read(tmp_path, name + container, pack(name, content))
    assert (texts, reasons) == ({within.format(name) + place: text for place, text in expected.items()}, {})
    assert read(tmp_path, name + container, pack(name, b"")) == ({}, {within.format(name): "empty"})


# Properties. A lone surrogate is not Unicode: no file can hold it.
UNICODE = st.text(st.characters(codec="utf-8"), max_size=20)
WRITE_ALL = WRITE | {"escaped": lambda texts: "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()}


@settings(max_examples=100, deadline=None)
@given(st.lists(UNICODE, max_size=6), st.sampled_from(sorted(WRITE_ALL)))
def test_written_rows_are_read_back(texts: list[str], kind: str) -> None:
    if kind == "tsv":  # a cell of lines that look like rows may as well be rows with quotes in them
        texts = [text.replace("\t", " ") for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        name = "a.jsonl" if kind == "escaped" else f"a.{kind}"
        found, reasons = read(Path(folder), name, WRITE_ALL[kind](texts))
    assert (list(found.values()), set(reasons.values())) == (texts, set() if texts else {"empty"})


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.floats(0, 1), st.binary(max_size=3))
def test_no_damage_raises_anything(name: str, fraction: float, wrong: bytes) -> None:
    content, _ = FORMATS[name]
    place = int(fraction * len(content))
    with tempfile.TemporaryDirectory() as folder:
        texts, reasons = read(Path(folder), name, content[:place] + wrong + content[place + 2 :])
    assert texts or reasons
    assert all(text.encode().decode() == text for text in texts.values())


DIVIDED = [
    ("\none\n\n--\n\ntwo--\r\nthree\r\n----\n \n--\nlast\n", "--", ["\none\n", "\ntwo", "three", None, None, "last\n"]),
    ("one\r\n\r\n--\r\n\r\ntwo\r\nend", "--", ["one\r\n", "\r\ntwo\r\nend"]),
    ("one\r\r--\r\rtwo\rend", "--", ["one\r", "\rtwo\rend"]),
    ("a\r\nb", "\n\n", "a\r\nb"),
    ("one", "--", "one"),
    ("--one", "--", [None, "one"]),
]


@pytest.mark.parametrize(("content", "separator", "pieces"), DIVIDED)
def test_a_separator_divides_a_text(content: str, separator: str, pieces: list | str, tmp_path: Path) -> None:
    numbered = (
        {"": pieces} if isinstance(pieces, str) else {f":{n}": piece for n, piece in enumerate(pieces, 1) if piece}
    )
    assert read(tmp_path, "a.txt", content.encode(), mine(separator=separator)) == (numbered, {})
    assert is_undivided(f"a.txt{next(iter(numbered))}") == isinstance(pieces, str)
    assert read(tmp_path, "a.py", b"one--two", mine(separator="--"))[0] == {"": "one--two"}  # for plain text only


# Lengths around the size of a block, so that separators are on both sides of its end and across it.
BLOCK = 1 << 18
SEPARATED = [(separator, "\n", [BLOCK - 7, 1, BLOCK - 12, BLOCK, 3, BLOCK - 1]) for separator in ("-", "aab", "雨" * 5)]
SEPARATED += [
    (separator, newline, [BLOCK - n, 3, 5])
    for separator, n in (("\n\n", 1), ("\r\n\r\n", 2), ("\n---\n", 4), ("\n", 1))
    for newline in ("\n", "\r\n", "\r")
]


@pytest.mark.parametrize(("separator", "newline", "sizes"), SEPARATED)
def test_a_separator_is_found_across_blocks(separator: str, newline: str, sizes: list[int], tmp_path: Path) -> None:
    content = separator.replace("\r\n", "\n").join("x" * n for n in sizes).replace("\n", newline)
    found, reasons = read(tmp_path, "a.txt", content.encode(), mine(separator=separator), limit=300_000)
    assert ([len(text) for text in found.values()], reasons) == (sizes, {})


@pytest.mark.parametrize(
    ("style", "is_visible"),
    [("color: red", True), ("color: red; DISPLAY: NONE;", False), ("visibility:hidden", False)],
)
def test_a_page_is_its_visible_text(style: str, is_visible: bool, tmp_path: Path) -> None:
    page = (
        "<html><head><title>title</title><style>p { }</style><script>head()</script></head><body>"
        f"<h1>Head</h1><p style='{style}'>styled</p><p hidden>hidden</p><script>run()</script><template>t</template>"
        "<noscript>off</noscript><!-- note --><img alt='picture'><a href='there'>link</a> &amp;&nbsp;é"
        "<ul><li>a<li>b</ul><pre>x\n  y</pre></body></html>"
    )
    texts, _ = read(tmp_path, "a.html", page.encode())
    words = ["Head", *(["styled"] if is_visible else []), "link", "&", "é", "a", "b", "x", "y"]
    assert texts[""].split() == words
    assert "x\n   y" in texts[""] or "x\n  y" in texts[""]


LONG = "x" * 600_000
LONG_PIECES = f"one--{LONG}--{'y' * LIMIT}--\n{'z' * (LIMIT + 1)}\n--end"
LONG_FILES = {
    "a text": ("a.txt", ("é" * (LIMIT // 2)).encode(), None, [""], {}),
    "a long text": ("a.txt", LONG.encode(), None, [], {"": "too_long"}),
    "a page": ("a.html", LONG.encode(), None, [], {"": "too_long"}),
    "pieces": ("a.txt", LONG_PIECES.encode(), "--", [":1", ":3", ":5"], {":2": "too_long", ":4": "too_long"}),
    "an open row": ("a.csv", b'id,text\n1,one\n2,"' + b"never closed\n" * 100_000, None, [":1"], {"": "too_long"}),
} | {
    kind: (f"a.{kind}", write(["é" * (LIMIT // 2), LONG, "b"]), None, [":1", ":3"], {":2": "too_long"})
    for kind, write in WRITE.items()
    if kind in ("jsonl", "parquet")
}


@pytest.mark.parametrize(("name", "content", "separator", "places", "reasons"), LONG_FILES.values(), ids=LONG_FILES)
def test_long_documents_leave_the_others(name, content: bytes, separator, places, reasons, tmp_path: Path) -> None:
    texts, found = read(tmp_path, name, content, mine(separator=separator))
    assert (list(texts), found) == (places, reasons)


def test_a_long_document_is_reported_with_its_length(tmp_path: Path) -> None:
    found = unreadable(tmp_path, "a.txt", b"x" * (LIMIT + 600_000))
    assert (found.path, found.n_bytes) == ("a.txt", LIMIT + 600_000)
    problem = "expected a document of at most 10000 bytes, got 610000; raise prepare.max_document_bytes"
    assert found.note == f"{problem} or name a separator:"


ARRAY = json.dumps([{"text": f"{n} " + "x" * 1000} for n in range(12_000)]).encode()
LINE = b'{"text": "' + b"x" * 30_000_000 + b'"}\n{"text": "two"}\n'
HELD = {
    "a line": ("a.jsonl.gz", LINE, None, 2),
    "a piece": ("a.txt.gz", LINE, "\n", 2),
    "an array": ("a.json.gz", ARRAY, None, 12_000),
}


@pytest.mark.parametrize(("name", "content", "separator", "n_found"), HELD.values(), ids=HELD.keys())
def test_long_files_take_little_memory(name: str, content: bytes, separator, n_found: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(gzip.compress(content, 1))
    tracemalloc.start()
    assert sum(1 for _ in read_file(tmp_path / "file", name, mine(separator=separator), LIMIT)) == n_found
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


LINES = {
    b'{"text": "one"}': None,
    b'{"text": "cut': "bad_row",
    b"[1, 2]": "bad_row",
    b"": None,
    b'{"txt": "one"}': "no_field",
    b'{"text": null}': "no_field",
    b'{"text": 7}': "not_text",
    b'{"text": "\\ud800"}': "not_unicode",
    b'{"text": "a \\udc00 b"}': "not_unicode",
    b'{"text": "caf\xe9"}': "not_text",
    b'{"text": "\xed\xa0\x80"}': "not_text",
    b"[" * 5000: "bad_row",
    b'{"text": "\\u0000\\ud83d\\ude00"}': None,
    '{"text": "é雨 é雨 é雨"}'.encode(): None,
    b'{"score": [NaN, -Infinity], "text": "two", "other": "\\ud800"}': None,  # which Python writes
    b'{"text": NaN}': "not_text",
}


def test_a_line_without_text_is_reported(tmp_path: Path) -> None:
    texts, reasons = read(tmp_path, "a.jsonl", b"\n".join(LINES))
    assert texts == {":1": "one", ":13": "\0😀", ":14": "é雨 é雨 é雨", ":15": "two"}
    assert reasons == {f":{n}": reason for n, reason in enumerate(LINES.values(), 1) if reason}


def test_a_row_of_an_array_without_text_is_reported(tmp_path: Path) -> None:
    rows = [{"text": "one"}, 7, {"text": 1}, {"text": "\ud800"}, {"text": "x" * (LIMIT + 1)}, {"text": "last"}]
    texts, reasons = read(tmp_path, "a.json", json.dumps(rows).encode())
    assert texts == {":1": "one", ":6": "last"}
    assert reasons == {":2": "bad_row", ":3": "not_text", ":4": "not_unicode", ":5": "too_long"}
    texts, reasons = read(tmp_path, "a.json", b'[{"text": "caf\xe9 \xe9"}, {"text": "\xc3\xa9\xc3\xa9\xc3\xa9"}]')
    assert (texts, reasons) == ({":2": "ééé"}, {":1": "not_text"})
    for rest, reason in ((', {"text": "tw', "bad_row"), (f', {{"text": "{LONG}"}}]', "too_long")):
        assert read(tmp_path, "a.json", f'[{{"text": "one"}}{rest}'.encode()) == ({":1": "one"}, {"": reason})


JSONS = [
    ('{"text": "one"}\n{"text": "two"}\n', {":1": "one", ":2": "two"}),
    ('{\n "text": "one",\n "n": 1\n}\n', {"": "one"}),
    ('{"name": "package", "version": "1.0"}', {"": '{"name": "package", "version": "1.0"}'}),
    ("// a comment\n{}", {"": "// a comment\n{}"}),
    (json.dumps([{"text": text, "more": [{}]} for text in TEXTS], indent=1), ROWS),
]


@pytest.mark.parametrize(("content", "texts"), JSONS)
def test_json_is_rows_one_object_or_text(content: str, texts: dict[str, str], tmp_path: Path) -> None:
    assert read(tmp_path, "a.json", content.encode()) == (texts, {})
    assert read(tmp_path, "a.json", b"\xef\xbb\xbf" + content.encode()) == (texts, {})


def test_a_row_of_a_table_without_text_is_reported(tmp_path: Path) -> None:
    content = (
        b'id,text,more\r\n1,one,\r\n2,two\r\n\r\n3,"a ""quoted""\ntext",x\r\n4,four,x,y\r\n5,"fi"ve,x\r\n'
        b'6,caf\xe9,x\r\n7,"",\xe9\r\n8,a 5" pipe,x\r\n' + '9,"é, 雨",x\n10,"open,x\n'.encode()
    )
    texts, reasons = read(tmp_path, "a.csv", content)
    assert texts == {":1": "one", ":3": 'a "quoted"\ntext', ":7": "", ":8": 'a 5" pipe', ":9": "é, 雨"}
    assert reasons == {":2": "bad_row", ":4": "bad_row", ":5": "bad_row", ":6": "not_text", ":10": "bad_row"}
    swallowing = b'label,text\nham,"Hello\n' + b"spam,Win\n" * 20 + b'ham,bye"\nham,last\n'
    assert read(tmp_path, "a.csv", swallowing) == ({":2": "last"}, {":1": "bad_row"})


def test_another_dialect_than_commas_is_noted(tmp_path: Path) -> None:
    lone = b'label\ttext\nham\t"Hello there\nspam\tWin a prize now\nham\tShe said bye"\n'
    texts = {":1": '"Hello there', ":2": "Win a prize now", ":3": 'She said bye"'}
    assert read(tmp_path, "a.tsv.gz", gzip.compress(lone)) == (texts, {})
    note = next(read_file(tmp_path / "file", "a.tsv.gz", mine(), LIMIT))
    assert note == Document("mine", "a.tsv.gz", "", "dialect", "separated by tabs, quotes are text")
    assert read(tmp_path, "a.csv", b"id;text\n1;one, two\n") == ({":1": "one, two"}, {})


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_the_column_is_the_named_one(kind: str, tmp_path: Path) -> None:
    assert read(tmp_path, "a.tsv", b"body\ttext\nthis\tthat\n", mine(text_field="body")) == ({":1": "this"}, {})
    found = unreadable(tmp_path, f"a.{kind}", WRITE[kind](TEXTS), mine(text_field="body"))
    assert found[1:5] == (f"a.{kind}", "", "no_field", "expected a column body, got id, text")
    found = unreadable(tmp_path, "a.parquet", as_parquet(TEXTS), mine(text_field="id"))
    assert found[3:5] == ("not_text", "expected strings in the column id, got int64")


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_strings_of_parquet_may_be_of_any_kind(kind: pa.DataType, tmp_path: Path) -> None:
    rows = TEXTS * 50
    rows[100] = None
    texts, reasons = read(tmp_path, "a.parquet", as_parquet(rows, kind))
    assert texts == {f":{n}": text for n, text in enumerate(rows, 1) if text is not None}
    assert reasons == {":101": "no_field"}


DAMAGED = [b"PAR1 not a table PAR1", NOISE, as_parquet(TEXTS)[:-30], as_parquet(TEXTS).replace(b"text", b"te\xaat")]


@pytest.mark.parametrize("container", ["", ".gz"])
@pytest.mark.parametrize("content", DAMAGED, ids=["short", "noise", "cut", "a name"])
def test_damaged_parquet_is_named(content: bytes, container: str, tmp_path: Path) -> None:
    pack, _ = CONTAINERS[container]
    assert read(tmp_path, f"a.parquet{container}", pack("", content)) == ({}, {"": "damaged"})


BINARY = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + NOISE
DOCX = make_zip({"word/document.xml": b"<w:document/>"})
REFUSED = {
    "a.rtf": (rb"{\rtf1\ansi Hello \b there\b0}", "an RTF document; convert it to text"),
    "a.pdf": (b"%PDF-1.4\n1 0 obj\n<< >>\nendobj\n", "a PDF document; convert it to text"),
    "a.docx": (DOCX, "a .docx document; convert it to text"),
    "a": (DOCX, "a ZIP archive or a document made of one; convert it to text"),
    "a.doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + NOISE, "a document of old Office; convert it to text"),
    "a.csv": (BINARY, "binary data"),
    "a.json": (NOISE.replace(b"\0", b""), "binary data"),
}


@pytest.mark.parametrize("container", ["", ".ZIP"])
@pytest.mark.parametrize("name", REFUSED)
def test_content_that_is_not_text_is_refused(name: str, container: str, tmp_path: Path) -> None:
    content, kind = REFUSED[name]
    pack, within = CONTAINERS[container]
    for encoding in ("cp1252", None):
        found = unreadable(tmp_path, name + container, pack(name, content), mine(encoding=encoding))
        assert (found.path, found.note) == (name + container + within.format(name), f"expected text, got {kind}")
    assert read(tmp_path, "readme.doc", b"Plain text.\n") == ({"": "Plain text.\n"}, {})


def test_text_before_a_wrong_byte_is_kept(tmp_path: Path) -> None:
    content = as_jsonl(["é one", "two"]).decode().encode("shift-jis", "ignore") + b'{"text": "\xff"}\n{"text": "x"}\n'
    texts, reasons = read(tmp_path, "a.jsonl", content, mine(encoding="shift-jis"))
    assert (texts, reasons) == ({":1": " one", ":2": "two"}, {"": "not_text"})
    cut = as_jsonl(["one", "two"]).decode().encode("utf-16")[:-1]
    assert read(tmp_path, "a.jsonl", cut) == ({":1": "one"}, {"": "not_text"})
    lines = as_jsonl(["broken ?", *TEXTS]).replace(b"?", b"\xff")  # damaged UTF-8 is not another encoding
    texts, reasons = read(tmp_path, "a.jsonl", lines)
    assert (list(texts.values()), reasons) == (TEXTS, {":1": "not_text"})
    assert read(tmp_path, "a.txt", lines) == ({}, {"": "not_text"})
