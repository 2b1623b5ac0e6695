"""A disk as it is: files of several kinds, and hostile ones; every file becomes documents or is reported."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

from llm.core.tables import read_table
from llm.corpus.params import FilesSource
from llm.report.prepare import markdown
from stages import prepare
from tests.corpus.archives import make_zip

MAX_DOCUMENT_BYTES = 200_000
RUSSIAN = " Быстрая коричневая лиса прыгает через ленивую собаку"


def text_of(name: str) -> str:
    """A text of its own for each file, so that none is another's duplicate."""
    return f"This is the text of {name}: " + " ".join(f"{name}{number}" for number in range(20))


ROWS = [json.dumps({"text": text_of(f"row {number}"), "n": number}) for number in (1, 2)]
Y = gzip.compress(json.dumps({"text": text_of("y")}).encode())
# A file's name, its content, and the documents in it: what follows the name, and the name of the text.
GOOD: dict[str, tuple[bytes, dict[str, str]]] = {
    **{name: (text_of(name).encode(), {"": name}) for name in ("a.txt", "d.py")},
    "e.html": (f"<title>t</title><script>x</script><p>{text_of('e')}</p>".encode(), {"": "e"}),
    "utf16.txt": (text_of("utf16").encode("utf-16"), {"": "utf16"}),
    "koi.txt": ((text_of("koi") + RUSSIAN).encode("koi8-r"), {"": "koi"}),
    "j.jsonl": ("\n".join(ROWS).encode(), {":1": "row 1", ":2": "row 2"}),
    "l.tsv": (f"n\ttext\n1\t{text_of('l')}\n".encode(), {":1": "l"}),
    "n.zip": (
        make_zip({"in/x.txt": text_of("x").encode(), "in/y.jsonl.gz": Y}),
        {"/in/x.txt": "x", "/in/y.jsonl.gz:1": "y"},
    ),
}
# A file's name, its content, and the reasons that are counted, by what follows the name.
HOSTILE: dict[str, tuple[bytes, dict[str, str]]] = {
    "bomb.txt.gz": (gzip.compress(bytes(150_000_000), compresslevel=9), {"": "bomb"}),
    "climbs.zip": (make_zip({"../../etc/climbed.txt": b"no"}), {"/../../etc/climbed.txt": "bad_path"}),
    "blank.txt": (b" \n\t\n", {"": "empty"}),
    "nul.txt": (b"\0" * 40, {"": "empty"}),  # nothing is left of it
    "picture.png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xd8\xe7\x81", {"": "not_text"}),
    "long.txt": (b"long " * MAX_DOCUMENT_BYTES, {"": "too_long"}),
    "rows.jsonl": (b'{"texts": 1}\n[1]\n{"text": "\\ud800"}', {":1": "no_field", ":2": "bad_row", ":3": "not_unicode"}),
    "no.parquet": (b"PAR1 this is none", {"": "damaged"}),
    "maybe.txt": (b"na\xefve", {"": "unclear_encoding"}),
    "letter.rtf": (rb"{\rtf1\ansi Hello}", {"": "unsupported_format"}),
    ".git/config": (b"url = https://token@example.org", {"": "hidden"}),
    "evil\n# name\x1b[31m.txt": (b"\xff\xfe\xfd\x00\xd8", {"": "not_text"}),
}


def named(files: dict[str, tuple[bytes, dict[str, str]]]) -> dict[str, str]:
    return {name + place: of for name, (_, places) in files.items() for place, of in places.items()}


def test_every_file_is_a_document_or_reported(tmp_path: Path, prepare_params: Callable) -> None:
    raw, corpus, metrics, details, scratch = (tmp_path / name for name in ("raw", "corpus", "m", "d", "scratch"))
    for name, (content, _) in (GOOD | HOSTILE).items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(content)
    (raw / "loop").symlink_to(raw, target_is_directory=True)
    os.mkfifo(raw / "pipe.txt")
    scratch.mkdir()
    source = FilesSource(name="disk", kind="files", globs=[f"{raw.as_posix()}/**/*"], on_error="skip")
    section = prepare_params([source], max_document_bytes=MAX_DOCUMENT_BYTES)
    prepare.main(section, scratch, raw, Path("requirements.lock"), corpus, metrics, details)
    rows = read_table(corpus / "train.parquet").to_pylist()
    documents = {row["path"]: row["text"] for row in rows}
    assert set(documents) == set(named(GOOD)) and len(rows) == len(documents)
    assert all(text_of(name) in documents[path] for path, name in named(GOOD).items())
    shown = json.loads(details.read_text())
    reported = {path: rule for rule, of in shown["dropped"].items() for path, _ in of["examples"]}
    assert reported == {
        path.replace("\n", "\\n").replace("\x1b", "\\x1b"): rule for path, rule in named(HOSTILE).items()
    } | {"loop": "linked_folder"}
    counts = json.loads(metrics.read_text())
    assert sum(of["documents"] for of in counts["dropped"].values()) == len(reported)
    assert not (tmp_path / "etc").exists()
    assert [*shown["encodings"]] == ["koi.txt"] and counts["files_of_doubtful_encoding"] == 1
    report = markdown(shown)
    assert not any(line.startswith("# name") for line in report.splitlines()) and "\x1b" not in report
