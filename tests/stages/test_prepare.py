"""Sources in, documents out: what is kept, what is dropped and counted, and that each document has one place."""

import json
import re
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm.core.errors import UserError
from llm.core.tables import CORPUS, SPLITS, read_table
from llm.corpus.params import FilesSource, PythonSource
from llm.report.stages import documents as markdown
from llm.tokens.windows import read_info, read_windows
from stages import sample, tokenize
from stages.prepare import main

Prepare = Callable[..., tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]]
BINARY = b"\x89\xff\xfe\xd8\x00\x81"
RUSSIAN = "Старик вставал каждое утро до рассвета, пил чай и шёл вдоль реки. Дети улыбались ему."
NEAR = {"action": "drop", "threshold": 0.7, "ngram": 3, "permutations": 128, "bands": 32}


def fractions(val: float = 0, test: float = 0, method: str = "document") -> dict[str, Any]:
    return {"method": method, "val": val, "test": test}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


@pytest.fixture
def run(tmp_path: Path, raw: Path) -> Callable[..., Path]:
    """A runner of the stage for a section; the corpus' folder, with metrics and report beside it."""

    def run(section: Any, name: str = "corpus", raw: Path = raw) -> Path:
        corpus, scratch, details = (tmp_path / f"{name}{suffix}" for suffix in ("", ".scratch", ".details"))
        scratch.mkdir(exist_ok=True)
        main(section, scratch, raw, Path("requirements.lock"), corpus, corpus.with_suffix(".json"), details)
        corpus.with_suffix(".md").write_text(markdown(json.loads(details.read_text())))
        return corpus

    return run


@pytest.fixture
def prepare(run: Callable[..., Path], raw: Path, prepare_params: Callable) -> Prepare:
    """A runner over the files under `raw`; gives back the rows of each split and the metrics."""

    def of_files(split: dict, name: str = "corpus", source: dict | None = None, **rest: Any) -> tuple[dict, dict]:
        given = {"globs": [f"{raw.as_posix()}/*"], "on_error": "skip"} | (source or {})
        files = FilesSource(name="mine", kind="files", **given)
        corpus = run(prepare_params([files], split, **rest), name)
        rows = {split: read_table(corpus / f"{split}.parquet").to_pylist() for split in SPLITS}
        return rows, json.loads(corpus.with_suffix(".json").read_text())

    return of_files


def write(raw: Path, **texts: str | bytes) -> None:
    for name, text in texts.items():
        (raw / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


def places(rows: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    return {row["doc_id"]: split for split, of_split in rows.items() for row in of_split}


def lines_of(captured: pytest.CaptureFixture[str]) -> list[str]:
    """What the stage printed on stderr, without its progress bar."""
    return [line for line in captured.readouterr().err.splitlines() if re.match("prepare: (?!.*%\\|)", line)]


def test_dropped_documents_are_counted(raw: Path, prepare: Prepare, tmp_path: Path, capsys) -> None:
    write(raw, a="one\n", b="one\r\n", c="", d=" \n\t", f="two\n", g="on\x00e\n", koi=RUSSIAN.encode("koi8-r"))
    write(raw, **{"evil\n# name\x1b": BINARY})
    (raw / "t.tsv").write_text("n\ttext\n1\tthree\n")
    rows, metrics = prepare(fractions())
    assert [row["text"] for row in rows["train"]] == ["one\n", "two\n", RUSSIAN, "three"]
    assert read_table(tmp_path / "corpus" / "train.parquet").schema == CORPUS
    assert metrics["changed_by_normalising"] == {"documents": 1, "bytes": 1}
    assert metrics["dropped"] == {
        "empty": {"documents": 2, "bytes": 3},
        "exact_duplicate": {"documents": 2, "bytes": 8},
        "not_text": {"documents": 1, "bytes": 6},
    }
    assert (metrics["control_character_bytes_removed"], metrics["files_of_doubtful_encoding"]) == (1, 1)
    assert metrics["documents"] == {"train": 4, "val": 0, "test": 0}
    assert metrics["bytes_by_source"] == {"mine": metrics["bytes"]["train"]} == {"mine": 13 + len(RUSSIAN.encode())}
    report = (tmp_path / "corpus.md").read_text()
    for line in (
        "| mine | 9 | 4 | ",
        "- `b.txt` · like a.txt",
        " · expected text, got binary data",
        "koi.txt",
        "t.tsv",
    ):
        assert line in report
    assert not any(line.startswith("# name") for line in report.splitlines()) and "\x1b" not in report
    assert "Rules that are turned off: max chars, repetition, near duplicates." in report
    out, err = capsys.readouterr()
    assert "prepare: left out: 2 empty, 2 exact duplicate, 1 not text; see reports/prepare.md" in out
    assert "prepare: t.tsv: separated by tabs, quotes are text" in out
    assert "prepare: warning: koi.txt: encoding koi8" in err


@pytest.mark.filterwarnings("ignore")  # ray's own, of its libraries
def test_ray_writes_the_same_corpus(raw: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    write(raw, a="one\n", b="\x00two é\r\n", c=BINARY, **{f"d{n}": f"document {n}\n" for n in range(30)})
    alone = prepare(fractions(0.2, 0.3), clean={"near_duplicates": NEAR})
    assert prepare(fractions(0.2, 0.3), "ray", clean={"near_duplicates": NEAR}, engine="ray") == alone
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(UserError, match=r"^prepare\.engine: expected the package ray, it is not installed \(make ext"):
        prepare(fractions(), engine="ray")


def test_an_unreadable_file_ends_the_stage_unless_skipped(raw: Path, prepare: Prepare) -> None:
    write(raw, a="one\n", b=BINARY)
    with pytest.raises(UserError, match=r"^source mine: b\.txt: expected .* \(on_error: skip leaves it out\)$"):
        prepare(fractions(), source={"on_error": "fail"})


def test_near_duplicates_are_in_one_split(raw: Path, prepare: Prepare) -> None:
    words = [" ".join(f"word{number}x{place}" for place in range(39)) for number in range(30)]
    write(raw, **{f"t{n:02}{own}": f"{of} {own}" for n, of in enumerate(words) for own in "ab"})
    group = {"near_duplicates": NEAR | {"action": "group"}}
    rows, metrics = prepare(fractions(0.3, 0.3, "auto"), clean=group)
    split_of = {row["path"]: split for split, of_split in rows.items() for row in of_split}
    assert all(split_of[f"t{n:02}a.txt"] == split_of[f"t{n:02}b.txt"] for n in range(30)) and len(split_of) == 60
    assert (metrics["dropped"], metrics["split_method"]) == ({}, "document")


def test_each_document_is_in_one_split_and_stays_there(raw: Path, prepare: Prepare, tmp_path: Path) -> None:
    split = fractions(val=0.2, test=0.3)
    write(raw, **{f"d{n}": f"document {n}\n" for n in range(200)})
    before, metrics = prepare(split, name="first")
    assert sum(map(len, before.values())) == len(places(before)) == 200
    # Four standard deviations of a binomial count.
    assert metrics["documents"]["val"] == pytest.approx(40, abs=23)
    assert metrics["documents"]["test"] == pytest.approx(60, abs=26)
    prepare(split, name="again")
    for name in [f"{split}.parquet" for split in SPLITS]:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    write(raw, a="new and first\n", d7x="new and between\n")
    after, _ = prepare(split, name="after")
    assert places(before).items() < places(after).items() and len(places(after)) == 202


def test_a_corpus_of_train_alone_becomes_windows(
    raw: Path, prepare: Prepare, tmp_path: Path, tokenize_params, window_params, monkeypatch
) -> None:
    for folder in ("data/tokenizer", "metrics/details", "reports", "plots/tokenize"):
        (tmp_path / folder).mkdir(parents=True)
    write(raw, a="all of it trains, none is held out\n" * 4)
    prepare(fractions(), name="data/corpus")
    monkeypatch.chdir(tmp_path)  # the stages have default paths
    tokenize.main(tokenize_params(), 1)
    sample.main(window_params())
    assert [len(read_windows(Path("data/windows"), split).starts) > 0 for split in SPLITS] == [True, False, False]
    assert read_info(Path("data/windows")).n_bytes == {"train": 35 * 4, "val": 0, "test": 0}


def test_a_corpus_without_train_is_refused(raw: Path, prepare: Prepare, tmp_path: Path) -> None:
    write(raw, a=" ", b=BINARY)
    expected = r"^prepare\.sources: expected at least one document to train on, got none \(1 empty, 1 not text\)$"
    with pytest.raises(UserError, match=expected):
        prepare(fractions())
    assert not (tmp_path / "corpus.json").exists()


def test_the_version_of_the_library_is_recorded(raw: Path, run, prepare_params: Callable, monkeypatch) -> None:
    write(raw, a="my own text\n")
    (raw.parent / "library" / "json").mkdir(parents=True)
    (raw.parent / "library" / "json" / "decoder.py").write_text("# decodes what others encoded\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(raw.parent / "library"))
    python = PythonSource(name="python", kind="python", include=["json/*"])
    mine = FilesSource(name="mine", kind="files", globs=[f"{raw.as_posix()}/*"])
    corpus = run(prepare_params([python, mine]))
    paths = read_table(corpus / "train.parquet").column("path").to_pylist()
    assert paths == ["json/decoder.py", "a.txt"]
    metrics = json.loads(corpus.with_suffix(".json").read_text())
    assert metrics["bytes_by_source"]["mine"] == len("my own text\n") < metrics["bytes_by_source"]["python"]
    assert len(metrics["python"]["library_sha256"]) == 64


NOTES = {f"d{n}": f"note number {n:03}\n" for n in range(100)}


AUTO = [
    (NOTES, "document", "100 documents, the longest 1% of"),
    ({"a": "long " * 9999} | NOTES, "position", "97% of the text, are too few"),
]


@pytest.mark.parametrize(("texts", "method", "why"), AUTO)
def test_auto_chooses_a_method(texts, method: str, why: str, raw, prepare, tmp_path: Path, capsys) -> None:
    write(raw, **texts)
    auto, metrics = prepare(fractions(val=0.1, test=0.1, method="auto"), name="auto")
    (line,) = [line for line in lines_of(capsys) if "warning" not in line]
    assert line.startswith(f"prepare: Split by {method}: ") and why in line
    assert metrics["split_method"] == method
    assert (auto, metrics) == prepare(fractions(val=0.1, test=0.1, method=method), name="named")
    assert metrics["bytes"]["val"] and metrics["bytes"]["test"]
    assert f"- Split by {method}: " in (tmp_path / "auto.md").read_text()


@pytest.mark.parametrize(
    ("method", "val", "why"),
    [
        ("document", 0.01, "no document's hash falls into it; prepare.split.method: position holds out the end"),
        ("position", 0.01, "every document is too short for a val of 0.01."),
        ("document", 0.0, "prepare.split.val is 0."),
    ],
)
def test_an_empty_split_is_reported(method: str, val: float, why: str, raw, prepare, tmp_path: Path, capsys) -> None:
    write(raw, a="one two three\n", b="four five six\n", c="seven\n")
    rows, _ = prepare(fractions(val=val, test=0.4, method=method))
    (line,) = [line for line in lines_of(capsys) if "val is empty" in line]
    assert rows["val"] == [] and line.startswith(f"prepare: val is empty: {why}")
    assert "- val is empty: " in (tmp_path / "corpus.md").read_text()


def test_a_useless_separator_is_reported(raw, prepare, tmp_path: Path, capsys) -> None:
    write(raw, a="one\r\n\r\ntwo", **{f"b{n}": f"{n}\n" for n in range(7)})
    assert len(prepare(fractions(), source={"separator": "\n\n"})[0]["train"]) == 2 + 7
    expected = r"prepare: source mine: the separator '\n\n' divides none of these files, each is one document: "
    (line,) = [line for line in lines_of(capsys) if "separator" in line]
    assert line == f"{expected}{', '.join(f'b{n}.txt' for n in range(5))}, … (7 in all)."
    assert "divides" in (tmp_path / "corpus.md").read_text()
