"""What a run costs: time from a measured step and from sizes, and a line for what does not fit into the memory."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from llm.commands import cost as library
from llm.commands.check import Params, check_params
from llm.commands.cost import (
    BY_TEXT,
    FINETUNE_SECONDS,
    PRETRAIN_SECONDS,
    SAMPLE_SECONDS,
    SEGMENTATION_SECONDS,
    Cost,
    estimate,
    predict,
)
from llm.commands.outdated import outdated_stages
from llm.commands.sizes import Rows, Sizes, read_sizes
from llm.core import params
from llm.core.device import Machine
from llm.core.errors import UserError
from llm.experiments.timing import StepCost

ROOT = Path(__file__).resolve().parents[2]
STEP = StepCost(window_seconds=0.01, update_seconds=0.02, forward_seconds=0.004, window_bytes=1e7, fixed_bytes=10**9)
ROWS = {"library": Rows(3000, 800, 100.0, 192), "docstring": Rows(13000, 800, 70.0, 256)}
SIZES = Sizes({"train": 8e6, "val": 1e6, "test": 1e6}, 600_000.0, 4096, ROWS)


@pytest.fixture
def checked() -> Params:
    return check_params(ROOT / "params.yaml")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with 16 GB of free memory, on which every step costs the same."""
    monkeypatch.setattr(library, "measure_step", lambda *_: STEP)
    monkeypatch.setattr(Machine, "available_memory", lambda self: 16 * 10**9)
    return Machine("cpu", "float32", threads=2, compiler=False, torch_version="any")


def test_segmentations_and_a_limit_of_the_baselines_count(checked: Params, machine: Machine) -> None:
    before = estimate(checked, SIZES, machine).stages
    sections = {
        "tokenize": checked.tokenize.model_copy(update={"dropout": 0.1, "segmentations": 3}),
        "baselines": checked.baselines.model_copy(update={"train_bytes": 2_000_000}),
    }
    after = estimate(checked.model_copy(update=sections), SIZES, machine).stages
    assert after["tokenize"] - before["tokenize"] == pytest.approx(3 * 8 * SEGMENTATION_SECONDS)
    assert before["baselines"] - after["baselines"] == pytest.approx((8 - 2) * BY_TEXT["baselines"][1])


def test_the_time_follows_from_steps_text_and_rows(checked: Params, machine: Machine) -> None:
    found = estimate(checked, SIZES, machine)
    steps = 2600 * (8 * 0.01 + 0.02) + 13 * (64 * 0.004 + SAMPLE_SECONDS)
    assert found.stages["pretrain"] == pytest.approx(PRETRAIN_SECONDS + steps)
    start, each = BY_TEXT["prepare"]
    assert found.stages["prepare"] == pytest.approx(start + 10 * each)
    passes = (3000 * 100 * 0.01 + 4 * 800 * 100 * 0.004) / 256 + 3000 / 16 * 0.02
    assert found.stages["finetune@library"] == pytest.approx(FINETUNE_SECONDS + 2 * passes)
    assert found.seconds > sum(found.stages.values())
    assert set(found.stages) >= {"evaluate", "memorise", "cloze", "export", "finetune@docstring", "convert@docstring"}


@pytest.mark.parametrize(
    ("changes", "stage", "factor"),
    [
        ({"pretrain.max_steps": 5200}, "pretrain", 2.0),
        ({"finetune.n_seeds": 3}, "finetune@library", 3.0),
        ({"finetune.tasks.library.training.learning_rates": [0.1, 0.2]}, "finetune@library", 1.5),
    ],
)
def test_what_is_done_again_costs_again(
    tmp_path: Path, machine: Machine, checked: Params, changes: dict[str, Any], stage: str, factor: float
) -> None:
    path, content = tmp_path / "params.yaml", params.read(ROOT / "params.yaml")
    for key, value in changes.items():
        *above, last = key.split(".")
        params.find(content, ".".join(above), path)[last] = value
    YAML(typ="safe", pure=True).dump(content, path)
    before, after = (estimate(of, SIZES, machine).stages[stage] for of in (checked, check_params(path)))
    fixed = {"pretrain": PRETRAIN_SECONDS}.get(stage, FINETUNE_SECONDS)
    assert after - fixed == pytest.approx(factor * (before - fixed), rel=0.02)


@pytest.mark.parametrize(
    ("free", "message"),
    [
        (10**7, "model.d_model 192, n_layers 2: expected weights, gradients and the optimizer's state in 0.0 GB"),
        (10**9, "pretrain.batch_size 8: expected pretrain in 1.0 GB of free memory, got 1.1 GB; try pretrain.micro_ba"),
        (
            9 * 10**8,
            "pretrain.batch_size 8: expected pretrain in 0.9 GB of free memory, got 1.1 GB; try a smaller model",
        ),
        (15 * 10**8, "finetune.tasks.library.training.batch_size 16: expected finetune@library in 1.5 GB of free"),
    ],
)
def test_what_does_not_fit_is_refused(
    checked: Params, machine: Machine, monkeypatch: pytest.MonkeyPatch, free: int, message: str
) -> None:
    monkeypatch.setattr(Machine, "available_memory", lambda self: free)
    with pytest.raises(UserError) as error:
        estimate(checked, SIZES, machine)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_the_line_names_the_longest_stages_and_the_file_has_all(tmp_path: Path) -> None:
    seconds = {"pretrain": 300.0, "prepare": 10.0, "card": 0.4, "report": 1.0, "export": 2.0}
    cost = Cost(seconds, {"pretrain": 2 * 10**9}, STEP)
    line = "expected: about 5.4 minutes on this machine, at most 2.0 GB of memory (pretrain 5 minutes, prepare 10 s, "
    assert cost.describe() == line + "export 2 s, report 1 s)"
    cost.of(["pretrain", "card"]).write(tmp_path / "cost.json")
    written = json.loads((tmp_path / "cost.json").read_text())
    assert (written["seconds"], written["peak_memory_mb"]) == ({"pretrain": 300.0, "card": 0.4}, {"pretrain": 2000})


def own_params(folder: Path, rows: str, **task: Any) -> Params:
    """The shipped params with an own text, and a task of an own file."""
    content = params.read(ROOT / "params.yaml")
    content["prepare"]["sources"] = [{"name": "mine", "kind": "files", "globs": ["data/raw/*.txt"]}]
    own = {"kind": "classify", "base": "models/export/hf", "data": "rows.csv", "label_column": "label"}
    content["finetune"]["tasks"] = {"mine": own | {"text_columns": ["text"]} | task}
    (folder / "data" / "raw").mkdir(parents=True)
    (folder / "data" / "raw" / "a.txt").write_text("x" * 1000)
    (folder / "data" / "raw" / "b.txt").write_text("x" * 3000)
    (folder / "rows.csv").write_text(rows)
    YAML(typ="safe", pure=True).dump(content, folder / "params.yaml")
    with contextlib.chdir(folder):
        return check_params(Path("params.yaml"))


@pytest.mark.parametrize(("split", "expected"), [(None, (7, 1)), ("part", (8, 2))])
def test_sizes_are_those_of_files(tmp_path: Path, split: str | None, expected: tuple[int, int]) -> None:
    rows = "text,label,part\n" + "".join(f"{'y' * 80},a,{'dev' if n < 2 else 'train'}\n" for n in range(10))
    sizes = read_sizes(own_params(tmp_path, rows, split_column=split), tmp_path, ())
    assert sizes.text_bytes == pytest.approx({"train": 3400, "val": 200, "test": 400})
    assert sizes.held_out_tokens == pytest.approx(600 / 3.26, rel=0.01)
    assert (sizes.rows["mine"].train, sizes.rows["mine"].val) == expected
    assert sizes.rows["mine"].mean_tokens == pytest.approx(80 / 3.26 + 12, rel=0.01)


def test_a_text_without_docstrings_skips_the_built_in_tasks(tmp_path: Path, machine: Machine) -> None:
    own_params(tmp_path, "text,label\na,b\n")
    content = params.read(tmp_path / "params.yaml")
    content["finetune"]["tasks"] = params.read(ROOT / "params.yaml")["finetune"]["tasks"]
    YAML(typ="safe", pure=True).dump(content, tmp_path / "params.yaml")
    for sources, n_rows in ((content["prepare"]["sources"], 0), (None, 3000)):
        content["prepare"]["sources"] = sources or params.read(ROOT / "params.yaml")["prepare"]["sources"]
        YAML(typ="safe", pure=True).dump(content, tmp_path / "params.yaml")
        checked = check_params(tmp_path / "params.yaml")
        sizes = read_sizes(checked, tmp_path, ("prepare", "label"))
        assert sizes.rows["library"].train == n_rows
        seconds = estimate(checked, sizes, machine).stages["finetune@docstring"]
        assert (seconds < 1) == (n_rows == 0)


def test_metrics_replace_guesses_unless_they_are_outdated(tmp_path: Path) -> None:
    checked = own_params(tmp_path, "text,label\na,b\n")
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "prepare.json").write_text('{"bytes": {"train": 9000, "val": 500, "test": 500}}')
    (tmp_path / "metrics" / "tokenize.json").write_text('{"vocab_size": 777, "bytes_per_token": {"train": 2.0}}')
    sizes = read_sizes(checked, tmp_path, ())
    assert (sizes.text_bytes["train"], sizes.held_out_tokens, sizes.vocab_size) == (9000, 500, 777)
    sizes = read_sizes(checked, tmp_path, ("prepare", "tokenize"))
    assert (sizes.text_bytes["train"], sizes.vocab_size) == (pytest.approx(3400), 4096)


PIPELINE = """
stages:
  first: {cmd: cp a b, deps: [a], outs: [b]}
  second: {cmd: cp b c, deps: [b], outs: [c]}
  other: {cmd: cp a d, deps: [a], outs: [d]}
  third: {cmd: cp c e, deps: [c], params: [key], outs: [e]}
"""


def test_stages_after_a_changed_one_run_too(
    tmp_path: Path, run_in_repository: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert outdated_stages() is None
    (tmp_path / "a").write_text("a")
    (tmp_path / "params.yaml").write_text("key: 1\n")
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    run_in_repository(tmp_path, "git init --quiet", "dvc init --quiet")
    assert outdated_stages() == {"first", "second", "third", "other"}
    run_in_repository(tmp_path, "dvc repro --quiet")
    assert outdated_stages() == set()
    (tmp_path / "params.yaml").write_text("key: 2\n")
    assert outdated_stages() == {"third"}
    (tmp_path / "b").write_text("other")
    assert outdated_stages() == {"first", "second", "third"}


def test_a_prediction_is_of_the_stages_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_params(tmp_path, "text,label\na,b\n")
    monkeypatch.chdir(tmp_path)
    for outdated, line, names in (
        (set(), "expected: nothing runs, all stages are up to date", None),
        ({"card", "report"}, "expected: about 8 s on this machine (report 2 s, card 1 s)", {"card", "report"}),
        ({"pretrain"}, "expected: about ", {"pretrain"}),
        (None, "expected: about ", {"pretrain", "prepare", "finetune@mine", "convert@mine"}),
    ):
        monkeypatch.setattr(library, "outdated_stages", lambda found=outdated: found)
        assert predict(Path("params.yaml")).startswith(line)
        if names:
            assert set(json.loads(library.PREDICTION.read_text())["seconds"]) >= names


def test_predictions_are_no_part_of_git_or_of_dvc() -> None:
    assert f"/{library.PREDICTION.parent}" in (ROOT / ".gitignore").read_text().splitlines()
    assert str(library.PREDICTION.parents[1]) in (ROOT / ".dvcignore").read_text().splitlines()
