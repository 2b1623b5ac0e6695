"""Make planned pretraining runs as experiments in DVC's queue, and find those that exist.

DVC's queue trains in copies of the repository as it was when a run was queued. A run exists when an experiment of its
name has, by its dvc.lock, the params, windows and code of now: it is found again whatever was committed since. Only
the stage pretrain runs, on the windows that are there.
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
from typing import Any

from ruamel.yaml import YAML
from tqdm import tqdm

from llm.core import params
from llm.core.errors import UserError
from llm.core.hashes import file_md5, listing_hash
from llm.experiments.scaling_law import Run
from llm.report.trace import read_lock

ACTIVE = ("Queued", "Running")
WAIT_SECONDS = 10.0  # between two looks at the queue; a look costs about a second of a core
PATIENCE = 6  # looks without a worker before the queue is given up
# The cost of a run before and after its training, as training work: about 12 s at 85 GFLOP/s.
START_FLOPS = 1e12

Command = Callable[..., str]


@dataclass(frozen=True)
class PlannedRun:
    """A run to make: N and D, its training work, the keys it sets, and the sections of params.yaml with them."""

    name: str
    parameters: int
    tokens: int
    flops: float
    changes: dict[str, Any]
    sections: dict[str, Any]

    def queue_command(self) -> list[str]:
        """Return the command that queues the run."""
        words = ["dvc", "exp", "run", "--queue", "--single-item", "--name", self.name]
        for key, value in self.changes.items():
            words += ["--set-param", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
        return [*words, "pretrain"]


def make_runs(
    plans: Sequence[PlannedRun], jobs: int, root: Path, call: Command, wait_seconds: float
) -> tuple[dict[str, Run], dict[str, str]]:
    """Make the runs that do not exist, `jobs` at a time; return every run that then exists, and why others do not.

    Runs that an earlier call left in the queue are waited for first. An interrupt removes its own runs from the queue.
    UserError for other experiments in the queue: they would be started too.
    """
    by_name = {plan.name: plan for plan in plans}
    active = {name for name, state in read_queue(call)[0].items() if state in ACTIVE}
    if others := sorted(active - by_name.keys()):
        raise UserError(f"dvc queue: expected only this ladder's runs, got {', '.join(others)}")
    failed: dict[str, str] = {}
    try:
        if active:
            print(f"scaling: {len(active)} runs are already in DVC's queue", file=sys.stderr)
            failed = _work_through([by_name[name] for name in active], jobs, call, wait_seconds)
        made = find_runs(plans, root, call)
        # The longest first, so that parallel jobs end at about the same time.
        if missing := sorted((plan for plan in plans if plan.name not in made), key=lambda plan: -plan.flops):
            _free_names(missing, call)
            for plan in tqdm(missing, desc="queue", unit=" runs"):
                call(*plan.queue_command())
            failed = _work_through(missing, jobs, call, wait_seconds)
            made = find_runs(plans, root, call)
    except KeyboardInterrupt:
        _withdraw(by_name, call)
        print("scaling: stopped; finished runs are kept", file=sys.stderr)
        raise
    no_result = "no result that fits the params, windows and code"
    return made, {name: failed.get(name, no_result) for name in by_name if name not in made}


def _work_through(plans: Collection[PlannedRun], jobs: int, call: Command, wait_seconds: float) -> dict[str, str]:
    call("dvc", "queue", "start", "--jobs", str(jobs))
    return wait_for(plans, call, wait_seconds)


def read_queue(call: Command) -> tuple[dict[str, str], int]:
    """Return the state (Queued, Running, Success, Failed) of each experiment in DVC's queue, and how many workers.

    Of two experiments of one name an active one counts.
    """
    states: dict[str, str] = {}
    n_workers = 0
    for line in call("dvc", "queue", "status").splitlines():
        if found := re.fullmatch(r"Worker status: (\d+) active, (\d+) idle", line.strip()):
            n_workers = int(found[1]) + int(found[2])
        elif found := re.fullmatch(r"[0-9a-f]{7}\s+(\S+)\s.*\s(\w+)", line.strip()):
            states[found[1]] = found[2] if states.get(found[1]) not in ACTIVE else states[found[1]]
    return states, n_workers


def wait_for(plans: Collection[PlannedRun], call: Command, wait_seconds: float) -> dict[str, str]:
    """Wait until no run is queued or running, with a progress bar; return why runs failed."""
    left = {plan.name: plan.flops + START_FLOPS for plan in plans}
    failed: dict[str, str] = {}
    n_lonely = 0
    look = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    with tqdm(total=sum(left.values()), bar_format=look) as bar:
        while True:
            states, n_workers = read_queue(call)
            for name in [name for name in left if states.get(name) not in ACTIVE]:
                bar.update(left.pop(name))
                if states.get(name) == "Failed":
                    failed[name] = _last_line(call("dvc", "queue", "logs", name))
            bar.set_description(f"{len(plans) - len(left)} of {len(plans)} runs")
            n_lonely = 0 if n_workers else n_lonely + 1
            if not left:
                return failed
            if n_lonely == PATIENCE:
                _withdraw(left, call)
                return failed | dict.fromkeys(left, "DVC's queue has no workers; start it again")
            time.sleep(wait_seconds)


def _last_line(log: str) -> str:
    """Return the last line of a failed run's log before DVC's own lines, which only name the command."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", log) if line.strip()]
    own = [line for line in lines if not line.startswith(("ERROR: failed to reproduce", "> "))]
    return own[-1] if own else "its log is empty"


def find_runs(plans: Sequence[PlannedRun], root: Path, call: Command) -> dict[str, Run]:
    """Return the planned runs that exist, by name."""
    stages = read_lock(root / "dvc.lock").values()
    recorded = {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}
    names = params.read(root / "dvc.yaml")["stages"]["pretrain"]["deps"]
    deps = {path: recorded.get(path) or _hash(root / path) for path in names}
    refs = call("git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/scaling-*").split()
    made = {}
    for plan in plans:
        for ref in (ref for ref in refs if ref.rpartition("/")[2] == plan.name):
            lock = YAML(typ="safe", pure=True).load(call("git", "show", f"{ref}:dvc.lock"))
            stage = lock["stages"].get("pretrain", {"deps": [], "params": {"params.yaml": None}})
            found = {dep["path"]: dep["md5"] for dep in stage["deps"]}
            if (stage["params"]["params.yaml"], found) == (plan.sections, deps):
                made[plan.name] = _read_run(plan, json.loads(call("git", "show", f"{ref}:metrics/pretrain.json")))
    return made


def _hash(path: Path) -> str:
    """Return DVC's hash of a file or a folder."""
    if not path.is_dir():
        return file_md5(path)
    files = [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]  # as .dvcignore
    return listing_hash({file.relative_to(path).as_posix(): file_md5(file) for file in files})


def _read_run(plan: PlannedRun, metrics: dict[str, Any]) -> Run:
    if "val_loss" not in metrics:
        raise UserError("prepare.split.val: expected held-out text to measure the runs on, got none")
    return Run(plan.name, plan.parameters, metrics["tokens_seen"], metrics["val_loss"], metrics["epochs"])


def _free_names(plans: Collection[PlannedRun], call: Command) -> None:
    """Remove finished runs of these names from the queue, and experiments of HEAD that were made otherwise."""
    names = {plan.name for plan in plans}
    if finished := sorted(names & read_queue(call)[0].keys()):
        call("dvc", "queue", "remove", *finished)
    head = call("git", "rev-parse", "HEAD").strip()
    refs = call("git", "for-each-ref", "--format=%(refname)", f"refs/exps/{head[:2]}/{head[2:]}").split()
    if stale := sorted(ref for ref in refs if ref.rpartition("/")[2] in names):
        call("dvc", "exp", "remove", *stale)


def _withdraw(names: Collection[str], call: Command) -> None:
    """Remove runs from the queue, waiting ones first: a worker whose run is killed takes the next one."""
    for state, word in (("Queued", "remove"), ("Running", "kill")):
        if found := sorted(name for name, of_name in read_queue(call)[0].items() if name in names and of_name == state):
            call("dvc", "queue", word, *found)


def commands_in(root: Path) -> Command:
    """Return a function that runs a command in a folder and returns its output; UserError has a failure's last line.

    Each has one thread: two runs at a time are faster so on two cores. OMP_NUM_THREADS overrides it.
    """
    environment = {"OMP_NUM_THREADS": "1"} | os.environ

    def call(*words: str) -> str:
        # A file, not a pipe: the queue's workers inherit it, and a pipe would be read until they end.
        with (
            tempfile.TemporaryFile("w+", errors="replace") as out,
            tempfile.TemporaryFile("w+", errors="replace") as err,
        ):
            code = subprocess.run(words, cwd=root, env=environment, stdout=out, stderr=err, check=False).returncode
            for file in (out, err):
                file.seek(0)
            printed, errors = out.read(), err.read()
        if code:
            lines = (errors.strip() or printed.strip()).splitlines()
            raise UserError(f"{' '.join(words[:3])}: {lines[-1] if lines else f'ended with {code}'}")
        return printed

    return call
