"""A disk as it is: one file of each kind, and hostile ones; every file becomes documents or is reported."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from llm.core.tables import read_table
from llm.corpus.params import FilesSource
from llm.report.prepare import markdown
from stages import prepare

MAX_DOCUMENT_BYTES = 200_000
RUSSIAN = " Быстрая коричневая лиса прыгает через ленивую собаку"


def text_of(name: str) -> str:
    """A text of its own for each file, so that none is another's duplicate."""
    return f"This is the text of {name}: " + " ".join(f"{name}{number}" for number in range(20))


def as_zip(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def as_tar(name: str, content: bytes = b"", link: str = "") -> bytes:
    file, member = io.BytesIO(), tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(content), tarfile.SYMTYPE if link else tarfile.REGTYPE, link
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def as_parquet(text: str) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": [text]}), file)
    return file.getvalue()


def encrypted(archive: bytes) -> bytes:
    """The same archive with the flag of an encrypted member, in both of its headers."""
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = archive.index(signature) + offset
        archive = archive[:at] + b"\1\0" + archive[at + 2 :]
    return archive


def plain(name: str) -> bytes:
    return text_of(name).encode()


ROWS = [json.dumps({"text": text_of(f"row {number}"), "n": number}) for number in (1, 2)]
Y = gzip.compress(json.dumps({"text": text_of("y")}).encode())
PACKED = {"inner/x.txt": plain("x in zip"), "inner/y.jsonl.gz": Y}
# A file's name, its content, and the documents in it: what follows the name, and the name of the text.
GOOD: dict[str, tuple[bytes, dict[str, str]]] = {
    **{name: (plain(name), {"": name}) for name in ("a.txt", "b.md", "c.rst", "d.py")},
    "e.html": (f"<title>t</title><script>x</script><p>{text_of('e')}</p>".encode(), {"": "e"}),
    "mark.txt": (b"\xef\xbb\xbf" + plain("mark"), {"": "mark"}),
    "utf16.txt": (text_of("utf16").encode("utf-16"), {"": "utf16"}),
    "latin.txt": ((text_of("latin") + " déjà vu à la carte").encode("latin-1"), {"": "latin"}),
    "koi.txt": ((text_of("koi") + RUSSIAN).encode("koi8-r"), {"": "koi"}),
    "f.txt.gz": (gzip.compress(plain("f")), {"": "f"}),
    "g.txt.bz2": (bz2.compress(plain("g")), {"": "g"}),
    "h.txt.xz": (lzma.compress(plain("h")), {"": "h"}),
    "i.txt.zst": (zstandard.compress(plain("i")), {"": "i"}),
    "j.jsonl": ("\n".join(ROWS).encode(), {":1": "row 1", ":2": "row 2"}),
    "k.csv": (f'n,text\n1,"{text_of("k")}"\n'.encode(), {":1": "k"}),
    "l.tsv": (f"n\ttext\n1\t{text_of('l')}\n".encode(), {":1": "l"}),
    "m.parquet": (as_parquet(text_of("m")), {":1": "m"}),
    "n.zip": (as_zip(PACKED), {"/inner/x.txt": "x in zip", "/inner/y.jsonl.gz:1": "y"}),
    "o.tar.gz": (as_tar("deep/z.txt", plain("o")), {"/deep/z.txt": "o"}),
}
LONG_LINE = b'{"text": "' + b"x" * (3 * MAX_DOCUMENT_BYTES) + b'"}\n'
# A file's name, its content, and the reasons that are counted, by what follows the name.
HOSTILE: dict[str, tuple[bytes, dict[str, str]]] = {
    "bomb.txt.gz": (gzip.compress(bytes(150_000_000), compresslevel=9), {"": "bomb"}),
    "cut.jsonl.gz": (gzip.compress(json.dumps({"text": "z" * 5000}).encode() * 9)[:60], {"": "damaged"}),
    "climbs.zip": (as_zip({"../../etc/climbed.txt": b"no"}), {"/../../etc/climbed.txt": "bad_path"}),
    "links.tar.gz": (as_tar("passwd.txt", link="/etc/passwd"), {"/passwd.txt": "not_a_file"}),
    "nested.zip": (as_zip({"inner.zip": as_zip({"x.txt": b"text"})}), {"/inner.zip": "nested_archive"}),
    "locked.zip": (encrypted(as_zip({"secret.txt": b"text"})), {"/secret.txt": "encrypted"}),
    "nothing.txt": (b"", {"": "empty"}),
    "blank.txt": (b" \n\t\n", {"": "empty"}),
    "nul.txt": (b"\0" * 40, {"": "empty"}),  # nothing is left of it
    "picture.png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xd8\xe7\x81", {"": "not_text"}),
    "surrogate.jsonl": (b'{"text": "\\ud800 alone"}\n', {":1": "not_unicode"}),
    "longline.jsonl": (LONG_LINE, {":1": "too_long"}),
    "long.txt": (b"long " * MAX_DOCUMENT_BYTES, {"": "too_long"}),
    "rows.jsonl": (
        b'{"texts": 1}\n{"text": 7}\n[1]\n{"text": \n',
        {":1": "no_field", ":2": "not_text", ":3": "bad_row", ":4": "bad_row"},
    ),
    "no.parquet": (b"PAR1 this is none", {"": "damaged"}),
    "other.csv": (b"a,b\n1,2\n", {"": "no_field"}),
    "maybe.txt": (b"na\xefve", {"": "unclear_encoding"}),
    "letter.rtf": (rb"{\rtf1\ansi Hello}", {"": "unsupported_format"}),
    ".git/config": (b"url = https://token@example.org", {"": "hidden"}),
}


def named(files: dict[str, tuple[bytes, dict[str, str]]]) -> dict[str, str]:
    return {name + place: of for name, (_, places) in files.items() for place, of in places.items()}


@pytest.fixture
def run(tmp_path: Path, prepare_params: Callable) -> Callable[[dict[str, bytes]], tuple[dict[str, str], dict, dict]]:
    """Runs the stage over files; the text of each document by its path, the details and the metrics."""

    def run_stage(files: dict[str, bytes]) -> tuple[dict[str, str], dict, dict]:
        raw, corpus, metrics, details, scratch = (tmp_path / name for name in ("raw", "corpus", "m", "d", "scratch"))
        for name, content in files.items():
            (raw / name).parent.mkdir(parents=True, exist_ok=True)
            (raw / name).write_bytes(content)
        (raw / "loop").symlink_to(raw, target_is_directory=True)
        os.mkfifo(raw / "pipe.txt")
        scratch.mkdir()
        source = FilesSource(name="disk", kind="files", globs=[f"{raw.as_posix()}/**/*"], on_error="skip")
        section = prepare_params([source], max_document_bytes=MAX_DOCUMENT_BYTES)
        prepare.main(section, scratch, raw, Path("requirements.lock"), corpus, metrics, details)
        rows = read_table(corpus / "train.parquet").to_pylist()
        assert len({row["path"] for row in rows}) == len(rows)
        texts = {row["path"]: row["text"] for row in rows}
        return texts, json.loads(details.read_text()), json.loads(metrics.read_text())

    return run_stage


def test_every_file_is_a_document_or_reported(run: Callable, tmp_path: Path) -> None:
    documents, details, metrics = run({name: content for name, (content, _) in (GOOD | HOSTILE).items()})
    assert set(documents) == set(named(GOOD))
    assert all(text_of(name) in documents[path] for path, name in named(GOOD).items())
    reported = {path: rule for rule, of in details["dropped"].items() for path, _ in of["examples"]}
    assert reported == named(HOSTILE) | {"loop": "linked_folder"}
    assert sum(of["documents"] for of in metrics["dropped"].values()) == len(reported)
    assert not (tmp_path / "etc").exists()
    doubtful = {path: note.partition(", confidence")[0] for path, note in details["encodings"].items()}
    assert doubtful == {"koi.txt": "koi8-r, guessed", "latin.txt": "cp1252, guessed"}
    assert metrics["files_of_doubtful_encoding"] == 2


def test_a_hostile_name_is_one_line(run: Callable) -> None:
    _, details, metrics = run({"a.txt": b"text\n", "evil\n# name\x1b[31m.txt": b"\xff\xfe\xfd\x00\xd8"})
    assert metrics["dropped"]["not_text"] == {"documents": 1, "bytes": 5}
    report = markdown(details)
    assert not any(line.startswith("# name") for line in report.splitlines()) and "\x1b" not in report
