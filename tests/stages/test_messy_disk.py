"""A disk as it is: one file of each kind, and hostile ones; every file becomes documents or is reported."""

import bz2
import gzip
import io
import json
import lzma
import os
import struct
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


def text_of(name: str) -> str:
    """A text of its own for each file, so that none is another's duplicate."""
    return f"This is what stands in {name}: " + " ".join(f"{name}{number}" for number in range(20))


def write_good(raw: Path) -> dict[str, str]:
    """One file of each kind that is read; the path of each document, and how its text begins."""
    page = "<html><head><title>t</title><script>x</script></head><body><p>{}</p></body></html>"
    plain: dict[str, bytes] = {
        "a.txt": text_of("a.txt").encode(),
        "b.md": text_of("b.md").encode(),
        "c.rst": text_of("c.rst").encode(),
        "d.py": f"# {text_of('d.py')}\n".encode(),
        "e.html": page.format(text_of("e.html")).encode(),
        "mark.txt": b"\xef\xbb\xbf" + text_of("mark.txt").encode(),
        "utf16.txt": text_of("utf16.txt").encode("utf-16"),
        "latin.txt": (text_of("latin.txt") + " déjà vu à la carte").encode("latin-1"),
        "koi.txt": (text_of("koi.txt") + " Быстрая коричневая лиса прыгает через ленивую собаку").encode("koi8-r"),
        "f.txt.gz": gzip.compress(text_of("f.txt.gz").encode()),
        "g.txt.bz2": bz2.compress(text_of("g.txt.bz2").encode()),
        "h.txt.xz": lzma.compress(text_of("h.txt.xz").encode()),
        "i.txt.zst": zstandard.compress(text_of("i.txt.zst").encode()),
    }
    for name, content in plain.items():
        (raw / name).write_bytes(content)
    rows = [{"text": text_of(f"row {number}"), "n": number} for number in (1, 2)]
    (raw / "j.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (raw / "k.csv").write_text(f'n,text\n1,"{text_of("k.csv")}"\n')
    (raw / "l.tsv").write_text(f"n\ttext\n1\t{text_of('l.tsv')}\n")
    pq.write_table(pa.table({"text": [text_of("m.parquet")]}), raw / "m.parquet")
    with zipfile.ZipFile(raw / "n.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner/x.txt", text_of("n.zip"))
        archive.writestr("inner/y.jsonl.gz", gzip.compress(json.dumps({"text": text_of("y in n.zip")}).encode()))
    write_tar(raw / "o.tar.gz", {"deep/z.txt": text_of("o.tar.gz").encode()})
    members = {
        "n.zip/inner/x.txt": "n.zip",
        "n.zip/inner/y.jsonl.gz:1": "y in n.zip",
        "o.tar.gz/deep/z.txt": "o.tar.gz",
    }
    tables = {"j.jsonl:1": "row 1", "j.jsonl:2": "row 2", "k.csv:1": "k.csv", "l.tsv:1": "l.tsv"}
    return {name: name for name in plain} | members | tables | {"m.parquet:1": "m.parquet"}


def write_tar(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)


def write_hostile(raw: Path) -> dict[str, str]:
    """Files that are no documents; the path of each problem and the reason that is to be counted."""
    (raw / "bomb.txt.gz").write_bytes(gzip.compress(bytes(150_000_000), compresslevel=9))
    (raw / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": "z" * 5000}).encode() * 9)[:60])
    with zipfile.ZipFile(raw / "climbs.zip", "w") as archive:
        archive.writestr("../../etc/climbed.txt", "no")
    write_tar(raw / "links.tar.gz", {}, {"passwd.txt": "/etc/passwd"})
    (raw / "nested.zip").write_bytes(zip_of("inner.zip", zip_of("x.txt", b"text")))
    (raw / "locked.zip").write_bytes(encrypted(zip_of("secret.txt", b"text")))
    (raw / "nothing.txt").touch()
    (raw / "blank.txt").write_text(" \n\t\n")
    (raw / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xd8\xe7\x81")
    (raw / "surrogate.jsonl").write_text('{"text": "\\ud800 alone"}\n')
    (raw / "longline.jsonl").write_bytes(b'{"text": "' + b"x" * (3 * MAX_DOCUMENT_BYTES) + b'"}\n')
    (raw / "long.txt").write_text("long " * MAX_DOCUMENT_BYTES)
    (raw / "rows.jsonl").write_text('{"texts": 1}\n{"text": 7}\n[1]\n{"text": \n')
    (raw / "no.parquet").write_bytes(b"PAR1 this is none")
    (raw / "other.csv").write_text("a,b\n1,2\n")
    (raw / "maybe.txt").write_bytes(b"na\xefve")
    (raw / "letter.rtf").write_bytes(rb"{\rtf1\ansi Hello}")
    (raw / ".git").mkdir()
    (raw / ".git" / "config").write_text("url = https://token@example.org")
    (raw / "nul.txt").write_bytes(b"\0" * 40)
    (raw / "loop").symlink_to(raw, target_is_directory=True)
    os.mkfifo(raw / "pipe.txt")
    return {
        "bomb.txt.gz": "bomb",
        "cut.jsonl.gz": "damaged",
        "climbs.zip/../../etc/climbed.txt": "bad_path",
        "links.tar.gz/passwd.txt": "not_a_file",
        "nested.zip/inner.zip": "nested_archive",
        "locked.zip/secret.txt": "encrypted",
        "nothing.txt": "empty",
        "blank.txt": "empty",
        "picture.png": "not_text",
        "surrogate.jsonl:1": "not_unicode",
        "longline.jsonl:1": "too_long",
        "long.txt": "too_long",
        "rows.jsonl:1": "no_field",
        "rows.jsonl:2": "not_text",
        "rows.jsonl:3": "bad_row",
        "rows.jsonl:4": "bad_row",
        "no.parquet": "damaged",
        "other.csv": "no_field",
        "maybe.txt": "unclear_encoding",
        "letter.rtf": "unsupported_format",
        ".git/config": "hidden",
        "loop": "linked_folder",
        "nul.txt": "empty",  # nothing is left of it
    }


def zip_of(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def encrypted(archive: bytes) -> bytes:
    """The same archive with the flag that says that its member is encrypted, in both of its headers."""
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = archive.index(signature) + offset
        archive = archive[:at] + struct.pack("<H", 1) + archive[at + 2 :]
    return archive


@pytest.fixture
def run(tmp_path: Path, prepare_params: Callable) -> Callable[[Path], tuple[dict[str, str], dict, dict]]:
    """Runs the stage over all files; the text of each document by its path, the details and the metrics."""

    def run_stage(raw: Path) -> tuple[dict[str, str], dict, dict]:
        source = FilesSource(name="disk", kind="files", globs=[f"{raw.as_posix()}/**/*"], on_error="skip")
        section = prepare_params([source], max_document_bytes=MAX_DOCUMENT_BYTES)
        corpus, metrics, details = (tmp_path / name for name in ("corpus", "metrics.json", "details.json"))
        (tmp_path / "scratch").mkdir(exist_ok=True)
        prepare.main(section, tmp_path / "scratch", raw, Path("requirements.lock"), corpus, metrics, details)
        rows = read_table(corpus / "train.parquet").to_pylist()
        found = {row["path"]: row["text"] for row in rows}
        assert len(found) == len(rows)
        return found, json.loads(details.read_text()), json.loads(metrics.read_text())

    return run_stage


def test_every_file_is_a_document_or_reported(run: Callable, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    good, hostile = write_good(raw), write_hostile(raw)
    documents, details, metrics = run(raw)
    assert set(documents) == set(good)
    for path, name in good.items():
        assert text_of(name) in documents[path]
    reported = {path: rule for rule, of in details["dropped"].items() for path, _ in of["examples"]}
    assert reported == hostile
    assert sum(of["documents"] for of in metrics["dropped"].values()) == len(hostile)
    assert not (tmp_path / "etc").exists()
    doubtful = {path: note.partition(", confidence")[0] for path, note in details["encodings"].items()}
    assert doubtful == {"koi.txt": "koi8-r, guessed", "latin.txt": "cp1252, guessed"}
    assert metrics["files_of_doubtful_encoding"] == 2


def test_a_hostile_name_is_one_line(run: Callable, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.txt").write_text("text\n")
    (raw / "evil\n# name\x1b[31m.txt").write_bytes(b"\xff\xfe\xfd\x00\xd8")
    _, details, metrics = run(raw)
    assert metrics["dropped"] == {"not_text": {"documents": 1, "bytes": 5}}
    report = markdown(details)
    assert not any(line.startswith("# name") for line in report.splitlines())
    assert "\x1b" not in report
