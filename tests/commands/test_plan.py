"""A plan: steps that fill the time, settings that are valid, and refusals."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from llm.commands import cost, plan
from llm.commands.check import check_params
from llm.commands.plan import CONTEXT, PREDICTION, Budget, compare_with_outcome, make_plan, write_plan
from llm.commands.presets import apply_preset, edited
from llm.core.device import Machine
from llm.core.errors import UserError
from llm.experiments.pilot import Excerpt
from llm.experiments.planning_law import Pilots, Run
from llm.experiments.recipe import recipe_of
from llm.experiments.timing import StepCost

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM = {
    "label": {"prepare", "label"},
    "pretrain": {"prepare", "tokenize", "pretrain"},
    None: {"prepare", "label", "tokenize", "pretrain", "evaluate", "export", "baselines", "report", "finetune@rows"},
}
MACHINE = Machine("cpu", "float32", threads=2, compiler=False, torch_version="any")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A folder with params.yaml without tasks, a prepared text of 3 MB, and a machine whose steps follow the shape."""
    content = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(f"{content.partition('  tasks:')[0]}  tasks: {{}}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    n_bytes = {"train": 2_700_000, "val": 300_000, "test": 0}
    (tmp_path / "metrics").mkdir()
    (tmp_path / "data/labeled").mkdir(parents=True)
    (tmp_path / "metrics/prepare.json").write_text(json.dumps({"bytes": n_bytes}), encoding="utf-8")
    texts = Excerpt(["x"], ["y"], n_bytes)
    monkeypatch.setattr(plan, "_prepare_corpus", lambda: None)
    monkeypatch.setattr(plan, "read_excerpt", lambda _: texts)
    pilots = Pilots(Run(427_000, 256_000, 900_000, 2.1), Run(427_000, 1_024_000, 900_000, 1.8))
    monkeypatch.setattr(plan, "run_pilots", lambda *_: (pilots, 3.0))
    monkeypatch.setattr(plan, "upstream_stages", lambda until: UPSTREAM[until])
    monkeypatch.setattr(Machine, "available_memory", lambda _: 16 * 10**9)
    monkeypatch.setattr(cost, "measure_step", measure)
    return tmp_path / "params.yaml"


def measure(config, *_):
    seconds = config.n_layers * config.d_model**2 * 2e-7
    return StepCost(seconds, seconds, seconds / 3, window_bytes=1e7, fixed_bytes=10**9)


@pytest.mark.parametrize("minutes", [3, 20])
def test_steps_fill_the_time_and_settings_are_valid(project, minutes):
    found = make_plan(project, Budget(60 * minutes), MACHINE)
    chosen = found.candidates["recommended"]
    assert chosen.cost.seconds == pytest.approx(60 * minutes, rel=0.05)
    assert chosen.bits_per_byte[0] == min(of.bits_per_byte[0] for of in found.candidates.values())
    printed = write_plan(project, chosen)
    assert f"pretrain.max_steps: 2600 → {chosen.n_steps}" in printed
    checked = check_params(project)
    assert (checked.model.d_model, checked.sample.context_length) == (chosen.changes["model.d_model"], CONTEXT)
    assert "# of every random draw" in project.read_text(encoding="utf-8")
    assert chosen.epochs == pytest.approx(chosen.n_steps * 8 * CONTEXT / 900_000)
    recipe = recipe_of(chosen.epochs)
    assert (checked.tokenize.dropout, checked.tokenize.segmentations) == (recipe.merge_dropout, recipe.segmentations)
    assert (checked.model.dropout, checked.pretrain.optimizer.adamw_lr) == (recipe.dropout, recipe.adamw_lr)


def test_more_time_is_a_better_model(project):
    short, long = (make_plan(project, Budget(60 * minutes), MACHINE).candidates["recommended"] for minutes in (3, 60))
    assert long.bits_per_byte[0] < short.bits_per_byte[0]
    assert long.n_parameters > short.n_parameters


def test_a_small_text_gets_no_more_steps_than_help(project, monkeypatch):
    pilots = Pilots(Run(427_000, 256_000, 60_000, 2.1), Run(427_000, 1_024_000, 60_000, 2.0))
    monkeypatch.setattr(plan, "run_pilots", lambda *_: (pilots, 3.0))
    found = make_plan(project, Budget(3600), MACHINE)
    assert found.candidates["recommended"].cost.seconds < 1800
    assert plan.SHORTENED in found.table()


def test_the_time_may_be_that_of_a_stage(project):
    steps = [
        make_plan(project, Budget(180, until=until), MACHINE).candidates["recommended"].n_steps
        for until in (None, "pretrain")
    ]
    assert steps[0] < steps[1]


def test_a_preset_undoes_a_plan(project):
    before = project.read_bytes()
    write_plan(project, make_plan(project, Budget(180), MACHINE).candidates["recommended"])
    assert project.read_bytes() != before
    apply_preset(ROOT / "presets/default.yaml", project)
    assert project.read_bytes() == before


def test_a_longer_plan_gives_finetuning_its_epochs_back(project):
    task = {"kind": "classify", "base": "models/export/hf", "data": "data/labeled/rows.csv"}
    rows = pd.DataFrame({"text": ["some words of a text"] * 20_000, "label": ["a", "b"] * 10_000})
    rows.to_csv(project.parent / "data/labeled/rows.csv", index=False)
    with edited(project) as content:
        content["finetune"]["tasks"]["rows"] = task | {"text_columns": ["text"], "label_column": "label"}
    found = []
    for minutes in (4, 600):
        write_plan(project, make_plan(project, Budget(60 * minutes), MACHINE).candidates["recommended"])
        found.append(check_params(project).finetune.tasks["rows"].training.epochs)
    assert found[0] < found[1] == 1.0


def test_a_stage_without_pretraining_has_no_plan(project):
    with pytest.raises(UserError, match=r"^--until: expected pretrain or a stage after it, got label$"):
        make_plan(project, Budget(180, until="label"), MACHINE)


def test_the_file_is_no_larger_than_asked(project):
    found = make_plan(project, Budget(60 * 60, target_bytes=3_000_000), MACHINE)
    assert max(of.file_bytes for of in found.candidates.values()) <= 3_000_000


@pytest.mark.parametrize(
    ("change", "minutes", "target", "message"),
    [
        (
            ("", ""),
            0.3,
            None,
            r"--minutes: expected at least \d\.\d for this text and machine, got 0\.3; --until evaluate .* alone$",
        ),
        (("", ""), 5, 1000, r"--target-bytes: expected at least [\d,]+, got 1,000$"),
        (("kind: bpe", "kind: char"), 5, None, "expected a BPE tokenizer .* for a plan, got tokenize.kind char"),
    ],
)
def test_what_cannot_be_planned_is_refused(project, change, minutes, target, message):
    content = project.read_text(encoding="utf-8").replace("formats: [gguf-f16]", "formats: []")
    project.write_text(content.replace(*change, 1), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        make_plan(project, Budget(60 * minutes, target_bytes=target), MACHINE)


def test_the_outcome_is_shown_beside_its_plan_alone(project, tmp_path):
    metrics = tmp_path / "metrics"
    chosen = make_plan(project, Budget(60 * 10), MACHINE).candidates["recommended"]
    assert compare_with_outcome(project, metrics) == ""
    write_plan(project, chosen)
    (metrics / "evaluate.json").write_text(json.dumps({"val": {"model": {"bits_per_byte": 1.5}}}), encoding="utf-8")
    (metrics / "runtime/pretrain.json").write_text(json.dumps({"seconds": 237.0}), encoding="utf-8")
    value, low, high = chosen.bits_per_byte
    expected = f"planned: {cost.minutes(chosen.cost.seconds)}, {value:.3f} [{low:.3f}, {high:.3f}] bits per byte of val"
    assert PREDICTION.is_file()
    assert compare_with_outcome(project, metrics) == f"{expected}; measured: 4 minutes, 1.500"
    shutil.copyfile(ROOT / "params.yaml", project)
    assert compare_with_outcome(project, metrics) == ""
