"""The tasks through lm-evaluation-harness: the same log-probabilities, and what is said where they are not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from llm import __main__ as command_line
from llm.core.errors import UserError
from llm.evaluate.multiple_choice import Item, grade, score_items, task_config
from llm.experiments import harness
from llm.export.hf.folder import read_folder
from llm.tokens.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
ITEMS = {
    "last_word": [
        Item("a.txt", "The river", [" runs", " falls and\nfalls", " déjà vu"], 0),
        Item("b.txt", "7", [" rain", " x"], 1),
        Item("c.txt", "def walk(path):\n    return\u2028", [" name", " path for", "\tx", " "], 2),
        Item("d.txt", "the rain falls;   ", ["2024", "déjà"], 1),
    ],
    "closing_bracket": [Item("a.py", "[name for name in (path", [")", "]", "}"], at % 3) for at in range(3)],
}


@pytest.fixture
def tasks(tmp_path):
    """A folder as the stage cloze leaves it, its data files named as they are found from another place."""
    folder = tmp_path / "cloze"
    folder.mkdir()
    for task, items in ITEMS.items():
        lines = [json.dumps(item._asdict(), ensure_ascii=False) + "\n" for item in items]
        (folder / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")
        with (folder / f"{task}.yaml").open("w") as file:
            YAML().dump(task_config(task, f"data/cloze/{task}.jsonl"), file)
    return folder


def test_items_are_read_as_they_were_written(tasks):
    assert harness.read_items(tasks) == ITEMS


def test_a_folder_without_tasks_or_without_their_items_is_refused(tasks, tmp_path):
    with pytest.raises(UserError, match="wanted task files, there are none"):
        harness.read_items(tmp_path)
    (tasks / "last_word.jsonl").unlink()
    with pytest.raises(UserError, match=r"last_word\.yaml: wanted its items beside it"):
        harness.read_items(tasks)


def test_ours_is_what_the_stage_measures(tasks, exported_folder):
    model, tokenizer = read_folder(exported_folder), Tokenizer.load(exported_folder / "tokenizer.json")
    found = harness.run_ours(model, tokenizer, tasks)
    for task, items in ITEMS.items():
        scores = score_items(model, tokenizer.encode, items)
        assert found[task].scores == [of_item.tolist() for of_item in scores]
        right = [grade(item, of_item) for item, of_item in zip(items, scores, strict=True)]
        assert (found[task].acc, found[task].acc_norm) == pytest.approx(tuple(np.mean(right, axis=0)))


def test_the_harness_finds_the_same_for_every_choice(tasks, exported_folder, tmp_path):
    pytest.importorskip("accelerate", reason="lm_eval is not installed with what its models need (make extras)")
    code = (
        "import json, pathlib, sys; from llm.experiments.harness import run_harness;"
        "found = run_harness(*map(pathlib.Path, sys.argv[1:]));"
        "print(json.dumps({task: result._asdict() for task, result in found.items()}))"
    )
    # A process of its own: that nothing is fetched is decided when the libraries are imported.
    ended = subprocess.run(
        [sys.executable, "-c", code, str(exported_folder), str(tasks)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    theirs = json.loads(ended.stdout.splitlines()[-1])
    ours = harness.run_ours(read_folder(exported_folder), Tokenizer.load(exported_folder / "tokenizer.json"), tasks)
    assert theirs.keys() == ours.keys()
    for task, our in ours.items():
        their = harness.Result(**theirs[task])
        assert (their.acc, their.acc_norm) == pytest.approx((our.acc, our.acc_norm), abs=1e-9)
        for of_us, of_them in zip(our.scores, their.scores, strict=True):
            assert of_them == pytest.approx(of_us, abs=1e-4)


@pytest.fixture
def run_command(tasks, exported_folder, monkeypatch):
    """Runs the command with another harness; gives how it ended."""

    def run(change):
        model, tokenizer = read_folder(exported_folder), Tokenizer.load(exported_folder / "tokenizer.json")
        theirs = {task: change(result) for task, result in harness.run_ours(model, tokenizer, tasks).items()}
        monkeypatch.setattr(harness, "run_harness", lambda *_: theirs)
        return CliRunner().invoke(command_line.app, ["harness", str(exported_folder), "--tasks", str(tasks)])

    return run


def test_the_command_shows_both_and_ends_with_0_where_they_agree(run_command):
    ended = run_command(lambda result: result)
    assert ended.exit_code == 0
    head, *rows, note = ended.output.splitlines()
    assert head.split()[:3] == ["task", "items", "chance"]
    assert [row.split()[:3] for row in rows] == [["closing_bracket", "3", "0.3333"], ["last_word", "4", "0.3958"]]
    assert all(row.split()[3:5] == row.split()[5:7] for row in rows)
    assert note.startswith("difference")


@pytest.mark.parametrize("measure", ["acc", "acc_norm"])
def test_the_command_ends_with_1_where_an_accuracy_differs(run_command, measure):
    ended = run_command(lambda result: result._replace(**{measure: getattr(result, measure) + 0.01}))
    assert ended.exit_code == 1
    assert ended.output.splitlines()[-1] == "not the same: closing_bracket, last_word"


def test_the_command_shows_how_far_log_probabilities_are_apart(run_command):
    ended = run_command(lambda result: result._replace(scores=[[score + 0.5 for score in of] for of in result.scores]))
    assert ended.exit_code == 0
    assert [row.split()[-1] for row in ended.output.splitlines()[1:3]] == ["0.5", "0.5"]


def test_a_missing_package_is_one_line(tasks, exported_folder, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")  # so that what is set here is undone
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"wanted the package lm_eval, lm_eval is not installed \(make extras\)"):
        harness.run_harness(exported_folder, tasks)
