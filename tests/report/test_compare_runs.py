"""Experiments side by side, in a small repository where real DVC has run two of them."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from llm import __main__ as command_line
from llm.core.errors import UserError
from llm.report.compare_runs import compare_runs, in_columns, samples_table

SCRIPT = """
import json
from pathlib import Path
from ruamel.yaml import YAML

steps = YAML(typ="safe", pure=True).load(Path("params.yaml"))["pretrain"]["steps"]
bits = 1 + 1 / steps

def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")

model = {"bits_per_byte": bits, "bits_per_byte_low": bits - 0.01, "bits_per_byte_high": bits + 0.01, "tokens": 12}
write("metrics/evaluate.json", json.dumps({"test": {"model": model}}))
write("metrics/finetune/library.json", json.dumps({"test": {"tfidf": {"accuracy": steps / 1000}}}))
rows = [f"{step}\\t{4 - step / 100}\\t{5 - step / 100 if step > 10 else ''}\\t1.0" for step in (10, 20, steps)]
write("plots/pretrain/curve.tsv", "\\n".join(["step\\ttrain_loss\\tval_loss\\tlr_factor", *rows]) + "\\n")
sample = {"prompt": "def", "method": "greedy", "text": f"# {steps} steps"}
write("metrics/details/evaluate.json", json.dumps({"samples": [sample]}))
"""

WIRING = """
stages:
  pretrain:
    cmd: python work.py
    deps: [work.py]
    params: [model, pretrain]
    outs: [metrics/details]
    plots: [plots/pretrain/curve.tsv: {cache: false}]
    metrics:
      - metrics/evaluate.json: {cache: false}
      - metrics/finetune/library.json: {cache: false}
"""

PARAMS = "seed: 1\nmodel: {heads: [2, 3], d_model: 8}\npretrain: {steps: 40, init: null}\n"
BITS, ACCURACY = "evaluate.test.model.bits_per_byte", "finetune/library.test.tfidf.accuracy"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, run_in_repository) -> Path:
    """A branch `before` without DVC, a commit of 40 steps, an experiment `longer` of 80. Only to be copied."""
    folder = tmp_path_factory.mktemp("made")
    run_in_repository(folder, "git init --quiet --initial-branch main", "git commit --quiet --allow-empty -m nothing")
    run_in_repository(folder, "git branch before", "dvc init --quiet")
    files = {"work.py": SCRIPT, "dvc.yaml": WIRING, "params.yaml": PARAMS, ".gitignore": "/metrics/details\n"}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    run_in_repository(folder, "dvc repro", "git add --all", "git commit --quiet -m 40")
    run_in_repository(folder, "dvc exp run --name longer --set-param pretrain.steps=80")
    return folder


@pytest.fixture
def repository(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "repository"))
    return Path()


def cells(text: str, key: str) -> list[str]:
    """The row of a key, split where columns are."""
    line = next(line for line in text.splitlines() if line.split("  ")[0] == key)
    return re.split(r" {2,}", line)[1:]


def test_two_experiments_side_by_side(repository):
    first, second = repository / "plots/compare.svg", repository / "again.svg"
    text = compare_runs(["main", "longer"], repository, first)
    assert cells(text, "params") == ["main", "longer"]
    assert cells(text, "pretrain.steps") == ["40", "80"]
    assert cells(text, BITS) == ["1.025 [1.015, 1.035]", "1.012 [1.002, 1.022]"]
    assert cells(text, ACCURACY) == ["0.04", "0.08"]
    # seed, both of model and init; the count of tokens. An interval is part of its metric.
    assert re.findall(r"^(\d+ \w+) the same in all$", text, re.M) == ["4 are", "1 is"]
    assert cells(text, "# 40 steps") == ["# 80 steps"]
    assert text.count("## `def`, greedy") == 1 and f"curves: {first}" in text
    compare_runs(["main", "longer"], repository, second)
    assert all(f">{name}</text>" in first.read_text() for name in ("main", "longer"))
    assert first.read_text().count("stroke-dasharray") == 2  # the training losses
    assert first.read_bytes() == second.read_bytes()


def test_any_number_of_revisions_and_the_workspace(repository):
    text = compare_runs(["HEAD"], repository, repository / "compare.svg")
    assert cells(text, "pretrain.steps") == ["40", "80"]
    text = compare_runs(["longer", "HEAD", "workspace"], repository, repository / "compare.svg")
    assert cells(text, "pretrain.steps") == ["80", "40", "80"]
    text = compare_runs(["longer", "workspace"], repository, repository / "compare.svg")
    assert "params: 5 are the same in all" in text and "metrics: 3 are the same in all" in text


def test_missing_files_are_named(repository):
    shutil.rmtree(repository / ".dvc" / "cache")
    (repository / "metrics" / "finetune" / "library.json").unlink()
    (repository / "plots" / "pretrain" / "curve.tsv").unlink()
    text = compare_runs(["main", "workspace"], repository, repository / "compare.svg")
    assert cells(text, ACCURACY) == ["0.04", "–"]
    assert "curves: workspace has no plots/pretrain/curve.tsv" in text
    assert (repository / "compare.svg").exists()
    assert "samples: metrics/details/evaluate.json of main is in no cache (dvc pull)\n" in text
    assert "# 80 steps" in text and "# 40 steps" not in text


@pytest.mark.parametrize(
    ("words", "code", "out", "error"),
    [
        (["main", "none-such"], 2, "", "llm: none-such: expected a Git revision"),
        (["main", "before"], 2, "", "llm: before: expected an experiment"),
        (["--out", "elsewhere/curves.svg"], 0, "curves: elsewhere/curves.svg", ""),
    ],
)
def test_the_command_ends_with_its_code_and_one_line(repository, monkeypatch, capsys, words, code, out, error):
    monkeypatch.setattr(sys, "argv", ["llm", "compare", *words])
    with pytest.raises(SystemExit) as ended:
        command_line.run()
    printed = capsys.readouterr()
    assert (ended.value.code, printed.err.count("\n")) == (code, bool(error))
    assert out in printed.out and printed.err.startswith(error)
    assert Path("elsewhere/curves.svg").exists() == (code == 0)


def test_a_folder_without_git_or_valid_params_is_refused(repository):
    (repository / "params.yaml").write_text("seed: [1\n")
    with pytest.raises(UserError, match=r"^workspace: expected params that DVC can read.*params\.yaml"):
        compare_runs(["HEAD"], repository, repository / "compare.svg")
    shutil.rmtree(repository / ".git")
    with pytest.raises(UserError, match=r"^compare: expected a Git repository with DVC") as refused:
        compare_runs(["HEAD"], repository, repository / "compare.svg")
    assert "\n" not in str(refused.value)


def test_columns_hold_every_character_and_no_control_character(monkeypatch):
    monkeypatch.setenv("COLUMNS", "24")
    left, right = "a\tb\x1b[31m\r\n  indented", "x" * 50
    lines = in_columns([left, right]).splitlines()
    assert "".join("".join(lines).split()).count("x") == 50 + 1  # of the escape
    assert any(line.startswith("  indented") for line in lines)
    assert max(map(len, lines)) <= 24
    assert all(line.isprintable() for line in lines)
    text = samples_table({"a": {"one": "x", "two": "y"}, "b": {"two": "z", "three": "w"}})
    words = [["a", "b"], ["##", "one"], ["x"], ["##", "two"], ["y", "z"], ["##", "three"], ["w"]]
    assert [line.split() for line in text.splitlines() if line] == words
