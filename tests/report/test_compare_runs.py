"""Experiments side by side, in a small repository where real DVC has run two of them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm import __main__ as command_line
from llm.core.errors import UserError
from llm.report.compare_runs import Interval, columns_of, compare_runs, read_experiment, samples_table

SCRIPT = """
import json
from pathlib import Path
from ruamel.yaml import YAML

steps = YAML(typ="safe", pure=True).load(Path("params.yaml"))["pretrain"]["steps"]
bits = 1 + 1 / steps

def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")

test = {"bits_per_byte": bits, "bits_per_byte_low": bits - 0.01, "bits_per_byte_high": bits + 0.01, "tokens": 12}
write("metrics/evaluate.json", json.dumps({"test": test}))
write("metrics/finetune/library.json", json.dumps({"test": {"accuracy": steps / 1000}}))
rows = [f"{step}\\t{4 - step / 100}\\t{5 - step / 100 if step > 10 else ''}\\t1.0" for step in (10, 20, steps)]
write("plots/pretrain/curve.tsv", "\\n".join(["step\\ttrain_loss\\tval_loss\\trate", *rows]) + "\\n")
write("reports/samples.md", f"# Samples\\n\\n## `def`, greedy\\n\\n````text\\n# {steps} steps\\n\\tpass\\n````\\n")
"""

WIRING = """
stages:
  pretrain:
    cmd: python work.py
    deps: [work.py]
    params: [model, pretrain]
    outs: [reports/samples.md]
    plots: [plots/pretrain/curve.tsv: {cache: false}]
    metrics:
      - metrics/evaluate.json: {cache: false}
      - metrics/finetune/library.json: {cache: false}
"""

PARAMS = "seed: 1\nmodel: {heads: [2, 3], d_model: 8}\npretrain: {steps: 40, init: null}\n"


def run(folder: Path, *words: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_", "PYTHON"))}
    author = {f"GIT_{role}_{key}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(words, cwd=folder, env=kept | author | path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A branch `before` without DVC, a commit of 40 steps, an experiment `longer` of 80. Only to be copied."""
    folder = tmp_path_factory.mktemp("made") / "repository"
    folder.mkdir()
    run(folder, "git", "init", "--quiet", "--initial-branch", "main")
    run(folder, "git", "commit", "--quiet", "--allow-empty", "--message", "nothing")
    run(folder, "git", "branch", "before")
    run(folder, "dvc", "init", "--quiet")
    files = {"work.py": SCRIPT, "dvc.yaml": WIRING, "params.yaml": PARAMS, ".gitignore": "/reports\n"}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    run(folder, "dvc", "repro")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "40 steps")
    run(folder, "dvc", "exp", "run", "--name", "longer", "--set-param", "pretrain.steps=80")
    return folder


@pytest.fixture
def repository(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "120")
    return Path(shutil.copytree(made, tmp_path / "repository"))


def cells(text: str, key: str) -> list[str]:
    """The row of a key, cut where columns are."""
    line = next(line for line in text.splitlines() if line.split("  ")[0] == key)
    return re.split(r" {2,}", line)[1:]


def test_two_experiments_side_by_side(repository):
    text = compare_runs(["main", "longer"], repository, repository / "compare.svg")
    assert cells(text, "params") == ["main", "longer"]
    assert cells(text, "pretrain.steps") == ["40", "80"]
    assert cells(text, "evaluate.test.bits_per_byte") == ["1.025 [1.015, 1.035]", "1.012 [1.002, 1.022]"]
    assert cells(text, "finetune/library.test.accuracy") == ["0.04", "0.08"]
    # seed, both of model and init; the count of tokens. An interval is no row of its own.
    assert re.findall(r"^\d+ (?:is|are) the same in all$", text, re.M) == [
        "4 are the same in all",
        "1 is the same in all",
    ]
    assert "tokens" not in text
    assert "_low" not in text
    assert cells(text, "# 40 steps") == ["# 80 steps"]
    assert text.count("## `def`, greedy") == 1


def test_without_names_the_commit_is_held_against_the_workspace(repository):
    text = compare_runs([], repository, repository / "compare.svg")
    assert cells(text, "params") == ["HEAD", "workspace"]
    assert cells(text, "pretrain.steps") == ["40", "80"]
    assert compare_runs(["HEAD"], repository, repository / "compare.svg") == text


def test_three_of_which_two_are_alike(repository):
    text = compare_runs(["longer", "HEAD", "workspace"], repository, repository / "compare.svg")
    assert cells(text, "pretrain.steps") == ["80", "40", "80"]


def test_what_is_all_the_same_is_only_counted(repository):
    text = compare_runs(["longer", "workspace"], repository, repository / "compare.svg")
    assert "params: 5 are the same in all" in text
    assert "metrics: 3 are the same in all" in text


def test_curves_are_drawn_with_the_names_of_both_and_the_same_bytes_each_time(repository):
    first, second = repository / "reports" / "compare.svg", repository / "again.svg"
    assert f"curves: {first}" in compare_runs(["main", "longer"], repository, first)
    compare_runs(["main", "longer"], repository, second)
    picture = first.read_text()
    assert all(f">{name}</text>" in picture for name in ("main", "longer"))
    assert picture.count("stroke-dasharray") == 2  # the training losses
    assert first.read_bytes() == second.read_bytes()


def test_a_curve_is_read_with_its_gaps(repository):
    assert read_experiment("main", repository).curve == [
        {"step": 10, "train_loss": 3.9, "lr_factor": 1},
        {"step": 20, "train_loss": 3.8, "val_loss": 4.8, "lr_factor": 1},
        {"step": 40, "train_loss": 3.6, "val_loss": 4.6, "lr_factor": 1},
    ]


def test_samples_that_are_in_no_cache_are_said_to_be(repository):
    shutil.rmtree(repository / ".dvc" / "cache")
    text = compare_runs(["main", "longer", "workspace"], repository, repository / "compare.svg")
    for name in ("main", "longer"):
        assert f"samples: reports/samples.md of {name} is in no cache (dvc pull)\n" in text
    assert "# 80 steps" in text  # the workspace has its own
    assert "# 40 steps" not in text


def test_a_metric_or_curve_that_one_lacks_is_left_open(repository):
    (repository / "metrics" / "finetune" / "library.json").unlink()
    (repository / "plots" / "pretrain" / "curve.tsv").unlink()
    text = compare_runs(["main"], repository, repository / "compare.svg")
    assert cells(text, "finetune/library.test.accuracy") == ["0.04", "–"]
    assert "curves: plots/pretrain/curve.tsv is not there in workspace" in text
    assert (repository / "compare.svg").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none-such", "none-such: wanted a Git revision"),
        ("before", "before: wanted an experiment"),
    ],
)
def test_a_name_that_is_no_experiment_is_one_line(repository, monkeypatch, capsys, name, message):
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "argv", ["llm", "compare", "main", name])
    with pytest.raises(SystemExit) as ended:
        command_line.run()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"llm: {message}")
    assert said.err.count("\n") == 1


def test_outside_of_git_it_says_so(repository):
    shutil.rmtree(repository / ".git")
    with pytest.raises(UserError, match=r"^compare: wanted a Git repository with DVC") as refused:
        compare_runs([], repository, repository / "compare.svg")
    assert "\n" not in str(refused.value)


def test_params_that_are_no_yaml_are_named(repository):
    (repository / "params.yaml").write_text("seed: [1\n")
    with pytest.raises(UserError, match=r"^workspace: wanted params that DVC can read.*params\.yaml"):
        compare_runs([], repository, repository / "compare.svg")


def test_the_command_writes_where_it_is_told(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "argv", ["llm", "compare", "--out", "elsewhere/curves.svg"])
    with pytest.raises(SystemExit) as ended:
        command_line.run()
    assert ended.value.code == 0
    assert "curves: elsewhere/curves.svg" in capsys.readouterr().out
    assert (repository / "elsewhere" / "curves.svg").exists()


def test_samples_of_other_headings_stand_below_each_other():
    text = samples_table(["a", "b"], ["# one\nx\n# two\ny\n", "# two\nz\n\n# three\nw"], 30)
    assert [line.split() for line in text.splitlines() if line] == [
        ["a", "b"],
        ["#", "one"],
        ["x"],
        ["#", "two"],
        ["y", "z"],
        ["#", "three"],
        ["w"],
    ]
    assert text.splitlines()[-1] == f"{'':16}w"


@given(st.lists(st.text("ab #\n", max_size=30), min_size=1, max_size=3), st.integers(1, 9))
def test_columns_lose_no_character_and_keep_their_places(texts, width):
    lines = columns_of(texts, [width] * len(texts))
    for number, text in enumerate(texts):
        start = number * (width + 2)
        pieces = "".join(line[start : start + width].rstrip() for line in lines)
        assert pieces.replace(" ", "") == text.replace(" ", "").replace("\n", "")


def test_control_characters_do_not_reach_the_terminal():
    assert columns_of(["a\tb\x1b[31m\r", "c"], [9, 1]) == ["a   b�[31  c", "m�"]


def test_an_interval_belongs_to_its_value():
    assert Interval(1.0, 0.5, 2.0) != Interval(1.0, 0.5, 2.0001)
