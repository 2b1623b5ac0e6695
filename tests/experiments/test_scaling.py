"""Ladders are valid, queued and made once: with a stand-in for DVC, and with DVC in a small repository."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llm.core import params
from llm.core.errors import UserError
from llm.core.hashes import file_md5
from llm.experiments.queue import PATIENCE, PlannedRun, commands_in, make_runs, read_queue, wait_for
from llm.experiments.scaling import METRICS, PAGE, PICTURE, Ladder, plan_runs, read_ladder, run_ladder
from llm.experiments.scaling_law import Law
from llm.tokens.windows import WindowsInfo, write_info
from llm.train.params import PretrainParams

ROOT = Path(__file__).resolve().parents[2]
LADDERS = params.read(ROOT / "scaling.yaml")
LAW = Law(E=1.2, A=60.0, alpha=0.4, B=3000.0, beta=0.55)
CODE = "llm/model/gpt.py"
INFO = WindowsInfo(
    vocab_size=512,
    end_of_text=0,
    pad=1,
    context_length=128,
    stride=128,
    boundary="cross",
    n_bytes={"train": 1, "val": 1, "test": 1},
    segmentations=[],
    lossless=True,
)


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
        assert pretrain.eval_every_steps == steps
        assert pretrain.schedule.lr_factor(steps, steps) == 0
        assert max(pretrain.schedule.lr_factor(step, steps) for step in range(steps)) == 1
        assert plan.tokens == steps * pretrain.batch_size * INFO.context_length
        assert pretrain.compile == "never" or setting != "tiny"
        assert re.fullmatch(r"scaling-[\d.]+M-[\d.]+M", plan.name)
        assert subprocess.run(["git", "check-ref-format", f"refs/exps/{plan.name}"], check=False).returncode == 0
    # Four projections of D × D, three matrices of D × F, two norms of D and two of a head's width a block; one of D.
    for size, plan in zip(ladder.sizes, plans[:: len(ladder.max_steps)], strict=False):
        D, F, head = size.d_model, size.d_ff, size.d_model // size.n_heads
        assert plan.parameters == size.n_layers * (4 * D * D + 3 * D * F + 2 * D + 2 * head) + D
    assert plans[-1].parameters > max(plan.parameters for plan in plans[:-1])


SMALLEST = {"size": LADDERS["tiny"]["sizes"][0], "max_steps": 777}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": [100, 200]}, "scaling.yaml: tiny.max_steps: "),
        ({"max_steps": [100, 200, 200]}, "scaling.yaml: tiny: expected runs that differ"),
        (
            {"params": {"sample.stride": 3}},
            "scaling.yaml: tiny.params.sample.stride: expected a key of model, pretrain",
        ),
        ({"params": {"pretrain.compil": "never"}}, "scaling.yaml: tiny.params: pretrain.compil: "),
        ({"params": {"pretrain.compile": "no"}}, "scaling.yaml: tiny: pretrain.compile: "),
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


def test_an_unknown_ladder_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"scaling\.yaml: expected one of tiny, large, got huge$"):
        read_ladder(ROOT / "scaling.yaml", "huge")


def test_a_run_is_queued_by_its_name_with_its_changes(ladder):
    plan = plans_of(with_changes(ladder, params={"pretrain.compile": "never", "pretrain.init": None}))[0]
    words = plan.queue_command()
    assert words[:7] == ["dvc", "exp", "run", "--queue", "--single-item", "--name", plan.name]
    assert words[7:-1:2] == ["--set-param"] * len(plan.changes)
    assert words[-1] == "pretrain"
    changed = {"model.d_model=32", "pretrain.compile=never", "pretrain.init=null", "pretrain.max_steps=100"}
    assert changed | {"pretrain.schedule.warmup_steps=5"} <= set(words[8:-1:2])


STATUS = """\
Task     Name                 Created    Status
963c1e6  scaling-0.3M-5M      10:07 PM   Running
62ab2d7  of mine              10:06 PM   Queued
5855f7d  scaling-0.9M-5M      Nov 21, 2026   Success
0055f7d  scaling-0.3M-5M      09:00 AM   Failed

Worker status: 1 active, 2 idle
"""


def test_the_queue_is_read_from_the_output_of_dvc():
    states, n_workers = read_queue(lambda *words: STATUS)
    assert (states["scaling-0.3M-5M"], states["scaling-0.9M-5M"], n_workers) == ("Running", "Success", 3)
    assert read_queue(lambda *words: "No experiment tasks in the queue.\nWorker status: 0 active, 0 idle\n") == ({}, 0)


class StandIn:
    """DVC and Git as far as a ladder needs them: each look at the queue finishes as many runs as there are workers."""

    def __init__(self, root: Path, plans: list[PlannedRun]):
        self.root, self.plans, self.failing = root, {plan.name: plan for plan in plans}, set[str]()
        self.states: dict[str, str] = {}
        self.refs: dict[str, dict[str, str]] = {}  # files of each experiment
        self.n_workers, self.log = 0, list[tuple[str, ...]]()
        self.at_status: Callable[[], None] = lambda: None

    def __call__(self, *words: str) -> str:
        self.log.append(words)
        match words:
            case ("dvc", "queue", "status"):
                return self.status()
            case ("dvc", "exp", "run", *options):
                self.states[options[options.index("--name") + 1]] = "Queued"
            case ("dvc", "queue", "start", "--jobs", jobs):
                self.n_workers = int(jobs)
            case ("dvc", "queue", "remove" | "kill", *names):
                self.states = {name: state for name, state in self.states.items() if name not in names}
            case ("dvc", "queue", "logs", name):
                return f"Running stage 'pretrain':\n> python\n{name}: no luck\nERROR: failed to reproduce 'pretrain'\n"
            case ("dvc", "exp", "remove", *refs):
                self.refs = {ref: files for ref, files in self.refs.items() if ref not in refs}
            case ("git", "rev-parse", "HEAD"):
                return "abcdef\n"
            case ("git", "for-each-ref", _, pattern):
                return "\n".join(self.refs) if pattern.startswith("refs/exps/*") or pattern.endswith("cdef") else ""
            case ("git", "show", what):
                ref, file = what.split(":")
                return self.refs[ref][file]
            case _:
                raise AssertionError(words)
        return ""

    def status(self) -> str:
        self.at_status()
        rows = [f"1234567  {name}   10:07 PM   {state}" for name, state in self.states.items()]
        for name in [name for name, state in self.states.items() if state == "Queued"][: self.n_workers]:
            self.states[name] = "Failed" if name in self.failing else "Success"
            if name not in self.failing:
                self.refs[f"refs/exps/ab/cdef/{name}"] = self.make(self.plans[name])
        return "\n".join(["Task     Name", *rows, f"\nWorker status: {self.n_workers} active, 0 idle"])

    def make(self, plan: PlannedRun) -> dict[str, str]:
        windows = json.loads((self.root / "dvc.lock").read_text())["stages"]["sample"]["outs"][0]
        deps = [windows, {"path": CODE, "md5": file_md5(self.root / CODE)}]
        lock = {"stages": {"pretrain": {"deps": deps, "params": {"params.yaml": plan.sections}}}}
        loss = LAW.loss(plan.parameters, plan.tokens)
        metrics = {"tokens_seen": plan.tokens, "val_loss": loss, "epochs": plan.tokens / 4e5}
        return {"dvc.lock": json.dumps(lock), "metrics/pretrain.json": json.dumps(metrics)}  # JSON is YAML

    def queued(self) -> list[str]:
        return [words[words.index("--name") + 1] for words in self.log if words[:3] == ("dvc", "exp", "run")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files of a repository that a ladder reads: params, wiring, lock, windows."""
    for folder in ("data/windows", "llm/model"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("params.yaml", "scaling.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    stages = {"pretrain": {"deps": ["data/windows", CODE]}}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    lock = {"stages": {"sample": {"outs": [{"path": "data/windows", "md5": "w.dir"}]}}}
    (tmp_path / "dvc.lock").write_text(json.dumps(lock))
    (tmp_path / CODE).write_text("")
    write_info(tmp_path / "data/windows/windows.json", INFO)
    return tmp_path


@pytest.fixture
def dvc(root: Path, ladder: Ladder) -> StandIn:
    return StandIn(root, plans_of(ladder))


def test_a_ladder_is_made_once_and_written(root, dvc, ladder):
    page, failed = run_ladder("tiny", root, dvc, 0)
    assert failed == []
    assert sorted(dvc.queued()) == sorted(dvc.plans)
    work = [dvc.plans[name].flops for name in dvc.queued()]
    assert work == sorted(work, reverse=True)
    metrics = json.loads((root / METRICS).read_text())
    assert [run["name"] for run in metrics["runs"]] == list(dvc.plans)[:-1]
    assert metrics["prediction"]["value"] == pytest.approx(metrics["outcome"]["loss"], rel=1e-3)
    written = {path: (root / path).read_bytes() for path in (PAGE, METRICS, PICTURE)}
    assert written[PAGE].decode() == page
    dvc.log.clear()
    assert run_ladder("tiny", root, dvc, 0) == (page, [])
    assert dvc.queued() == []
    assert {path: (root / path).read_bytes() for path in written} == written


@pytest.mark.parametrize("changed", ["code", "windows", "params"])
def test_a_run_made_otherwise_is_removed_and_made_again(root, dvc, ladder, changed):
    plans = plans_of(ladder)
    make_runs(plans, 2, root, dvc, 0)
    dvc.log.clear()
    if changed == "code":
        (root / CODE).write_text("changed")
    elif changed == "windows":
        (root / "dvc.lock").write_text((root / "dvc.lock").read_text().replace("w.dir", "v.dir"))
    else:
        plans = plans_of(with_changes(ladder, warmup_fraction=0.1))
        dvc.plans = {plan.name: plan for plan in plans}
    made, failed = make_runs(plans, 2, root, dvc, 0)
    assert (sorted(made), failed) == (sorted(dvc.plans), {})
    assert sorted(dvc.queued()) == sorted(dvc.plans)
    removed = next(words for words in dvc.log if words[:3] == ("dvc", "exp", "remove"))
    assert len(removed) == 3 + len(plans)


def test_failed_runs_are_named_and_the_others_are_fitted(root, dvc, capsys):
    dvc.failing = {list(dvc.plans)[3], list(dvc.plans)[-1]}
    page, failed = run_ladder("tiny", root, dvc, 0)
    assert set(failed) == dvc.failing
    lines = capsys.readouterr().err.splitlines()
    assert [name for name in failed if f"scaling: {name} failed: {name}: no luck" not in lines] == []
    assert "it was not trained" in page
    assert len(json.loads((root / METRICS).read_text())["runs"]) == len(dvc.plans) - 2


def test_too_few_successful_runs_are_refused(root, dvc):
    dvc.failing = set(list(dvc.plans)[2:])
    with pytest.raises(UserError, match=r"^scaling: expected at least 7 runs.*got 2, 1, 2$"):
        run_ladder("tiny", root, dvc, 0)


def test_other_experiments_in_the_queue_are_not_started(root, dvc, ladder):
    dvc.states = {"of-mine": "Queued"}
    with pytest.raises(UserError, match=r"^dvc queue: expected only this ladder's runs, got of-mine$"):
        make_runs(plans_of(ladder), 2, root, dvc, 0)
    assert (dvc.queued(), dvc.n_workers) == ([], 0)


def test_runs_of_an_earlier_call_are_not_queued_twice(root, dvc, ladder):
    first, second, *_ = plans = plans_of(ladder)[:3]
    dvc.states = {first.name: "Queued", second.name: "Queued"}
    made, failed = make_runs(plans, 2, root, dvc, 0)
    assert (made.keys(), failed) == ({plan.name for plan in plans}, {})
    assert dvc.queued() == [plans[2].name]


def test_an_interrupt_empties_the_queue_waiting_runs_first(root, dvc, ladder, capsys):
    plans = plans_of(ladder)[:4]

    def interrupt() -> None:
        if dvc.n_workers:
            dvc.n_workers, dvc.at_status = 0, lambda: None
            dvc.states[plans[0].name] = "Running"
            raise KeyboardInterrupt

    dvc.at_status = interrupt
    with pytest.raises(KeyboardInterrupt):
        make_runs(plans, 2, root, dvc, 0)
    waiting = sorted(plan.name for plan in plans[1:])
    ended = [words for words in dvc.log if words[2] in ("remove", "kill")]
    assert ended == [("dvc", "queue", "remove", *waiting), ("dvc", "queue", "kill", plans[0].name)]
    assert "stopped" in capsys.readouterr().err


def test_a_queue_without_workers_is_given_up_and_emptied(dvc, ladder):
    plans = plans_of(ladder)[:2]
    dvc.states = {plan.name: "Running" for plan in plans}
    failed = wait_for(plans, dvc, 0)
    assert failed.keys() == {plan.name for plan in plans}
    assert all("no workers" in reason for reason in failed.values())
    assert dvc.log[:PATIENCE] == [("dvc", "queue", "status")] * PATIENCE
    assert dvc.states == {}


def test_a_run_without_held_out_text_is_refused(root, dvc, ladder):
    make = dvc.make
    dvc.make = lambda plan: make(plan) | {"metrics/pretrain.json": '{"tokens_seen": 1, "epochs": 0}'}
    with pytest.raises(UserError, match=r"^prepare\.split\.val: expected held-out text"):
        make_runs(plans_of(ladder)[:1], 2, root, dvc, 0)


def test_a_command_that_fails_is_its_last_line(tmp_path):
    with pytest.raises(UserError, match=r"^git rev-parse HEAD: fatal: "):
        commands_in(tmp_path / "..")("git", "rev-parse", "HEAD", "--", "no-such-file")
    assert commands_in(tmp_path)("pwd").strip() == str(tmp_path)


WORK = """
import json, sys
from pathlib import Path
from ruamel.yaml import YAML

content = YAML(typ="safe", pure=True).load(Path("params.yaml"))
steps = content["pretrain"]["max_steps"]
if steps == 13:
    sys.exit("pretrain: 13 brings no luck")
Path("metrics").mkdir(exist_ok=True)
loss = json.loads(Path("data/windows").read_text()) + 1 / steps
Path("metrics/pretrain.json").write_text(json.dumps({"tokens_seen": steps, "val_loss": loss, "epochs": 0.1}))
"""

WIRING = """
stages:
  sample:
    cmd: mkdir -p data && echo 1.5 > data/windows
    outs: [data/windows]
  pretrain:
    cmd: python work.py
    deps: [data/windows, given, work.py]
    params: [model, pretrain, seed]
    metrics: [metrics/pretrain.json: {cache: false}]
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of Git and DVC whose pretraining is one division."""
    for name in os.environ:
        if name.startswith(("DVC_", "GIT_", "PYTHON")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for role in ("AUTHOR", "COMMITTER"):
        for key in ("NAME", "EMAIL"):
            monkeypatch.setenv(f"GIT_{role}_{key}", "test@example.org")
    call = commands_in(tmp_path)
    call("git", "init", "--quiet", "--initial-branch", "main")
    call("dvc", "init", "--quiet")
    files = {"work.py": WORK, "dvc.yaml": WIRING, "params.yaml": "seed: 1\nmodel: {norm_eps: 1e-6, d_model: 8}\n"}
    files["params.yaml"] += "pretrain: {max_steps: 4, weight_averaging: ema}\n"
    files |= {"given/b.txt": "of nobody's making", "given/in/a.txt": "a folder of them"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    call("dvc", "repro", "--quiet", "sample")
    call("git", "add", "--all")
    call("git", "commit", "--quiet", "--message", "start")
    return tmp_path


def small_plan(max_steps: int) -> PlannedRun:
    changes = {"model.d_model": 16, "pretrain.max_steps": max_steps, "pretrain.weight_averaging": None}
    sections = {"seed": 1, "model": {"norm_eps": 1e-6, "d_model": 16}}
    sections["pretrain"] = {"max_steps": max_steps, "weight_averaging": None}
    return PlannedRun(f"scaling-0.1M-{max_steps}M", 100, max_steps, 1e9, changes, sections)


def test_dvc_makes_each_run_once_and_reports_failures(repository):
    plans, call = [small_plan(steps) for steps in (10, 13)], commands_in(repository)
    made, failed = make_runs(plans, 2, repository, call, 1)
    assert {name: run.loss for name, run in made.items()} == {"scaling-0.1M-10M": 1.6}
    assert failed == {"scaling-0.1M-13M": "pretrain: 13 brings no luck"}
    assert call("git", "status", "--porcelain") == ""
    (repository / "given/__pycache__").mkdir()
    (repository / "given/__pycache__/a.pyc").write_text("")
    words: list[tuple[str, ...]] = []
    again, _ = make_runs(plans[:1], 2, repository, lambda *given: words.append(given) or call(*given), 1)
    assert again == made
    assert not [given for given in words if given[:2] == ("dvc", "exp")]
