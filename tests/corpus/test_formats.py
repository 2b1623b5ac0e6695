"""Files of every ordinary kind, in every container: the texts come out as they went in, and all else is named."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from llm.corpus.containers import Entry, Limits, open_entries
from llm.corpus.document import FileNote, RawDocument, Unreadable
from llm.corpus.formats import is_undivided, read_entry, read_file
from llm.corpus.params import FilesSource, UrlSource

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
        assert found.source == "mine"
        assert found.path.startswith(name)
        if isinstance(found, RawDocument):
            texts[found.path.removeprefix(name)] = found.text
        elif isinstance(found, Unreadable):
            assert "expected" in found.problem or "expected" in found.problem
            assert "given" in found.problem or "got" in found.problem
            assert "\n" not in found.problem
            reasons[found.path.removeprefix(name)] = found.reason
    return texts, reasons


def unreadable(folder: Path, name: str, content: bytes, source: FilesSource | None = None) -> Unreadable:
    """The one thing that is wrong."""
    (folder / "file").write_bytes(content)
    (found,) = (
        found for found in read_file(folder / "file", name, source or mine(), LIMIT) if isinstance(found, Unreadable)
    )
    return found


def as_jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def as_table(texts: list[str], dialect: str) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, dialect)
    writer.writerows([["id", "text"], *(["1", text] for text in texts)])
    return file.getvalue().encode()


def as_csv(texts: list[str]) -> bytes:
    return as_table(texts, "excel")


def as_tsv(texts: list[str]) -> bytes:
    return as_table(texts, "excel-tab")


def as_parquet(texts: list[str | None], kind: pa.DataType | None = None) -> bytes:
    file = io.BytesIO()
    column = pa.array(texts, kind or pa.string())
    parquet.write_table(pa.table({"id": pa.array(range(len(texts))), "text": column}), file, row_group_size=2)
    return file.getvalue()


def as_tar(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def as_zip(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


ROWS = {f":{number}": text for number, text in enumerate(TEXTS, 1)}
FORMATS: dict[str, tuple[bytes, dict[str, str]]] = {
    "x.jsonl": (as_jsonl(TEXTS), ROWS),
    "x.ndjson": (as_jsonl(TEXTS), ROWS),
    "x.json": (json.dumps([{"text": text} for text in TEXTS]).encode(), ROWS),
    "x.csv": (as_csv(TEXTS), ROWS),
    "x.tsv": (as_tsv(TEXTS), ROWS),
    "x.parquet": (as_parquet(TEXTS), ROWS),
    "x.html": ("<html><title>No</title><p>Déjà <b>vu</b><p>Two".encode(), {"": "Déjà vu\n\nTwo"}),
    "x.htm": (b"<p>One", {"": "One"}),
    "x.xhtml": (b"<html xmlns='http://www.w3.org/1999/xhtml'><body><p>One</p></body></html>", {"": "One"}),
    "x.py": ('x = "é"\n'.encode(), {"": 'x = "é"\n'}),
    "x.md": (TEXTS[1].encode(), {"": TEXTS[1]}),
    "x": (TEXTS[1].encode(), {"": TEXTS[1]}),
}
# A container's suffix, what it makes of a file, and the path within it.
CONTAINERS: dict[str, tuple[Callable[[str, bytes], bytes], str]] = {
    "": (lambda _, content: content, ""),
    ".gz": (lambda _, content: gzip.compress(content), ""),
    ".bz2": (lambda _, content: bz2.compress(content), ""),
    ".xz": (lambda _, content: lzma.compress(content), ""),
    ".zst": (lambda _, content: zstandard.compress(content), ""),
    ".zip": (as_zip, "/{}"),
    ".tar": (as_tar, "/{}"),
    ".tgz": (lambda name, content: gzip.compress(as_tar(name, content)), "/{}"),
    ".tar.zst": (lambda name, content: zstandard.compress(as_tar(name, content)), "/{}"),
    ".ZIP": (lambda name, content: as_zip(f"{name}.gz", gzip.compress(content)), "/{}.gz"),
    ".tar.xz": (lambda name, content: lzma.compress(as_tar(f"{name}.zst", zstandard.compress(content))), "/{}.zst"),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_from_every_container(name: str, container: str, tmp_path: Path) -> None:
    content, expected = FORMATS[name]
    pack, within = CONTAINERS[container]
    texts, reasons = read(tmp_path, name + container, pack(name, content))
    assert (texts, reasons) == ({within.format(name) + place: text for place, text in expected.items()}, {})


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_file_says_so(name: str, container: str, tmp_path: Path) -> None:
    pack, within = CONTAINERS[container]
    assert read(tmp_path, name + container, pack(name, b"")) == ({}, {within.format(name): "empty"})


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", b"\n \n"), ("a.csv", b"id,text\r\n"), ("a.parquet", as_parquet([])), ("a.html", b"<title>No</title>")],
)
def test_a_file_of_no_documents_is_empty(name: str, content: bytes, tmp_path: Path) -> None:
    assert read(tmp_path, name, content) == ({}, {"": "empty"})


def test_a_source_from_the_network_is_read_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b'{"body": "One"}')
    source = UrlSource(name="net", kind="url", url="https://a.org/x.jsonl", sha256="0" * 64, text_field="body")
    assert list(read_file(tmp_path / "file", "x.jsonl", source, LIMIT)) == [RawDocument("net", "x.jsonl:1", "One")]


# Roundtrips. A lone surrogate is no Unicode: no file can hold it.
UNICODE = st.text(st.characters(codec="utf-8"), max_size=20)
COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
SUFFIXES = st.sampled_from(sorted(COMPRESS))


def read_texts(name: str, content: bytes, source: FilesSource | None = None) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        texts, reasons = read(Path(folder), name, content, source)
    assert set(reasons.values()) <= {"empty"}
    return list(texts.values())


@settings(max_examples=80, deadline=None)
@given(st.lists(UNICODE, max_size=6), SUFFIXES, st.booleans())
def test_texts_written_as_json_lines_come_back(texts: list[str], suffix: str, escape: bool) -> None:
    content = "".join(json.dumps({"text": text}, ensure_ascii=escape) + "\n" for text in texts).encode()
    assert read_texts(f"a.jsonl{suffix}", COMPRESS[suffix](content)) == texts


@settings(max_examples=80, deadline=None)
@given(st.lists(UNICODE, max_size=6), SUFFIXES, st.sampled_from([("csv", as_csv), ("tsv", as_tsv)]))
def test_texts_written_as_a_table_come_back(texts: list[str], suffix: str, kind: tuple[str, Callable]) -> None:
    name, write = kind
    assert read_texts(f"a.{name}{suffix}", COMPRESS[suffix](write(texts))) == texts


@settings(max_examples=80, deadline=None)
@given(
    st.lists(UNICODE.filter(lambda text: "<|" not in text and text == text.strip() != ""), min_size=1, max_size=6),
    SUFFIXES,
    st.sampled_from(["<|end|>", "\n<|end|>", "\r\n<|end|>\r\n", "<|end|><|end|>"]),
)
def test_texts_between_separators_come_back(texts: list[str], suffix: str, between: str) -> None:
    content = between.join(texts).encode()
    source = mine(separator="<|end|>", encoding="utf-8")  # a text may begin with a zero or a byte-order mark
    texts[0] = texts[0].removeprefix("\ufeff")
    assert read_texts(f"a.txt{suffix}", COMPRESS[suffix](content), source) == [text for text in texts if text]


@settings(max_examples=60, deadline=None)
@given(st.lists(UNICODE, max_size=6))
def test_texts_written_as_parquet_come_back(texts: list[str]) -> None:
    assert read_texts("a.parquet", as_parquet(texts)) == texts


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), max_size=4))
def test_no_damage_raises_anything(name: str, damage: list[tuple[float, bytes]]) -> None:
    content = bytearray(FORMATS[name][0])
    for share, wrong in damage:
        place = int(share * len(content))
        content[place : place + 2] = wrong
    with tempfile.TemporaryDirectory() as folder:
        texts, reasons = read(Path(folder), name, bytes(content))
    assert texts or reasons
    assert all(text.encode().decode() == text for text in texts.values())


# Text.


def test_a_text_is_one_document_as_it_stands(tmp_path: Path) -> None:
    text = " \r\n# Title\n\nIt\0s\n---\n "
    assert read(tmp_path, "a.txt", text.encode()) == ({"": text}, {})


@pytest.mark.parametrize("suffix", [".html", ".py"])
def test_a_separator_is_for_plain_text_only(suffix: str, tmp_path: Path) -> None:
    texts, _ = read(tmp_path, f"a{suffix}", b"one--two", mine(separator="--"))
    assert texts == {"": "one--two"}


def test_pieces_are_numbered_lose_a_newline_at_the_separator_and_may_be_blank(tmp_path: Path) -> None:
    content = b"\none\n\n--\n\ntwo--\r\nthree\r\n----\n \n--\nlast\n"
    texts, reasons = read(tmp_path, "a.txt", content, mine(separator="--"))
    assert texts == {":1": "\none\n", ":2": "\ntwo", ":3": "three", ":6": "last\n"}
    assert reasons == {}


@pytest.mark.parametrize("separator", ["-", "--", "ab", "aab", "雨" * 5])
def test_a_separator_is_found_wherever_blocks_end(separator: str, tmp_path: Path) -> None:
    # Lengths around the size of a block, so that separators lie on both sides of its end and across it.
    texts = ["x" * n for n in (262_144 - 7, 1, 262_144 - 12, 262_144, 3, 262_143, 100_000)]
    content = separator.join(texts).encode()
    found, reasons = read(tmp_path, "a.txt", content, mine(separator=separator), limit=300_000)
    assert [len(text) for text in found.values()] == [len(text) for text in texts]
    assert reasons == {}


@pytest.mark.parametrize("separator", ["\n\n", "\r\n\r\n", "\n---\n", "\n", "\n\n\n"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("first", [1, 262_143, 262_142, 262_141, 262_140])
def test_a_newline_in_the_separator_is_any_newline_wherever_blocks_end(
    separator: str, newline: str, first: int, tmp_path: Path
) -> None:
    texts = ["x" * first, "two", "three"]
    content = separator.replace("\r\n", "\n").join(texts).replace("\n", newline)
    found, _ = read(tmp_path, "a.txt", content.encode(), mine(separator=separator), limit=300_000)
    assert list(found.values()) == texts
    assert list(found) == [":1", ":2", ":3"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_newline_beside_the_separator_is_taken_away_and_no_other_is(newline: str, tmp_path: Path) -> None:
    content = newline.join(["one", "", "--", "", "two", "end"]).encode()
    found, _ = read(tmp_path, "a.txt", content, mine(separator="--"))
    assert found == {":1": f"one{newline}", ":2": f"{newline}two{newline}end"}
    found, _ = read(tmp_path, "a.txt", f"a{newline}b".encode(), mine(separator="\n\n"))
    assert found == {"": f"a{newline}b"}


@pytest.mark.parametrize(("content", "path"), [("one--two", ":1"), ("one--", ":1"), ("one", ""), ("--one", ":2")])
def test_a_file_without_its_separator_is_one_document_and_has_no_number(
    content: str, path: str, tmp_path: Path
) -> None:
    found, _ = read(tmp_path, "a.txt", content.encode(), mine(separator="--"))
    assert next(iter(found)) == path
    assert is_undivided(f"a.txt{path}") == ("--" not in content)


def test_a_document_over_the_limit_is_named_with_its_length(tmp_path: Path) -> None:
    text = "é" * (LIMIT // 2)
    assert read(tmp_path, "a.txt", text.encode()) == ({"": text}, {})
    found = unreadable(tmp_path, "a.txt", (text + "x" * 600_000).encode())
    assert (found.path, found.reason, found.n_bytes) == ("a.txt", "too_long", LIMIT + 600_000)
    assert found.problem == (
        "expected a document of at most 10000 bytes, got 610000; raise prepare.max_document_bytes or name a separator:"
    )
    assert unreadable(tmp_path, "a.html", (text + "x").encode()).reason == "too_long"


def test_a_piece_over_the_limit_leaves_the_others(tmp_path: Path) -> None:
    content = b"one--" + b"x" * 600_000 + b"--" + b"y" * LIMIT + b"--\n" + b"z" * (LIMIT + 1) + b"\n--end"
    texts, reasons = read(tmp_path, "a.txt", content, mine(separator="--"))
    assert texts == {":1": "one", ":3": "y" * LIMIT, ":5": "end"}
    assert reasons == {":2": "too_long", ":4": "too_long"}


@pytest.mark.parametrize(
    ("style", "is_seen"),
    [
        ("color: red", True),
        ("display:none", False),
        ("color: red; DISPLAY: NONE;", False),
        ("display : none", False),
        ("visibility:hidden", False),
        ("visibility: hidden", False),
    ],
)
def test_a_page_is_what_is_seen_of_it(style: str, is_seen: bool, tmp_path: Path) -> None:
    page = (
        "<html><head><title>title</title><style>p { }</style><script>head()</script></head><body>"
        f"<h1>Head</h1><p style='{style}'>styled</p><p hidden>hidden</p><script>run()</script><template>t</template>"
        "<noscript>off</noscript><!-- note --><img alt='picture'><a href='there'>link</a> &amp;&nbsp;é"
        "<ul><li>a<li>b</ul><pre>x\n  y</pre></body></html>"
    )
    texts, _ = read(tmp_path, "a.html", page.encode())
    words = ["Head", *(["styled"] if is_seen else []), "link", "&", "é", "a", "b", "x", "y"]
    assert texts[""].split() == words
    assert "x\n   y" in texts[""] or "x\n  y" in texts[""]


# JSON lines.


def test_a_row_that_gives_no_document_is_named_with_its_line(tmp_path: Path) -> None:
    lines = {
        b'{"text": "one"}': None,
        b'{"text": "cut': "bad_row",
        b"[1, 2]": "bad_row",
        b'"text"': "bad_row",
        b"null": "bad_row",
        b"": None,
        b'{"txt": "one"}': "no_field",
        b"{}": "no_field",
        b'{"text": null}': "no_field",
        b'{"text": 7}': "not_text",
        b'{"text": ["one"]}': "not_text",
        b'{"text": {"text": "one"}}': "not_text",
        b'{"text": "\\ud800"}': "not_unicode",
        b'{"text": "a \\udc00 b"}': "not_unicode",
        b'{"text": "caf\xe9"}': "not_text",
        b'{"text": "\xed\xa0\x80"}': "not_text",
        b"[" * 5000: "bad_row",
        b'{"text": "\\u0000\\ud83d\\ude00"}': None,
        '{"text": "é雨 é雨 é雨"}'.encode(): None,
    }
    texts, reasons = read(tmp_path, "a.jsonl", b"\n".join(lines))
    assert texts == {":1": "one", ":18": "\0😀", ":19": "é雨 é雨 é雨"}
    assert reasons == {f":{n}": reason for n, reason in enumerate(lines.values(), 1) if reason}


def test_a_line_over_the_limit_is_let_go_and_counted(tmp_path: Path) -> None:
    long = json.dumps({"text": "x" * 600_000}).encode()
    content = b'{"text": "one"}\n' + long + b'\n{"text": "three"}\n' + long
    (tmp_path / "file").write_bytes(content)
    found = list(read_file(tmp_path / "file", "a.jsonl", mine(), LIMIT))
    assert [document.path for document in found] == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3", "a.jsonl:4"]
    assert [document.reason for document in found if isinstance(document, Unreadable)] == ["too_long", "too_long"]
    assert [document.n_bytes for document in found if isinstance(document, Unreadable)] == [len(long) + 1, len(long)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_text_over_the_limit_is_named_whatever_the_length_of_its_row(name: str, tmp_path: Path) -> None:
    write = {"a.jsonl": as_jsonl, "a.csv": as_csv, "a.parquet": as_parquet}[name]
    texts, reasons = read(tmp_path, name, write(["é" * (LIMIT // 2), "é" * (LIMIT // 2) + "x", "three"]))
    assert (list(texts), reasons) == ([":1", ":3"], {":2": "too_long"})


def test_a_long_line_is_never_held(tmp_path: Path) -> None:
    content = b'{"text": "' + b"x" * 30_000_000 + b'"}\n{"text": "two"}\n'
    for name, source in {"a.jsonl.gz": mine(), "a.txt.gz": mine(separator="\n"), "b.txt.gz": mine()}.items():
        (tmp_path / "file").write_bytes(gzip.compress(content, 1))
        tracemalloc.start()
        found = list(read_file(tmp_path / "file", name, source, LIMIT))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found[0][2] == "too_long"
        assert len(found) == (1 if name == "b.txt.gz" else 2)
        assert peak < 10_000_000, name


def test_what_stands_before_damage_is_kept(tmp_path: Path) -> None:
    texts = [random.Random(n).randbytes(300).hex() for n in range(3000)]
    whole = gzip.compress(as_jsonl(texts))
    found, reasons = read(tmp_path, "a.jsonl.gz", whole[:-10_000])
    assert reasons == {"": "damaged"}
    assert 2500 < len(found) < 3000
    assert list(found.values()) == texts[: len(found)]
    assert read(tmp_path, "a.txt.gz", whole[:-10_000], limit=10**7) == ({}, {"": "damaged"})


def test_bytes_after_a_gzip_stream_are_named_and_its_content_is_kept(tmp_path: Path) -> None:
    texts, reasons = read(tmp_path, "a.jsonl.gz", gzip.compress(as_jsonl(TEXTS)) + b"garbage")
    assert (texts, reasons) == (ROWS, {"": "damaged"})


def test_what_is_beside_the_text_may_be_what_only_python_writes(tmp_path: Path) -> None:
    lines = [
        '{"text": "one", "score": NaN}',
        '{"score": [Infinity, -Infinity], "text": "two"}',
        '{"text": "three", "other": "\\ud800"}',
        '{"text": NaN}',
    ]
    texts, reasons = read(tmp_path, "a.jsonl", "\n".join(lines).encode())
    assert (texts, reasons) == ({":1": "one", ":2": "two", ":3": "three"}, {":4": "not_text"})
    texts, reasons = read(tmp_path, "a.json", f"[{','.join(lines)}]".encode())
    assert (texts, reasons) == ({":1": "one", ":2": "two", ":3": "three"}, {":4": "not_text"})


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("texts", [TEXTS, [], ["x" * n for n in (9_000, 1, 9_999, 0)] * 200, ["雨" * 3000] * 100])
def test_an_array_of_objects_is_a_document_each(
    texts: list[str], ascii_only: bool, indent: int | None, tmp_path: Path
) -> None:
    content = json.dumps(
        [{"id": 1.5, "text": text, "more": [{}]} for text in texts], indent=indent, ensure_ascii=ascii_only
    )
    found, reasons = read(tmp_path, "a.json", f" \n{content}\n ".encode())
    assert found == {f":{number}": text for number, text in enumerate(texts, 1)}
    assert reasons == ({} if texts else {"": "empty"})


def test_a_row_of_an_array_that_gives_no_document_is_named(tmp_path: Path) -> None:
    rows = [{"text": "one"}, 7, None, {"txt": "a"}, {"text": 1}, {"text": "\ud800"}, {"text": "x" * (LIMIT + 1)}, [1]]
    texts, reasons = read(tmp_path, "a.json", json.dumps([*rows, {"text": "last"}]).encode())
    assert texts == {":1": "one", ":9": "last"}
    expected = ["bad_row", "bad_row", "no_field", "not_text", "not_unicode", "too_long", "bad_row"]
    assert reasons == {f":{number}": reason for number, reason in enumerate(expected, 2)}
    texts, reasons = read(tmp_path, "a.json", b'[{"text": "caf\xe9 \xe9"}, {"text": "\xc3\xa9\xc3\xa9\xc3\xa9"}]')
    assert (texts, reasons) == ({":2": "ééé"}, {":1": "not_text"})


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("", "bad_row"),
        (', {"text": "tw', "bad_row"),
        (", {'text': 'two'}]", "bad_row"),
        (' {"text": "two"}]', "bad_row"),
        (", " + "[" * 100_000, "bad_row"),
        ('] {"text": "more"}', "bad_row"),
        (', {"text": "' + "x" * 300_000 + '"}]', "too_long"),
        (', {"text": "two"} ' + "x" * 3_000_000, "bad_row"),
    ],
)
def test_what_stands_before_the_fault_of_an_array_is_kept(rest: str, reason: str, tmp_path: Path) -> None:
    texts, reasons = read(tmp_path, "a.json", ('[{"text": "one"}' + rest).encode())
    assert texts.pop(":1") == "one"
    assert reasons == {"": reason}


def test_an_array_is_read_without_holding_it(tmp_path: Path) -> None:
    content = json.dumps([{"text": f"{n} " + "x" * 1000} for n in range(40_000)]).encode()
    (tmp_path / "file").write_bytes(gzip.compress(content, 1))
    tracemalloc.start()
    n_found = sum(isinstance(one, RawDocument) for one in read_file(tmp_path / "file", "a.json.gz", mine(), LIMIT))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_found == 40_000
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('{"text": "one"}\n{"text": "two"}\n', {":1": "one", ":2": "two"}),
        ('{"text": "one", "n": NaN}\n', {":1": "one"}),
        ('{\n "text": "one",\n "n": 1\n}\n', {"": "one"}),
        ('{"name": "package", "version": "1.0"}', {"": '{"name": "package", "version": "1.0"}'}),
        ("[1, 2,\n3]", {"": "[1, 2,\n3]"}),
        ("// a comment\n{}", {"": "// a comment\n{}"}),
    ],
)
def test_other_json_is_lines_one_object_or_text_as_it_is(content: str, texts: dict[str, str], tmp_path: Path) -> None:
    assert read(tmp_path, "a.json", content.encode()) == (texts, {})
    assert read(tmp_path, "a.json", b"\xef\xbb\xbf" + content.encode()) == (texts, {})


# Tables.


def test_a_row_of_a_table_that_gives_no_document_is_named(tmp_path: Path) -> None:
    content = (
        b'id,text,more\r\n1,one,\r\n2,two\r\n\r\n3,"a ""quoted""\ntext",x\r\n4,four,x,y\r\n5,"fi"ve,x\r\n'
        b'6,caf\xe9,x\r\n7,"",x\r\n8,a 5" pipe,x\r\n' + '9,"é, 雨",x\n10,"open,x\n'.encode()
    )
    texts, reasons = read(tmp_path, "a.csv", content)
    assert texts == {":1": "one", ":3": 'a "quoted"\ntext', ":7": "", ":8": 'a 5" pipe', ":9": "é, 雨"}
    assert reasons == {":2": "bad_row", ":4": "bad_row", ":5": "bad_row", ":6": "not_text", ":10": "bad_row"}


def test_a_table_is_read_as_it_is_separated_and_the_rule_is_told(tmp_path: Path) -> None:
    lone = b'label\ttext\nham\t"Hello there\nspam\tWin a prize now\nham\tShe said bye"\n'
    texts = {":1": '"Hello there', ":2": "Win a prize now", ":3": 'She said bye"'}
    assert read(tmp_path, "a.tsv", lone) == (texts, {})
    assert read(tmp_path, "a.tsv.gz", gzip.compress(lone)) == (texts, {})
    notes = [found for found in read_file(tmp_path / "file", "a.tsv.gz", mine(), LIMIT) if isinstance(found, FileNote)]
    assert notes == [FileNote("mine", "a.tsv.gz", "dialect", "separated by tabs, quotes are text")]
    assert read(tmp_path, "a.csv", b"id;text\n1;one, two\n") == ({":1": "one, two"}, {})
    assert read(tmp_path, "a.csv", b"v1,text,,\nham,one,,\n") == ({":1": "one"}, {})
    swallowing = b'label,text\nham,"Hello\n' + b"spam,Win\n" * 20 + b'ham,bye"\nham,last\n'
    assert read(tmp_path, "a.csv", swallowing) == ({":2": "last"}, {":1": "bad_row"})


def test_the_column_is_the_one_that_the_source_names(tmp_path: Path) -> None:
    content = b"body\ttext\nthis\tthat\n"
    assert read(tmp_path, "a.tsv", content, mine(text_field="body")) == ({":1": "this"}, {})


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet"])
def test_a_table_without_the_column_says_once_which_there_are(name: str, tmp_path: Path) -> None:
    write = {"a.csv": as_csv, "a.tsv": as_tsv, "a.parquet": as_parquet}[name]
    found = unreadable(tmp_path, name, write(TEXTS), mine(text_field="body"))
    assert (found.path, found.reason) == (name, "no_field")
    assert found.problem == "expected a column body, got id, text"


def test_a_row_that_does_not_end_is_no_way_to_fill_the_memory(tmp_path: Path) -> None:
    content = b'id,text\n1,one\n2,"' + b"never closed\n" * 100_000
    texts, reasons = read(tmp_path, "a.csv", content)
    assert (texts, reasons) == ({":1": "one"}, {"": "too_long"})


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_a_column_of_strings_of_any_kind_is_read_and_a_null_is_named(kind: pa.DataType, tmp_path: Path) -> None:
    rows = TEXTS * 50
    rows[100] = None
    texts, reasons = read(tmp_path, "a.parquet", as_parquet(rows, kind))
    assert texts == {f":{n}": text for n, text in enumerate(rows, 1) if text is not None}
    assert reasons == {":101": "no_field"}


def test_a_column_of_no_strings_is_named(tmp_path: Path) -> None:
    found = unreadable(tmp_path, "a.parquet", as_parquet(TEXTS), mine(text_field="id"))
    assert (found.reason, found.problem) == ("not_text", "expected strings in the column id, got int64")


def test_bytes_that_a_parquet_file_wrongly_calls_a_string_are_named(tmp_path: Path) -> None:
    wrong = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xe9!")])
    file = io.BytesIO()
    parquet.write_table(pa.table({"text": pa.chunked_array([["one"], wrong, ["three"]], pa.string())}), file)
    assert read(tmp_path, "a.parquet", file.getvalue()) == ({":1": "one", ":3": "three"}, {":2": "not_text"})


def test_a_parquet_column_whose_name_is_no_unicode_is_damage(tmp_path: Path) -> None:
    content = as_parquet(TEXTS).replace(b"text", b"te\xaat")
    assert read(tmp_path, "a.parquet", content) == ({}, {"": "damaged"})


@pytest.mark.parametrize("container", ["", ".gz"])
@pytest.mark.parametrize(
    "content", [b"PAR1 no table PAR1", NOISE, as_parquet(TEXTS)[:-30]], ids=["short", "noise", "cut"]
)
def test_what_is_no_parquet_is_damaged(content: bytes, container: str, tmp_path: Path) -> None:
    pack, _ = CONTAINERS[container]
    assert read(tmp_path, f"a.parquet{container}", pack("", content)) == ({}, {"": "damaged"})


def test_a_compressed_parquet_swells_no_further_than_anything_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(gzip.compress(as_parquet(TEXTS) + b"\0" * 1_000_000))
    entries = open_entries(tmp_path / "file", "a.parquet.gz", Limits(free_bytes=1000, ratio=2))
    found = [found for entry in entries if isinstance(entry, Entry) for found in read_entry(entry, mine(), LIMIT)]
    assert [(unread.path, unread.reason) for unread in found if isinstance(unread, Unreadable)] == [
        ("a.parquet.gz", "bomb")
    ]
    assert len(found) == 1


# Encodings.

FRENCH = "Le café était fermé à cause de la fête ; où êtes-vous allés ?\n"
RUSSIAN = "Привет, как дела? Это обычный русский текст, который читают люди каждый день.\n"
JAPANESE = "これは日本語の文章です。毎日読まれている普通の文章であります。\n"
WIDE = ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize("text", [FRENCH, RUSSIAN, "hello there\n", "hi", '{"text": "a"}\n', FRENCH * 9000])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", *WIDE])
def test_unicode_is_recognised_with_and_without_a_mark(encoding: str, text: str, tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", text.encode(encoding), limit=10**6) == ({"": text}, {})


@pytest.mark.parametrize("text", ["café", "Größe", FRENCH, FRENCH * 9000])
def test_western_text_is_recognised(text: str, tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", text.encode("latin-1"), limit=10**6) == ({"": text}, {})


def test_quotes_and_dashes_of_windows_are_recognised(tmp_path: Path) -> None:
    text = "“The river” – it’s said – runs for 5 €.\n"
    assert read(tmp_path, "a.txt", text.encode("cp1252")) == ({"": text}, {})


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-be", "utf-32-le", "utf-8-sig"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.html", "a.py", "a.txt"])
def test_every_format_of_text_may_have_any_of_these_encodings(name: str, encoding: str, tmp_path: Path) -> None:
    content = {"a.jsonl": as_jsonl([FRENCH]), "a.csv": as_csv([FRENCH]), "a.tsv": as_tsv([FRENCH])}.get(name)
    content = (content or FRENCH.encode()).decode().encode(encoding)
    texts, reasons = read(tmp_path, name, content)
    assert ([text.strip() for text in texts.values()], reasons) == ([FRENCH.strip()], {})


BINARY = {
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + NOISE,
    "elf": b"\x7fELF\2\1\1" + b"\0" * 9 + NOISE,
    "gzip": gzip.compress(NOISE),
    "noise": NOISE,
    "noise without zeros": NOISE.replace(b"\0", b""),
}


@pytest.mark.parametrize("encoding", [None, "cp1252", "latin-1", "koi8-r", "utf-8"])
@pytest.mark.parametrize("kind", BINARY)
@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.csv", "a.jsonl", "a.json"])
def test_binary_data_is_refused_as_such_whatever_encoding_is_named(
    name: str, kind: str, encoding: str | None, tmp_path: Path
) -> None:
    texts, reasons = read(tmp_path, name, BINARY[kind], mine(encoding=encoding))
    assert not texts
    assert reasons
    if encoding != "utf-8":
        found = unreadable(tmp_path, name, BINARY[kind], mine(encoding=encoding))
        assert (found.path, found.problem) == (name, "expected text, got binary data")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.rtf", rb"{\rtf1\ansi Hello \b there\b0}", "an RTF document"),
        ("a.txt", rb"{\rtf1\ansi Hello \b there\b0}", "an RTF document"),
        ("a.pdf", b"%PDF-1.4\n1 0 obj\n<< >>\nendobj\n", "a PDF document"),
        ("a.docx", as_zip("word/document.xml", b"<w:document/>"), "a .docx document"),
        ("a.epub", as_zip("text.xhtml", b"<p>Hello</p>"), "a .epub document"),
        ("a", as_zip("word/document.xml", b"<w:document/>"), "a ZIP archive or a document made of one"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + NOISE, "a document of old Office"),
    ],
)
@pytest.mark.parametrize("container", ["", ".gz", ".zip"])
@pytest.mark.parametrize("encoding", [None, "cp1252"])
def test_documents_that_need_a_converter_are_refused_by_name(
    name: str, content: bytes, told: str, container: str, encoding: str | None, tmp_path: Path
) -> None:
    pack, within = CONTAINERS[container]
    found = unreadable(tmp_path, name + container, pack(name, content), mine(encoding=encoding))
    assert (found.path, found.reason) == (name + container + within.format(name), "unsupported_format")
    assert found.problem == f"expected text, got {told}; convert it to text"


def test_old_text_called_doc_is_text(tmp_path: Path) -> None:
    assert read(tmp_path, "readme.doc", b"Plain text.\n") == ({"": "Plain text.\n"}, {})


@pytest.mark.parametrize(("encoding", "text"), [("koi8-r", RUSSIAN), ("shift-jis", JAPANESE), ("utf-16-be", "hi")])
def test_an_encoding_that_is_named_is_taken(encoding: str, text: str, tmp_path: Path) -> None:
    source = mine(encoding=encoding)
    assert read(tmp_path, "a.txt", text.encode(encoding), source) == ({"": text}, {})
    content = as_jsonl([text, "b"]).decode().encode(encoding)
    assert read(tmp_path, "a.jsonl", content, source) == ({":1": text, ":2": "b"}, {})


def test_an_encoding_that_is_named_is_strict(tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", b"caf\xe9", mine(encoding="utf-8")) == ({}, {"": "not_text"})
    assert read(tmp_path, "a.txt", b"caf\xe9", mine(encoding="ascii")) == ({}, {"": "not_text"})
    assert read(tmp_path, "a.txt", "\ufeffé".encode(), mine(encoding="utf-8")) == ({"": "é"}, {})
    assert read(tmp_path, "a.txt", "\ufeffé".encode("utf-16-le"), mine(encoding="utf-16-le")) == ({"": "é"}, {})


def test_in_another_encoding_than_utf8_all_up_to_the_wrong_byte_is_kept(tmp_path: Path) -> None:
    content = as_jsonl(["é one", "two"]).decode().encode("shift-jis", "ignore") + b'{"text": "\xff"}\n{"text": "x"}\n'
    texts, reasons = read(tmp_path, "a.jsonl", content, mine(encoding="shift-jis"))
    assert (texts, reasons) == ({":1": " one", ":2": "two"}, {"": "not_text"})
    cut = as_jsonl(["one", "two"]).decode().encode("utf-16")[:-1]
    assert read(tmp_path, "a.jsonl", cut) == ({":1": "one"}, {"": "not_text"})


def test_damage_in_utf8_does_not_make_it_another_encoding(tmp_path: Path) -> None:
    lines = as_jsonl(["broken ?", *TEXTS]).replace(b"?", b"\xff")
    texts, reasons = read(tmp_path, "a.jsonl", lines)
    assert (list(texts.values()), reasons) == (TEXTS, {":1": "not_text"})
    assert read(tmp_path, "a.txt", lines) == ({}, {"": "not_text"})


def test_zeros_alone_do_not_make_utf16(tmp_path: Path) -> None:
    for content in (
        b"a\0b text with a zero in it",
        b"def f():\n    pass\n\0",
        "é\0à text".encode(),
        b"name\0value\0" * 9,
    ):
        assert read(tmp_path, "a.txt", content) == ({"": content.decode()}, {})
    assert read(tmp_path, "a.txt", b"caf\xe9 \0 here and there") == ({}, {"": "not_text"})


@pytest.mark.parametrize("length", range(262_141, 262_147))
def test_a_character_may_lie_across_the_end_of_what_is_looked_at(length: int, tmp_path: Path) -> None:
    text = "x" * length + "雨 falls"
    assert read(tmp_path, "a.txt", text.encode(), limit=10**6) == ({"": text}, {})


def test_a_coding_comment_says_how_a_python_file_is_to_be_read(tmp_path: Path) -> None:
    text = f"#!/usr/bin/python\n# -*- coding: koi8-r -*-\nx = '{RUSSIAN.strip()}'\n"
    assert read(tmp_path, "a.py", text.encode("koi8-r")) == ({"": text}, {})
    assert read(tmp_path, "a.py", text.encode()) == ({"": text}, {}), "what is UTF-8 is read so, as it cannot be chance"
    assert read(tmp_path, "a.rb", text.encode("koi8-r")) == ({"": text}, {})
    for codec, reason in {b"rot13": "unclear_encoding", b"unknown": "unclear_encoding", b"idna": "not_text"}.items():
        content = b"# coding: " + codec + b"\nx = '\xd0\x81\x8d\x8f'\n"
        assert read(tmp_path, "a.py", content) == ({}, {"": reason})
    assert read(tmp_path, "a.py", "x = 'café'\n".encode("latin-1")) == ({"": "x = 'café'\n"}, {})
