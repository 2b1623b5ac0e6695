"""Train planned pretraining runs as DVC experiments, and find those that exist.

`dvc exp run --temp` trains in a copy of the repository. A run exists when an experiment of its name has, by its
dvc.lock, the params, windows and code of now: it is found again whatever was committed since. Only the stage pretrain
runs, on the windows that are there.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

from ruamel.yaml import YAML
from tqdm import tqdm

from llm.core import params
from llm.core.errors import UserError
from llm.core.outputs import file_md5, listing_hash
from llm.experiments.scaling_law import Run
from llm.report.trace import read_lock

# The cost of a run before and after its training, as training work: about 12 s at 85 GFLOP/s.
START_FLOPS = 1e12
LOOK = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"  # of the progress bar


@dataclass(frozen=True)
class PlannedRun:
    """A run to make: N and D, its training work, the keys it sets, and the sections of params.yaml with them."""

    name: str
    parameters: int
    tokens: int
    flops: float
    changes: dict[str, Any]
    sections: dict[str, Any]

    def command(self) -> list[str]:
        """Return the command that makes the run, in place of an experiment of its name."""
        words = ["dvc", "exp", "run", "--temp", "--force", "--single-item", "--name", self.name]
        for key, value in self.changes.items():
            words += ["--set-param", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
        return [*words, "pretrain"]


def make_runs(plans: Sequence[PlannedRun], jobs: int, root: Path) -> tuple[dict[str, Run], dict[str, str]]:
    """Make the runs that do not exist, `jobs` at a time; return every run that then exists, and why others do not.

    An interrupt ends the runs that are in work; finished ones are kept.
    """
    made = find_runs(plans, root)
    # The longest first, so that parallel jobs end at about the same time.
    missing = sorted((plan for plan in plans if plan.name not in made), key=lambda plan: -plan.flops)
    failed = _Trainer(root).train(missing, jobs) if missing else {}
    made |= find_runs(missing, root)
    no_result = "no result that fits the params, windows and code"
    return made, {plan.name: failed.get(plan.name) or no_result for plan in missing if plan.name not in made}


@dataclass
class _Trainer:
    root: Path
    copying: Lock = field(default_factory=Lock)  # DVC must not copy the repository for two runs at once
    processes: list["subprocess.Popen[str]"] = field(default_factory=list)
    stopped: bool = False

    def train(self, plans: Sequence[PlannedRun], jobs: int) -> dict[str, str]:
        """Make the runs; return why runs failed."""
        failed = {}
        pool = ThreadPoolExecutor(jobs)
        try:
            with tqdm(total=sum(plan.flops + START_FLOPS for plan in plans), desc="runs", bar_format=LOOK) as bar:
                futures = {pool.submit(self.run, plan): plan for plan in plans}
                for future in as_completed(futures):
                    failed[futures[future].name] = future.result()
                    bar.update(futures[future].flops + START_FLOPS)
        except KeyboardInterrupt:
            print("scaling: stopped; finished runs are kept", file=sys.stderr)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            with self.copying:  # DVC stashes uncommitted changes while it copies: it must end that first
                self.stopped = True
                for process in self.processes:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGTERM)
            pool.shutdown()
        return failed

    def run(self, plan: PlannedRun) -> str:
        """Make a run; return why it failed, or nothing. It has one thread, unless OMP_NUM_THREADS says otherwise."""
        log: list[str] = []
        with self.copying:
            if self.stopped:
                return ""
            process = subprocess.Popen(
                plan.command(),
                cwd=self.root,
                env={"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONUNBUFFERED": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self.processes.append(process)
            assert process.stdout
            for line in process.stdout:
                log.append(line)
                if line.startswith("Running stage"):
                    break
        with process:
            log += process.stdout
        # DVC's own lines after the last one of the stage only name the command.
        lines = ["its log is empty", *filter(None, map(str.strip, re.split(r"[\r\n]+", "".join(log))))]
        own = [line for line in lines if not line.startswith(("ERROR: failed to reproduce", "> "))]
        return own[-1] if process.returncode else ""


def find_runs(plans: Sequence[PlannedRun], root: Path) -> dict[str, Run]:
    """Return the planned runs that exist, by name; UserError for one without a validation loss."""
    stages = read_lock(root / "dvc.lock").values()
    recorded = {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}
    names = params.read(root / "dvc.yaml")["stages"]["pretrain"]["deps"]
    deps = {path: recorded.get(path) or _hash(root / path) for path in names}
    refs = _git(root, "for-each-ref", "--format=%(refname)", "refs/exps/*/*/scaling-*").split()
    found = {}
    for plan, ref in product(plans, refs):
        if plan.name == ref.rpartition("/")[2] and _is_made(plan, ref, deps, root):
            metrics = json.loads(_git(root, "show", f"{ref}:metrics/pretrain.json"))
            if "val_loss" not in metrics:
                raise UserError("prepare.split.val: expected held-out text to measure the runs on, got none")
            figures = metrics["tokens_seen"], metrics["val_loss"], metrics["epochs"]
            found[plan.name] = Run(plan.name, plan.parameters, *figures)
    return found


def _is_made(plan: PlannedRun, ref: str, deps: dict[str, str], root: Path) -> bool:
    """Return whether the dvc.lock of an experiment has the params of the plan, and these hashes of the stage's deps."""
    stages = YAML(typ="safe", pure=True).load(_git(root, "show", f"{ref}:dvc.lock"))["stages"]
    if "pretrain" not in stages:
        return False
    found = {dep["path"]: dep["md5"] for dep in stages["pretrain"]["deps"]}
    return bool(stages["pretrain"]["params"]["params.yaml"] == plan.sections and found == deps)


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"git {words[0]}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def _hash(path: Path) -> str:
    """Return DVC's hash of a file or a folder."""
    if not path.is_dir():
        return file_md5(path)
    files = [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]  # as .dvcignore
    return listing_hash({file.relative_to(path).as_posix(): file_md5(file) for file in files})
