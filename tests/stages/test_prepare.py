"""Sources in, documents out: what is kept, what is dropped and counted, and that each document has one place."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm.core.errors import UserError
from llm.core.tables import CORPUS, SPLITS, iterate_rows, read_table
from llm.corpus.clean import document_id
from llm.corpus.params import FilesSource, PythonSource
from llm.report.prepare import markdown
from llm.tokens.windows import read_info, read_windows
from stages import sample, tokenize
from stages.prepare import main

Prepare = Callable[..., tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]]


def shares(val: float = 0, test: float = 0, method: str = "document") -> dict[str, Any]:
    return {"method": method, "val": val, "test": test}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


@pytest.fixture
def run(tmp_path: Path, raw: Path) -> Callable[..., Path]:
    """A runner of the stage for a section; the corpus' folder, with metrics and report beside it."""

    def run(section: Any, name: str = "corpus", raw: Path = raw) -> Path:
        corpus, scratch = tmp_path / name, tmp_path / f"{name}.scratch"
        scratch.mkdir(exist_ok=True)
        details = tmp_path / f"{name}.details.json"
        main(section, scratch, raw, Path("requirements.lock"), corpus, corpus.with_suffix(".json"), details)
        corpus.with_suffix(".md").write_text(markdown(json.loads(details.read_text())))
        return corpus

    return run


@pytest.fixture
def prepare(run: Callable[..., Path], raw: Path, prepare_params: Callable) -> Prepare:
    """A runner over the files under `raw`; gives back the rows of each split and the metrics."""

    def of_files(
        split: dict[str, Any], globs: list[str] | None = None, name: str = "corpus", on_error: str = "skip", **rest: Any
    ) -> tuple[dict, dict]:
        globs = globs or [f"{raw.as_posix()}/*"]
        source = FilesSource(name="mine", kind="files", globs=globs, on_error=on_error)
        corpus = run(prepare_params([source], split, **rest), name)
        rows = {split: read_table(corpus / f"{split}.parquet").to_pylist() for split in SPLITS}
        return rows, json.loads(corpus.with_suffix(".json").read_text())

    return of_files


def write(raw: Path, **texts: str | bytes) -> None:
    for name, text in texts.items():
        (raw / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


def places(rows: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    return {row["doc_id"]: split for split, of_split in rows.items() for row in of_split}


def test_a_document_becomes_a_row_of_prepared_text(raw: Path, prepare: Prepare, tmp_path: Path) -> None:
    write(raw, a="\ufeffcafe\u0301\r\nau lait\r")
    rows, metrics = prepare(shares())
    text = "café\nau lait\n"
    row = {"doc_id": document_id(text), "source": "mine", "path": "a.txt", "text": text, "n_bytes": 14}
    assert rows == {"train": [row], "val": [], "test": []}
    assert read_table(tmp_path / "corpus" / "train.parquet").schema == CORPUS
    assert metrics["changed_by_normalising"] == {"documents": 1, "bytes": 5}


def test_what_is_empty_double_or_no_text_is_dropped_and_counted(raw: Path, prepare: Prepare, tmp_path: Path) -> None:
    write(raw, a="one\n", b="one\r\n", c="", d=" \n\t", e=b"\x89\xff\xfe\xd8\x00\x81", f="two\n", g="on\x00e\n")
    rows, metrics = prepare(shares())
    assert [row["text"] for row in rows["train"]] == ["one\n", "two\n"]
    assert metrics["dropped"] == {
        "empty": {"documents": 2, "bytes": 3},
        "exact_duplicate": {"documents": 2, "bytes": 8},
        "not_text": {"documents": 1, "bytes": 6},
    }
    assert metrics["control_character_bytes_removed"] == 1
    assert metrics["documents"] == {"train": 2, "val": 0, "test": 0}
    assert metrics["bytes"] == {"train": 8, "val": 0, "test": 0}
    assert metrics["bytes_by_source"] == {"mine": 8}
    report = (tmp_path / "corpus.md").read_text()
    assert "| mine | 7 | 2 | 8 |" in report
    assert "- `b.txt` · like a.txt" in report
    assert "- `e.txt` · expected text, got binary data" in report
    assert "Rules that are turned off: max chars, repetition, near duplicates." in report


def test_a_file_that_is_no_text_ends_the_stage_unless_it_may_be_skipped(raw: Path, prepare: Prepare) -> None:
    write(raw, a="one\n", b=b"\x89\xff\xfe\xd8\x00\x81")
    with pytest.raises(UserError, match=r"^source mine: b\.txt: expected .* \(on_error: skip leaves it out\)$"):
        prepare(shares(), on_error="fail")


NEAR = {"action": "drop", "threshold": 0.7, "ngram": 3, "permutations": 128, "bands": 32}


def near_copies(n: int) -> dict[str, str]:
    """Pairs of texts that differ in one word of forty."""
    texts = {}
    for number in range(n):
        words = [f"word{number}x{place}" for place in range(40)]
        texts[f"t{number:02}a"] = " ".join(words)
        texts[f"t{number:02}b"] = " ".join([*words[:-1], "other"])
    return texts


def test_of_near_duplicates_the_first_stays(raw: Path, prepare: Prepare) -> None:
    write(raw, **near_copies(10))
    rows, metrics = prepare(shares(), clean={"near_duplicates": NEAR})
    assert [row["path"] for row in rows["train"]] == [f"t{number:02}a.txt" for number in range(10)]
    assert metrics["dropped"]["near_duplicate"]["documents"] == 10


def test_near_duplicates_that_stay_are_in_one_split(raw: Path, prepare: Prepare) -> None:
    write(raw, **near_copies(30))

    def split_pairs(rows: dict[str, list[dict[str, Any]]]) -> int:
        split_of = {row["path"]: split for split, of_split in rows.items() for row in of_split}
        assert len(split_of) == 60
        return sum(split_of[f"t{number:02}a.txt"] != split_of[f"t{number:02}b.txt"] for number in range(30))

    alone, _ = prepare(shares(0.3, 0.3), name="alone")
    grouped, metrics = prepare(shares(0.3, 0.3), name="grouped", clean={"near_duplicates": NEAR | {"action": "group"}})
    assert split_pairs(alone) > 0
    assert split_pairs(grouped) == 0
    assert metrics["dropped"] == {}


def test_every_document_is_in_one_split_and_the_shares_roughly_hold(raw: Path, prepare: Prepare) -> None:
    write(raw, **{f"d{n}": f"document {n}\n" for n in range(200)})
    rows, metrics = prepare(shares(val=0.2, test=0.3))
    assert sum(map(len, rows.values())) == len(places(rows)) == 200
    # Four standard deviations of a binomial count.
    assert metrics["documents"]["val"] == pytest.approx(40, abs=23)
    assert metrics["documents"]["test"] == pytest.approx(60, abs=26)


def test_another_document_moves_none_of_those_that_were_there(raw: Path, prepare: Prepare) -> None:
    write(raw, **{f"d{n}": f"document {n}\n" for n in range(40)})
    before, _ = prepare(shares(val=0.3, test=0.3), name="before")
    write(raw, a="new and first\n", d7x="new and between\n")
    after, _ = prepare(shares(val=0.3, test=0.3), name="after")
    assert places(before).items() < places(after).items()
    assert len(places(after)) == 42


def test_the_same_text_gives_the_same_bytes(raw: Path, prepare: Prepare, tmp_path: Path) -> None:
    write(raw, **{f"d{n}": f"document {n}\n" for n in range(20)})
    for name in ("first", "second"):
        prepare(shares(val=0.3, test=0.3), name=name)
    for name in [f"{split}.parquet" for split in SPLITS]:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_by_position_the_end_of_each_document_is_held_out(raw: Path, prepare: Prepare) -> None:
    texts = {"a": "0123456789" * 5, "b": "é" * 30}
    write(raw, **texts)
    rows, metrics = prepare(shares(val=0.1, test=0.2, method="position"))
    for name, text in texts.items():
        parts = [row["text"] for split in SPLITS for row in rows[split] if row["path"] == f"{name}.txt"]
        assert "".join(parts) == text
        assert [len(part) for part in parts] == [round(len(text) * share) for share in (0.7, 0.1, 0.2)]
    every = [row for split in SPLITS for row in rows[split]]
    assert all(row["doc_id"] == document_id(row["text"]) for row in every)
    assert all(row["n_bytes"] == len(row["text"].encode()) for row in every)
    assert metrics["bytes"] == {"train": 35 + 42, "val": 5 + 6, "test": 10 + 12}


@pytest.mark.parametrize("method", ["document", "position"])
def test_a_text_without_held_out_parts_goes_all_the_way_to_windows(
    method: str, raw: Path, prepare: Prepare, tmp_path: Path, tokenize_params: Callable, window_params: Callable
) -> None:
    write(raw, a="all of it trains, none is held out\n" * 4)
    prepare(shares(method=method))
    tokenizer, tokens, windows = tmp_path / "tokenizer.json", tmp_path / "tokens", tmp_path / "windows"
    metrics, report, picture = (tmp_path / f"any.{suffix}" for suffix in ("json", "md", "svg"))
    tokenize.main(tokenize_params(), 1, tmp_path / "corpus", raw, tokenizer, tokens, metrics, report, picture)
    assert set(json.loads(metrics.read_text())["bytes_per_token"]) == {"train"}
    sample.main(window_params(), tokens, tokenizer, windows, metrics, report)
    for split in ("val", "test"):
        assert len(read_windows(windows, split).stream) == len(read_windows(windows, split).starts) == 0
    assert len(read_windows(windows, "train").starts) > 0
    assert read_info(windows).n_bytes == {"train": 35 * 4, "val": 0, "test": 0}


def test_a_corpus_with_nothing_to_train_on_is_refused(raw: Path, prepare: Prepare, tmp_path: Path) -> None:
    write(raw, a=" ", b=b"\x89\xff\xfe\xd8\x00\x81")
    with pytest.raises(
        UserError,
        match=r"^prepare\.sources: expected at least one document to train on, got none \(1 empty, 1 not text\)$",
    ):
        prepare(shares())
    assert not (tmp_path / "corpus.json").exists()


def test_a_glob_outside_the_folder_of_raw_text_is_refused(raw: Path, prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (raw / "link.txt").symlink_to(tmp_path / "secret.txt")
    for glob in (f"{tmp_path}/*.txt", f"{raw}/../*.txt", f"{raw}/*.txt"):
        with pytest.raises(UserError, match=r"source mine: expected (globs|files) under "):
            prepare(shares(), globs=[glob])
    assert not list((tmp_path / "corpus").glob("*"))


def test_an_untracked_file_is_read_with_a_warning_that_says_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: Callable[..., Path],
    prepare_params: Callable,
) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    raw = Path("data/raw")
    raw.mkdir(parents=True)
    write(raw, known="known to Git\n", unknown="unknown\n")
    subprocess.run(["git", "add", "data/raw/known.txt"], check=True)
    source = FilesSource(name="mine", kind="files", globs=["data/raw/*.txt"])
    corpus = run(prepare_params([source]), raw=raw)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warnings == ["prepare: warning: data/raw/unknown.txt is not tracked, `dvc add` makes it part of the version"]
    assert read_table(corpus / "train.parquet").num_rows == 2


def test_many_untracked_files_make_few_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raw: Path, prepare: Prepare
) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    write(raw, **{f"d{n:02}": f"document {n}\n" for n in range(20)})
    prepare(shares())
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 6
    assert warnings[-1] == "prepare: warning: 15 more files are not tracked"


def test_the_library_and_files_come_together_and_the_library_s_version_is_recorded(
    raw: Path, run: Callable[..., Path], prepare_params: Callable
) -> None:
    write(raw, a="my own text\n")
    python = PythonSource(name="python", kind="python", include=["json/*"])
    mine = FilesSource(name="mine", kind="files", globs=[f"{raw.as_posix()}/*"])
    corpus = run(prepare_params([python, mine]))
    paths = read_table(corpus / "train.parquet").column("path").to_pylist()
    assert "json/decoder.py" in paths and paths[-1] == "a.txt"
    metrics = json.loads(corpus.with_suffix(".json").read_text())
    assert metrics["bytes_by_source"]["mine"] == len("my own text\n") < metrics["bytes_by_source"]["python"]
    assert len(metrics["python"]["library_sha256"]) == 64


def test_a_share_keeps_some_documents_and_moves_none(raw: Path, prepare: Prepare, tmp_path: Path) -> None:
    write(raw, **{f"{number:02}": f"This is the text number {number}." for number in range(60)})
    kept = {}
    for share in (1.0, 0.4):
        _, metrics = prepare(shares(), name=str(share), subset_fraction=share)
        kept[share] = {
            (row["doc_id"], split)
            for split in SPLITS
            for row in iterate_rows(tmp_path / str(share) / f"{split}.parquet", ["doc_id"])
        }
        dropped = metrics["dropped"].get("beyond_subset_fraction", {"documents": 0})["documents"]
        assert dropped + len(kept[share]) == 60
    assert len(kept[1.0]) == 60
    assert 10 < len(kept[0.4]) < 40
    assert kept[0.4] < kept[1.0]


def lines_of(captured: pytest.CaptureFixture[str]) -> list[str]:
    """What the stage printed, without its progress bar and without warnings."""
    return [line for line in captured.readouterr().err.splitlines() if re.match("prepare: (?!warning|.*%\\|)", line)]


@pytest.mark.parametrize(
    ("texts", "method", "told"),
    [
        ({"a": "0123456789" * 50}, "position", "1 documents, the longest 100% of the text, are too few"),
        ({f"d{n}": f"document number {n:03}\n" for n in range(100)}, "document", "100 documents, the longest 1% of"),
        (
            {"a": "long " * 9999} | {f"d{n}": f"note {n}\n" for n in range(100)},
            "position",
            "98% of the text, are too few",
        ),
    ],
)
def test_auto_holds_out_documents_where_there_are_many_and_ends_where_there_are_few(
    texts: dict[str, str],
    method: str,
    told: str,
    raw: Path,
    prepare: Prepare,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(raw, **texts)
    auto, metrics = prepare(shares(val=0.1, test=0.1, method="auto"), name="auto")
    (line,) = lines_of(capsys)
    assert line.startswith(f"prepare: Split by {method}: ") and told in line
    assert metrics["split_method"] == method
    named, of_named = prepare(shares(val=0.1, test=0.1, method=method), name="named")
    assert auto == named and metrics == of_named
    assert metrics["bytes"]["val"] and metrics["bytes"]["test"]
    assert f"- Split by {method}: " in (tmp_path / "auto.md").read_text()


def test_auto_keeps_groups_of_near_duplicates_whole(raw: Path, prepare: Prepare) -> None:
    write(raw, **near_copies(3))
    _, metrics = prepare(shares(0.3, 0.3, "auto"), clean={"near_duplicates": NEAR | {"action": "group"}})
    assert metrics["split_method"] == "document"


@pytest.mark.parametrize(
    ("method", "val", "why"),
    [
        (
            "document",
            0.01,
            "no document's hash falls into it; prepare.split.method: position holds out the end of each",
        ),
        ("position", 0.01, "every document is too short for a val of 0.01."),
        ("document", 0.0, "prepare.split.val is 0."),
    ],
)
def test_an_empty_split_is_one_line_of_the_output_and_of_the_report(
    method: str, val: float, why: str, raw: Path, prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(raw, a="one two three\n", b="four five six\n", c="seven\n")
    rows, _ = prepare(shares(val=val, test=0.4, method=method))
    lines = [line for line in lines_of(capsys) if "val is empty" in line]
    assert len(lines) == (not rows["val"]) == 1
    assert lines[0].startswith(f"prepare: val is empty: {why}")
    assert "- val is empty: " in (tmp_path / "corpus.md").read_text()


@pytest.mark.parametrize(
    ("contents", "undivided"),
    [
        ({"a": "one\r\n\r\ntwo", "b": "three\n\nfour", "c": "five\r\rsix"}, []),
        ({"a": "one\n\ntwo", "b": "three\nfour"}, ["b.txt"]),
        ({f"{n}": f"{n}\n" for n in range(7)}, [f"{n}.txt" for n in range(7)]),
    ],
)
def test_a_separator_that_divides_a_file_not_at_all_is_reported(
    contents: dict[str, str],
    undivided: list[str],
    raw: Path,
    run: Callable[..., Path],
    prepare_params: Callable,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(raw, **contents)
    source = FilesSource(name="mine", kind="files", globs=[f"{raw.as_posix()}/*"], separator="\n\n")
    corpus = run(prepare_params([source]))
    assert read_table(corpus / "train.parquet").num_rows == 2 * (len(contents) - len(undivided)) + len(undivided)
    told = [line for line in lines_of(capsys) if "separator" in line]
    shown = ", ".join(undivided[:5]) + (", …" if len(undivided) > 5 else "")
    assert told == [
        f"prepare: source mine: the separator {source.separator!r} divides none of these files, each is one document: "
        f"{shown} ({len(undivided)} in all)."
    ] * bool(undivided)
    assert ("divides" in corpus.with_suffix(".md").read_text()) == bool(undivided)
