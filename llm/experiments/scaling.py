"""The ladder of `make scaling`: sizes and budgets in; experiments of DVC, a fitted law and a prediction out.

    scaling.yaml → a plan of runs → `dvc exp run --queue` of those that are not made → `dvc queue start`
                 → each run's metrics, out of Git → llm.experiments.scaling_law → reports/scaling.md

The queue is DVC's, so a run goes on in a copy of the repository as it was when the run was queued. A run is made when
an experiment of its name has the params, the windows and the code that it would have now, by its dvc.lock: such a one
is found again whatever was committed since. Only the stage pretrain runs, on the windows that are there.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import Field
from ruamel.yaml import YAML
from tqdm import tqdm

from llm.core import params
from llm.core.errors import UserError
from llm.core.params import Section
from llm.experiments.scaling_law import LEAST_VALUES, Run, draw, fit_and_predict, summarise, write_page
from llm.report.trace import file_md5, listing_hash, read_lock
from llm.tokens.windows import WindowsInfo, read_info

LADDERS, WINDOWS = Path("scaling.yaml"), Path("data/windows")
PAGE, PICTURE, METRICS = Path("reports/scaling.md"), Path("plots/scaling.svg"), Path("metrics/scaling.json")
SECTIONS = ("model", "pretrain", "seed")  # of params.yaml, that pretraining takes
ACTIVE = ("Queued", "Running")
WAIT_SECONDS = 10.0  # between two looks at the queue; a look costs about a second of a core
PATIENCE = 6  # looks without a worker, until the queue is given up
# What a run costs before and after its training, in training's work: about 12 s at 85 GFLOP/s.
START_FLOPS = 1e12

Count = Annotated[int, Field(ge=1)]
Command = Callable[..., str]


class Size(Section):
    """A rung: the keys of `model` that make its size."""

    d_model: Count
    n_layers: Count
    n_heads: Count
    n_kv_heads: Count
    d_ff: Count


class Predicted(Section):
    """The run that is held out of the fit."""

    size: Size
    max_steps: Count


class Ladder(Section):
    """One setting of scaling.yaml: every size is trained for every number of steps."""

    jobs: Count
    sizes: Annotated[list[Size], Field(min_length=LEAST_VALUES)]
    max_steps: Annotated[list[Count], Field(min_length=LEAST_VALUES)]
    predicted: Predicted
    warmup_fraction: Annotated[float, Field(ge=0, le=1)]
    params: dict[str, Any]


@dataclass(frozen=True)
class PlannedRun:
    """A run before it is made: N and D, its training's work, the keys it sets and what its sections are with them."""

    name: str
    parameters: int
    tokens: int
    flops: float
    changes: dict[str, Any]
    sections: dict[str, Any]


def run_ladder(setting: str, root: Path, call: Command, wait_seconds: float = WAIT_SECONDS) -> tuple[str, list[str]]:
    """Make the runs of a ladder that are not made, fit, predict; write the page, a picture and metrics.

    Returns the page, and the names of the runs that failed; why is told on stderr.

    Args:
        setting: a key of scaling.yaml.
        root: the repository; its data/windows are there.
        call: runs a command in `root` and gives what it printed.
        wait_seconds: between two looks at the queue.

    Raises:
        UserError: a wrong value, other experiments in DVC's queue, or too few runs for a fit.
    """
    ladder = read_ladder(root / LADDERS, setting)
    plans = plan_runs(ladder, params.read(root / "params.yaml"), read_info(root / WINDOWS), f"{LADDERS}: {setting}")
    made, failed = make_runs(plans, ladder.jobs, root, call, wait_seconds)
    for name, reason in failed.items():
        print(f"scaling: {name} failed: {reason}", file=sys.stderr)
    *rungs, held_out = plans
    runs, outcome = [made[plan.name] for plan in rungs if plan.name in made], made.get(held_out.name)
    target = held_out.parameters, held_out.tokens
    fit = fit_and_predict(runs, *target)
    page = write_page(setting, runs, fit, target, outcome)
    for path in (PAGE, METRICS):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / PAGE).write_text(page, encoding="utf-8")
    summary = json.dumps(summarise(setting, runs, fit, target, outcome), indent=2)
    (root / METRICS).write_text(summary + "\n", encoding="utf-8")
    draw(runs, fit, target, outcome, root / PICTURE)
    return page, list(failed)


def read_ladder(path: Path, setting: str) -> Ladder:
    """A setting of the file; UserError names the ones that there are, or the key that is wrong."""
    content = params.read(path)
    if setting not in content:
        raise UserError(f"{path}: wanted one of {', '.join(map(str, content))}, given {setting}")
    ladder: Ladder = params.check(Ladder, content[setting], setting, path)
    return ladder


def plan_runs(ladder: Ladder, content: dict[str, Any], info: WindowsInfo, where: str) -> list[PlannedRun]:
    """The runs of a ladder with the content of params.yaml, and last of all the one that is held out.

    UserError names what is no valid model or training, and two runs of one name.
    """
    rungs = [(size, steps) for size in ladder.sizes for steps in ladder.max_steps]
    held_out = (ladder.predicted.size, ladder.predicted.max_steps)
    plans = [_plan(size, steps, ladder, content, info, where) for size, steps in [*rungs, held_out]]
    names = [plan.name for plan in plans]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: wanted runs that differ in their rounded size or tokens, given {name} twice")
    largest, predicted = max(plan.parameters for plan in plans[:-1]), plans[-1].parameters
    if predicted <= largest:
        raise UserError(f"{where}.predicted.size: wanted more than {largest:,} parameters, given {predicted:,}")
    return plans


def _plan(
    size: Size, max_steps: int, ladder: Ladder, content: dict[str, Any], info: WindowsInfo, where: str
) -> PlannedRun:
    import torch

    from llm.model.config import ModelConfig, ModelParams
    from llm.model.gpt import GPT
    from llm.train.params import PretrainParams

    changes = dict(ladder.params)
    changes |= {f"model.{key}": value for key, value in size.model_dump().items()}
    changes |= {
        "pretrain.max_steps": max_steps,
        "pretrain.eval_every_steps": max_steps,
        "pretrain.checkpoint_every_steps": max_steps,
        "pretrain.schedule.warmup_steps": round(ladder.warmup_fraction * max_steps),
    }
    sections = {key: params.find(content, key, Path("params.yaml")) for key in SECTIONS}
    for key, value in changes.items():
        if key.split(".")[0] not in SECTIONS:
            raise UserError(f"{where}.params.{key}: wanted a key of {', '.join(SECTIONS)}")
        params.find(content, key, Path(f"{where}.params"))
        sections = _with(sections, key.split("."), value)
    model = params.check(ModelParams, sections["model"], "model", where)
    pretrain = params.check(PretrainParams, sections["pretrain"], "pretrain", where)
    with torch.device("meta"):  # shapes alone
        gpt = GPT(ModelConfig(**model.model_dump(), vocab_size=info.vocab_size, context_length=info.context_length))
    parameters = sum(weight.numel() for weight in [*gpt.blocks.parameters(), *gpt.norm.parameters()])
    tokens = max_steps * pretrain.batch_size * info.context_length
    flops = float(gpt.flops_per_token()) * tokens
    return PlannedRun(f"scaling-{short(parameters)}-{short(tokens)}", parameters, tokens, flops, changes, sections)


def _with(content: dict[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    """Nested mappings with another value at a path; the given ones stay as they are."""
    first, *rest = keys
    return content | {first: _with(content[first], rest, value) if rest else value}


def short(count: int) -> str:
    """Two digits, in millions.

    >>> [short(count) for count in (37_664, 990_208, 2_214_592, 26_214_400)]
    ['0.038M', '0.99M', '2.2M', '26M']
    """
    return f"{float(f'{count:.2g}') / 1e6:g}M"


def queue_words(plan: PlannedRun) -> list[str]:
    """The command that queues a run. The one stage is run whatever stands before it: its windows are there."""
    changes = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in plan.changes.items()]
    settings = [word for change in changes for word in ("--set-param", change)]
    return ["dvc", "exp", "run", "--queue", "--single-item", "--name", plan.name, *settings, "pretrain"]


def make_runs(
    plans: Sequence[PlannedRun], jobs: int, root: Path, call: Command, wait_seconds: float
) -> tuple[dict[str, Run], dict[str, str]]:
    """Make those that are not made, `jobs` at a time: every run that is there then, and why the others are not.

    What an earlier call left in the queue is waited for first. Interrupted, it takes its own out of the queue.
    UserError where other experiments are in it: they would be started too.
    """
    by_name = {plan.name: plan for plan in plans}
    status, _ = read_queue(call)
    active = {name for name, state in status.items() if state in ACTIVE}
    if active - by_name.keys():
        raise UserError(
            f"dvc queue: wanted none but this ladder's runs, given {', '.join(sorted(active - set(by_name)))}"
        )
    failed: dict[str, str] = {}
    try:
        if active:
            print(f"scaling: {len(active)} runs are in DVC's queue already", file=sys.stderr)
            call("dvc", "queue", "start", "--jobs", str(jobs))
            failed = wait_for([by_name[name] for name in active], call, wait_seconds)
        made = find_runs(plans, root, call)
        # The longest first: two at a time then end at about the same time.
        missing = sorted((plan for plan in plans if plan.name not in made), key=lambda plan: -plan.flops)
        if missing:
            _clear(missing, call)
            for plan in tqdm(missing, desc="queue", unit=" runs"):
                call(*queue_words(plan))
            call("dvc", "queue", "start", "--jobs", str(jobs))
            failed = wait_for(missing, call, wait_seconds)
            made = find_runs(plans, root, call)
    except KeyboardInterrupt:
        _withdraw(by_name, call)
        print("scaling: stopped; the runs that ended are kept", file=sys.stderr)
        raise
    reasons = {name: failed.get(name, "it left no result that fits the params, windows and code") for name in by_name}
    return made, {name: reason for name, reason in reasons.items() if name not in made}


def read_queue(call: Command) -> tuple[dict[str, str], int]:
    """Each experiment in DVC's queue with its state (Queued, Running, Success, Failed), and how many workers there are.

    An experiment that stands there twice is taken as active if one of the two is.
    """
    states: dict[str, str] = {}
    workers = 0
    for line in call("dvc", "queue", "status").splitlines():
        if found := re.fullmatch(r"Worker status: (\d+) active, (\d+) idle", line.strip()):
            workers = int(found[1]) + int(found[2])
        elif found := re.fullmatch(r"[0-9a-f]{7}\s+(\S+)\s.*\s(\w+)", line.strip()):
            states[found[1]] = found[2] if states.get(found[1]) not in ACTIVE else states[found[1]]
    return states, workers


def wait_for(plans: Collection[PlannedRun], call: Command, wait_seconds: float) -> dict[str, str]:
    """Until none of them is queued or running; why those failed that did. Shows how much of the work is left."""
    left = {plan.name: plan.flops + START_FLOPS for plan in plans}
    failed: dict[str, str] = {}
    n_lonely = 0
    look = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    with tqdm(total=sum(left.values()), bar_format=look) as bar:
        while left:
            states, n_workers = read_queue(call)
            for name in [name for name in left if states.get(name) not in ACTIVE]:
                bar.update(left.pop(name))
                if states.get(name) == "Failed":
                    failed[name] = read_reason(name, call)
            bar.set_description(f"{len(plans) - len(left)} of {len(plans)} runs")
            n_lonely = 0 if n_workers else n_lonely + 1
            if left and n_lonely == PATIENCE:
                _withdraw(left, call)
                return failed | dict.fromkeys(left, "DVC's queue lost its workers; run it again")
            if left:
                time.sleep(wait_seconds)
    return failed


def read_reason(name: str, call: Command) -> str:
    """The last that a failed run said before DVC's own words, which name the command alone."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", call("dvc", "queue", "logs", name)) if line.strip()]
    own = [line for line in lines if not line.startswith(("ERROR: failed to reproduce", "> "))]
    return own[-1] if own else "it left no word"


def find_runs(plans: Sequence[PlannedRun], root: Path, call: Command) -> dict[str, Run]:
    """Those that are made, by name."""
    wiring = params.read(root / "dvc.yaml")["stages"]["pretrain"]
    recorded = {
        out["path"]: out["md5"] for stage in read_lock(root / "dvc.lock").values() for out in stage.get("outs", [])
    }
    deps = {path: recorded.get(path) or _hash(root / path) for path in wiring["deps"]}
    refs = call("git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/scaling-*").split()
    made = {}
    for plan in plans:
        for ref in (ref for ref in refs if ref.rpartition("/")[2] == plan.name):
            if _fits(YAML(typ="safe", pure=True).load(call("git", "show", f"{ref}:dvc.lock")), plan, deps):
                made[plan.name] = _read_run(plan, json.loads(call("git", "show", f"{ref}:metrics/pretrain.json")))
    return made


def _fits(lock: dict[str, Any], plan: PlannedRun, deps: dict[str, str]) -> bool:
    """Whether a dvc.lock's pretraining is the planned run: its params, and each dependency with its hash."""
    stage = lock["stages"].get("pretrain", {})
    found = {dep["path"]: dep["md5"] for dep in stage.get("deps", [])}
    return bool(stage) and stage["params"]["params.yaml"] == plan.sections and found == deps


def _hash(path: Path) -> str:
    """As DVC has it, of a file or of a folder."""
    if not path.is_dir():
        return file_md5(path)
    return listing_hash(
        {file.relative_to(path).as_posix(): file_md5(file) for file in path.rglob("*") if file.is_file()}
    )


def _read_run(plan: PlannedRun, metrics: dict[str, Any]) -> Run:
    if "val_loss" not in metrics:
        raise UserError("prepare.split.val: wanted held-out text to measure the runs on, given none")
    return Run(plan.name, plan.parameters, metrics["tokens_seen"], metrics["val_loss"], metrics["epochs"])


def _clear(plans: Collection[PlannedRun], call: Command) -> None:
    """Free the names: what is over in the queue, and experiments of HEAD that were made otherwise."""
    names = {plan.name for plan in plans}
    over = sorted(names & read_queue(call)[0].keys())
    if over:
        call("dvc", "queue", "remove", *over)
    head = call("git", "rev-parse", "HEAD").strip()
    refs = call("git", "for-each-ref", "--format=%(refname)", f"refs/exps/{head[:2]}/{head[2:]}").split()
    stale = sorted(ref for ref in refs if ref.rpartition("/")[2] in names)
    if stale:
        call("dvc", "exp", "remove", *stale)


def _withdraw(names: Collection[str], call: Command) -> None:
    """Take runs out of the queue, first those that wait: a worker whose run is ended takes the next one."""
    for state, word in (("Queued", "remove"), ("Running", "kill")):
        found = sorted(name for name, given in read_queue(call)[0].items() if name in names and given == state)
        if found:
            call("dvc", "queue", word, *found)


def commands_in(root: Path) -> Command:
    """What runs a command in a folder and gives its output; UserError with its last line where it fails.

    One thread each: two runs at a time are quicker so on two cores than one on both. OMP_NUM_THREADS overrules it.
    """
    environment = {"OMP_NUM_THREADS": "1"} | os.environ

    def call(*words: str) -> str:
        # Files and no pipes: the queue's workers inherit them, and a pipe would be waited for until they end.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            code = subprocess.run(words, cwd=root, env=environment, stdout=out, stderr=err, check=False).returncode
            said, complained = _read(out), _read(err)
        if code:
            lines = (complained.strip() or said.strip()).splitlines()
            raise UserError(f"{' '.join(words[:3])}: {lines[-1] if lines else f'ended with {code}'}")
        return said

    return call


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
