"""Check what a run needs of this machine: one line for each, and what to do where something is missing.

    ok    python     3.11.7 in .venv
    note  compiler   no cc: training takes 1.7 times as long. Debian: apt install gcc; macOS: xcode-select --install
    FAIL  git        expected a Git repository: run git init

A note is about a run that is slower or has other figures; with a FAIL a run cannot work.
"""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

from llm.core.errors import UserError

LOCK = Path("requirements.lock")
ENOUGH_DISK, LEAST_DISK = 2e9, 2e8  # bytes
ENOUGH_MEMORY, LEAST_MEMORY = 3e9, 1e9  # the default run has at most 2.5 GB
N_NAMED = 3  # packages


State = Literal["ok", "note", "FAIL"]


class Finding(NamedTuple):
    """The outcome of a check: how a run is affected, what was found, and what to do."""

    state: State
    text: str


def examine() -> list[tuple[str, Finding]]:
    """Return the findings by name, in the order of `CHECKS`."""
    return [(name, _attempt(check)) for name, check in CHECKS.items()]


def show(findings: list[tuple[str, Finding]]) -> str:
    """Return a line for each finding."""
    return "\n".join(f"{found.state:<5} {name:<10} {found.text}" for name, found in findings)


def _attempt(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except ImportError as error:  # torch or another package that is not installed
        return Finding("FAIL", f"expected the package {error.name}, it cannot be imported: run make setup")
    except UserError as error:
        return Finding("FAIL", str(error))


def check_python() -> Finding:
    """Check that the environment of the project is active."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.prefix == sys.base_prefix:
        return Finding("note", f"{found}, not of a virtual environment: make setup, then . .venv/bin/activate")
    return Finding("ok", f"{found} in {sys.prefix}")


def check_packages(lock: Path = LOCK) -> Finding:
    """Compare the installed packages with the lock file."""
    if not lock.is_file():
        return Finding("FAIL", f"expected {lock}, it is missing: run this in the folder of the project")
    pinned = dict(line.split("==") for line in lock.read_text(encoding="utf-8").split())
    installed = {name: _version(name) for name in pinned}
    if missing := [name for name, found in installed.items() if found is None]:
        return Finding("FAIL", f"missing: {_some(missing)}: run make setup")
    others = [f"{name} {found}, not {pinned[name]}" for name, found in installed.items() if found != pinned[name]]
    if others:
        return Finding("note", f"{_some(others)}: results may differ; make setup installs the versions of {lock}")
    return Finding("ok", f"{len(pinned)} as in {lock}")


def _version(name: str) -> str | None:
    try:
        return version(name).partition("+")[0]  # torch's 2.13.0+cpu is 2.13.0
    except PackageNotFoundError:
        return None


def _some(names: list[str]) -> str:
    return ", ".join(names[:N_NAMED]) + (f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else "")


def check_compiler() -> Finding:
    """Build the kernels, which needs a C compiler with OpenMP."""
    from llm.model import kernels

    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        is_built = kernels.library() is not None
    if is_built:
        return Finding("ok", "the kernels are built, with OpenMP")
    if os.environ.get("GROUNDUP_KERNELS") == "0":
        return Finding("note", "GROUNDUP_KERNELS=0 disables the kernels: training takes 1.7 times as long")
    install = "Debian: apt install gcc; macOS: xcode-select --install, brew install libomp"
    return Finding("note", f"{said.getvalue().strip().removeprefix('kernels: ')}. {install}")


def check_device() -> Finding:
    """Find the device and the precision of matrix products."""
    from llm.core.device import Machine, matmul_peak

    machine = Machine.find()
    speed = f"{matmul_peak(machine, 0.1) / 1e9:,.0f} GFLOP/s"
    if machine.device == "cpu" and machine.matmul_dtype == "float32":
        return Finding("ok", f"cpu, float32 ({speed}): the processor has no fast bfloat16 (avx512_bf16 or amx_bf16)")
    return Finding("ok", f"{machine.device}, {machine.matmul_dtype} ({speed})")


def check_threads() -> Finding:
    """Compare the threads that torch uses with the cores, and with what other processes use."""
    import torch

    n_threads, n_cores, load = torch.get_num_threads(), os.cpu_count() or 1, os.getloadavg()[0]
    if load > n_cores:
        return Finding("note", f"{n_threads} of {n_cores} cores; {load:.1f} processes run: training will be slower")
    if n_threads < n_cores // 2:
        return Finding("note", f"{n_threads} of {n_cores} cores: unset OMP_NUM_THREADS to use more")
    return Finding("ok", f"{n_threads} of {n_cores} cores")


def check_disk() -> Finding:
    """Check the free space of the disk that the project is on."""
    free = shutil.disk_usage(Path()).free
    text = f"{free / 1e9:.1f} GB free"
    if free < ENOUGH_DISK:
        state: State = "note" if free >= LEAST_DISK else "FAIL"
        return Finding(state, f"{text}: free some; make clean-scratch and dvc gc --workspace help")
    return Finding("ok", text)


def check_memory() -> Finding:
    """Check the memory that is free, on a GPU there."""
    from llm.core.device import Machine

    free = Machine.find().available_memory()
    text = f"{free / 1e9:.1f} GB free"
    if free < ENOUGH_MEMORY:
        advice = "close other programs, or try python -m llm preset tiny"
        return Finding("note" if free >= LEAST_MEMORY else "FAIL", f"{text}: {advice}")
    return Finding("ok", text)


def check_git() -> Finding:
    """Check that the folder is in a Git repository, which DVC needs."""
    if shutil.which("git") is None:
        return Finding("FAIL", "expected the program git, it is not installed")
    done = subprocess.run(["git", "rev-parse", "--git-dir"], capture_output=True, text=True, check=False)
    if done.returncode:
        return Finding("FAIL", "expected a Git repository, got a folder without .git: run git init")
    return Finding("ok", "in a Git repository")


def check_dvc() -> Finding:
    """Check that DVC can read the repository and write its cache."""
    from dvc.exceptions import DvcException  # type: ignore[import-untyped]
    from dvc.repo import Repo  # type: ignore[import-untyped]

    try:
        with Repo() as repo:
            cache = Path(repo.cache.local.path)
    except DvcException as error:
        return Finding("FAIL", f"{' '.join(str(error).split())}: run dvc init in the folder of the project")
    folder = next(path for path in (cache, *cache.parents) if path.exists())
    if not os.access(folder, os.W_OK):
        return Finding("FAIL", f"{folder}: expected permission to write the cache: dvc cache dir FOLDER names another")
    return Finding("ok", f"the cache is {os.path.relpath(cache)}")


def check_params() -> Finding:
    """Check params.yaml."""
    from llm.commands.check import check_params as check

    check(Path("params.yaml"))
    return Finding("ok", "params.yaml is valid")


CHECKS: dict[str, Callable[[], Finding]] = {
    "python": check_python,
    "packages": check_packages,
    "compiler": check_compiler,
    "device": check_device,
    "threads": check_threads,
    "disk": check_disk,
    "memory": check_memory,
    "git": check_git,
    "dvc": check_dvc,
    "params": check_params,
}
