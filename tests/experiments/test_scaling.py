"""Ladders are valid, written with their law, and made once by DVC in a small repository."""

import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from llm.core import params
from llm.core.errors import UserError
from llm.experiments import scaling
from llm.experiments.runs import PlannedRun, find_runs, make_runs
from llm.experiments.scaling import METRICS, PAGE, PICTURE, Ladder, plan_runs, read_ladder, run_ladder
from llm.experiments.scaling_law import Law, Run
from llm.tokens.windows import WindowsInfo, write_info
from llm.train.params import PretrainParams

ROOT = Path(__file__).resolve().parents[2]
LADDERS = params.read(ROOT / "scaling.yaml")
LAW = Law(E=1.2, A=60.0, alpha=0.4, B=3000.0, beta=0.55)
SHAPE = {"vocab_size": 512, "end_of_text": 0, "pad": 1, "context_length": 128, "stride": 128, "boundary": "cross"}
SHAPE |= {"n_bytes": {"train": 1, "val": 1, "test": 1}, "segmentations": [], "lossless": True}
INFO = WindowsInfo(**SHAPE)


def plans_of(ladder: Ladder) -> list[PlannedRun]:
    return plan_runs(ladder, params.read(ROOT / "params.yaml"), INFO, "scaling.yaml: tiny")


@pytest.fixture
def ladder() -> Ladder:
    return read_ladder(ROOT / "scaling.yaml", "tiny")


def with_changes(ladder: Ladder, **changes: object) -> Ladder:
    return params.check(Ladder, ladder.model_dump() | changes, "tiny", "scaling.yaml")


@pytest.mark.parametrize("setting", LADDERS)
def test_every_run_of_the_shipped_ladders_is_valid(setting):
    ladder = read_ladder(ROOT / "scaling.yaml", setting)
    plans = plans_of(ladder)
    for plan in plans:
        pretrain = params.check(PretrainParams, plan.sections["pretrain"], "pretrain", plan.name)
        steps = pretrain.max_steps
        # One look at val, after the learning rate has fallen to zero.
        assert (pretrain.eval_every_steps, pretrain.schedule.lr_factor(steps, steps)) == (steps, 0)
        assert plan.tokens == steps * pretrain.batch_size * INFO.context_length
        assert re.fullmatch(r"scaling-[\d.]+M-[\d.]+M", plan.name)
    # Four projections of D × D, three matrices of D × F, two norms of D and two of a head's width a block; one of D.
    for size, plan in zip(ladder.sizes, plans[:: len(ladder.max_steps)], strict=False):
        D, F, head = size.d_model, size.d_ff, size.d_model // size.n_heads
        assert plan.parameters == size.n_layers * (4 * D * D + 3 * D * F + 2 * D + 2 * head) + D


def test_the_command_of_a_run_has_its_name_and_its_changes(ladder):
    plan = plans_of(with_changes(ladder, params={"pretrain.compile": "never", "pretrain.weight_averaging": None}))[0]
    command = " ".join(plan.command())
    assert f" --name {plan.name} " in command and command.endswith(" pretrain")
    changed = ["model.d_model=32", "pretrain.weight_averaging=null", "pretrain.max_steps=100"]
    changed += ["pretrain.schedule.warmup_steps=5"]
    assert [change for change in changed if f" --set-param {change} " not in command] == []


SMALLEST = {"size": LADDERS["tiny"]["sizes"][0], "max_steps": 777}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": [100, 200, 200]}, "scaling.yaml: tiny: expected runs that differ"),
        (
            {"params": {"sample.stride": 3}},
            "scaling.yaml: tiny.params.sample.stride: expected a key of model, pretrain",
        ),
        ({"params": {"pretrain.compil": "never"}}, "scaling.yaml: tiny.params: pretrain.compil: "),
        ({"params": {"model.n_kv_heads": 1, "model.dropout": 2}}, "scaling.yaml: tiny: model.dropout: "),
        ({"job": 3}, "scaling.yaml: tiny.job: "),
        ({"predicted": SMALLEST}, "scaling.yaml: tiny.predicted.size: expected more than "),
    ],
)
def test_an_invalid_ladder_is_refused(ladder, changes, message):
    with pytest.raises(UserError) as refused:
        plans_of(with_changes(ladder, **changes))
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=r"scaling\.yaml: expected one of tiny, large, got huge$"):
        read_ladder(ROOT / "scaling.yaml", "huge")


@pytest.mark.parametrize("failing", [[], [3, 15], range(2, 16)])
def test_a_ladder_is_written_with_its_law_and_prediction(tmp_path, ladder, monkeypatch, capsys, failing):
    """Training is replaced: runs at the failing places fail, the others have the losses of a law."""
    root = tmp_path
    for name in ("params.yaml", "scaling.yaml"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    (root / "data/windows").mkdir(parents=True)
    write_info(root / "data/windows/windows.json", INFO)

    def make(plans, jobs, root):
        failed = {plans[at].name: "no luck" for at in failing}
        losses = {plan.name: LAW.loss(plan.parameters, plan.tokens) for plan in plans if plan.name not in failed}
        planned = {plan.name: (plan.name, plan.parameters, plan.tokens) for plan in plans}
        return {name: Run(*planned[name], loss, 0.5) for name, loss in losses.items()}, failed

    monkeypatch.setattr(scaling, "make_runs", make)
    if len(failing) > 2:
        with pytest.raises(UserError, match=r"^scaling: expected at least 7 runs.*got 2, 1, 2$"):
            run_ladder("tiny", root)
        return
    page, failed = run_ladder("tiny", root)
    names = [plan.name for plan in plans_of(ladder)]
    assert ((root / PAGE).read_text(), failed) == (page, [names[at] for at in failing])
    assert "<svg" in (root / PICTURE).read_text()
    metrics = json.loads((root / METRICS).read_text())
    assert [run["name"] for run in metrics["runs"]] == [name for name in names[:-1] if name not in failed]
    assert capsys.readouterr().err.count("failed: no luck") == len(failing)
    if failing:
        assert "it was not trained" in page
    else:
        assert metrics["prediction"]["value"] == pytest.approx(metrics["outcome"]["loss"], rel=1e-3)


WORK = """
import json, sys, time
from pathlib import Path
from ruamel.yaml import YAML

content = YAML(typ="safe", pure=True).load(Path("params.yaml"))
steps = content["pretrain"]["max_steps"]
while steps == 14:
    Path(sys.argv[1], "begun").touch()
    time.sleep(0.1)
if steps == 13:
    sys.exit("pretrain: 13 brings no luck")
Path("metrics").mkdir(exist_ok=True)
val = {"val_loss": json.loads(Path("data/windows").read_text()) + 1 / steps} if steps != 15 else {}
Path("metrics/pretrain.json").write_text(json.dumps({"tokens_seen": steps, "epochs": 0.1} | val))
"""

WIRING = """
stages:
  sample:
    cmd: mkdir -p data && echo 1.5 > data/windows
    outs: [data/windows]
  pretrain:
    cmd: python work.py FOLDER
    deps: [data/windows, given, work.py]
    params: [model, pretrain, seed]
    metrics: [metrics/pretrain.json: {cache: false}]
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository_environment, run_in_repository) -> Path:
    """A repository of Git and DVC whose pretraining is one division."""
    for name in [name for name in os.environ if name.startswith(("DVC_", "GIT_", "PYTHON"))]:
        monkeypatch.delenv(name)
    for name, value in repository_environment.items():
        monkeypatch.setenv(name, value)
    params_text = "seed: 1\nmodel: {norm_eps: 1e-6, d_model: 8}\npretrain: {max_steps: 4, weight_averaging: ema}\n"
    files = {"work.py": WORK, "dvc.yaml": WIRING.replace("FOLDER", str(tmp_path)), "params.yaml": params_text}
    files |= {"given/b.txt": "of nobody's making", "given/in/a.txt": "a folder of them"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    run_in_repository(tmp_path, "git init --quiet --initial-branch main", "dvc init --quiet", "dvc repro -q sample")
    run_in_repository(tmp_path, "git add --all", "git commit --quiet --message start")
    return tmp_path


def small_plan(max_steps: int) -> PlannedRun:
    changes = {"model.d_model": 16, "pretrain.max_steps": max_steps, "pretrain.weight_averaging": None}
    sections = {"seed": 1, "model": {"norm_eps": 1e-6, "d_model": 16}}
    sections["pretrain"] = {"max_steps": max_steps, "weight_averaging": None}
    return PlannedRun(f"scaling-0.1M-{max_steps}M", 100, max_steps, 1e9, changes, sections)


def test_dvc_makes_each_run_once_and_reports_failures(repository, run_in_repository):
    plans = [small_plan(steps) for steps in (10, 13)]
    made, failed = make_runs(plans, 2, repository)
    assert {name: run.loss for name, run in made.items()} == {"scaling-0.1M-10M": 1.6}
    assert failed == {"scaling-0.1M-13M": "pretrain: 13 brings no luck"}
    assert run_in_repository(repository, "git status --porcelain") == ""
    (repository / "given/__pycache__").mkdir()
    (repository / "given/__pycache__/a.pyc").write_text("")
    experiments = run_in_repository(repository, "git for-each-ref refs/exps")
    assert make_runs(plans[:1], 2, repository) == (made, {})
    assert run_in_repository(repository, "git for-each-ref refs/exps") == experiments
    # Made with other code, a run is made again in place of the old one.
    (repository / "work.py").write_text(WORK.replace("1 / steps", "2 / steps"))
    assert find_runs(plans, repository) == {}
    assert make_runs(plans[:1], 2, repository)[0]["scaling-0.1M-10M"].loss == 1.7
    assert run_in_repository(repository, "git for-each-ref refs/exps/*/*/scaling-*").count("\n") == 1
    with pytest.raises(UserError, match=r"^prepare\.split\.val: expected held-out text"):
        make_runs([small_plan(15)], 1, repository)


def test_an_interrupt_ends_the_runs_in_work(repository, capsys):
    def interrupt() -> None:
        while not (repository / "begun").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        make_runs([small_plan(14), small_plan(10)], 1, repository)
    assert "stopped; finished runs are kept" in capsys.readouterr().err
    (repository / "begun").unlink()
    time.sleep(0.5)
    assert not (repository / "begun").exists()
    assert find_runs([small_plan(10)], repository) == {}
