"""The tasks through lm-evaluation-harness: the same log-probabilities, and an exit code of 1 where they differ."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from llm import __main__ as command_line
from llm.core.errors import UserError
from llm.evaluate.cloze import Item, grade, score_items, write_tasks
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
    """A folder of the stage cloze, whose task files name their data from another folder."""
    folder = tmp_path / "cloze"
    write_tasks(folder, "data/cloze", ITEMS)
    return folder


@pytest.fixture
def ours(tasks, exported_folder):
    """Our results, which are those of the functions that the stage calls."""
    found = harness.run_ours(exported_folder, tasks)
    model, tokenizer = read_folder(exported_folder), Tokenizer.load(exported_folder / "tokenizer.json")
    for task, items in ITEMS.items():
        scores = score_items(model, tokenizer.encode, items)
        assert found[task].scores == [of_item.tolist() for of_item in scores]
        correct = [grade(item, of_item) for item, of_item in zip(items, scores, strict=True)]
        assert found[task][:2] == pytest.approx(tuple(np.mean(correct, axis=0)))
    return found


def test_items_are_read_as_written_or_refused(tasks, tmp_path):
    assert harness.read_items(tasks) == ITEMS
    with pytest.raises(UserError, match="expected task files, got none"):
        harness.read_items(tmp_path)
    (tasks / "last_word.jsonl").unlink()
    with pytest.raises(UserError, match=r"last_word\.yaml: expected its items in last_word\.jsonl"):
        harness.read_items(tasks)


def test_the_harness_finds_the_same_for_every_choice(ours, tasks, exported_folder, tmp_path):
    pytest.importorskip("accelerate", reason="lm_eval is not installed with the packages of its models (make extras)")
    code = (
        "import json, pathlib, sys; from llm.experiments.harness import run_harness;"
        "found = run_harness(*map(pathlib.Path, sys.argv[1:]));"
        "print(json.dumps({task: result._asdict() for task, result in found.items()}))"
    )
    # A process of its own: its libraries read at import that they may not download.
    command = [sys.executable, "-c", code, str(exported_folder), str(tasks)]
    settings = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=settings, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    theirs = json.loads(ended.stdout.splitlines()[-1])
    assert theirs.keys() == ours.keys()
    for task, our in ours.items():
        their = harness.Result(**theirs[task])
        assert their[:2] == pytest.approx(our[:2], abs=1e-9)
        for of_us, of_them in zip(our.scores, their.scores, strict=True):
            assert of_them == pytest.approx(of_us, abs=1e-4)


@pytest.mark.parametrize(
    ("norm", "moved", "code", "last", "differences"),
    [
        (0.0, 0.0, 0, "difference: the largest", ["0", "0"]),
        (0.3, 0.0, 1, "not the same: closing_bracket, last_word", ["0", "0"]),
        (0.0, 0.5, 0, "difference: the largest", ["0.5", "0.5"]),
    ],
)
def test_the_command_exits_with_1_if_accuracies_differ(
    ours, tasks, exported_folder, monkeypatch, norm, moved, code, last, differences
):
    theirs = {
        task: harness.Result(
            of.accuracy, of.accuracy_norm + norm, [[score + moved for score in row] for row in of.scores]
        )
        for task, of in ours.items()
    }
    monkeypatch.setattr(harness, "run_harness", lambda *_: theirs)
    ended = CliRunner().invoke(command_line.app, ["harness", str(exported_folder), "--tasks", str(tasks)])
    assert ended.exit_code == code
    head, _, *rows = [line.strip("| ").split(" | ") for line in ended.output.splitlines()[:4]]
    assert head[:3] == ["task", "items", "chance"]
    assert [row[:3] for row in rows] == [["closing_bracket", "3", "0.3333"], ["last_word", "4", "0.3958"]]
    assert [row[-1] for row in rows] == differences
    assert ended.output.splitlines()[-1].startswith(last)


def test_a_missing_package_is_one_line(tasks, exported_folder, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")  # so that changes are undone
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"expected the package lm_eval, lm_eval is not installed \(make extras\)"):
        harness.run_harness(exported_folder, tasks)
