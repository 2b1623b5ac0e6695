"""The user's files become the sources of params.yaml."""

import shutil
from pathlib import Path

import pytest

from llm.commands.check import check_params
from llm.commands.use_text import use_text
from llm.core import params
from llm.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def target(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("letters/a.txt", "letters/2024/b.md", "Mine & [Yours].txt", ".keep"):
        path = tmp_path / "data/raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("some text", encoding="utf-8")
    (tmp_path / "data/raw/empty").mkdir()
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml"))


def source(name, glob):
    return {"name": name, "kind": "files", "globs": [glob], "on_error": "skip"}


@pytest.mark.parametrize(
    ("paths", "expected", "line"),
    [
        (["data/raw"], [source("mine", "data/raw/**/*")], "mine: 27 bytes; files: .txt 2, .md 1"),
        (
            ["data/raw/letters/", "data/raw/Mine & [Yours].txt"],
            [source("letters", "data/raw/letters/**/*"), source("mine-yours", "data/raw/Mine & [[]Yours].txt")],
            "letters: 18 bytes; files: .md 1, .txt 1",
        ),
        (
            ["data/raw/letters/a.txt", "data/raw/letters/a.txt"],
            [source("a", "data/raw/letters/a.txt"), source("a-2", "data/raw/letters/a.txt")],
            "a: 9 bytes; files: .txt 1",
        ),
    ],
)
def test_files_replace_the_sources(target, paths, expected, line):
    printed = use_text(target, [Path(path) for path in paths])
    assert params.read(target)["prepare"]["sources"] == expected
    assert [found.globs for found in check_params(target).prepare.sources] == [of["globs"] for of in expected]
    assert line in printed
    assert "replaced: documentation" in printed
    assert "  dvc add data/raw" in printed
    assert "# of every random draw" in target.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("letters", "letters: expected a folder or file under data/raw, .* copy it there"),
        ("data/raw/../letters", "expected a folder or file under data/raw"),
        ("data/raw/empty", "data/raw/empty: expected files of text, got none"),
        ("data/raw/no", "data/raw/no: expected files of text, got no such path"),
    ],
)
def test_other_paths_are_refused_and_nothing_is_written(target, path, message):
    before = target.read_bytes()
    with pytest.raises(UserError, match=message):
        use_text(target, [Path(path)])
    assert target.read_bytes() == before
