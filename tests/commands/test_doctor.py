"""The doctor has a line for each thing that a run needs; what is missing is named with what to do."""

import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm import __main__ as command_line
from llm.commands import doctor
from llm.commands.doctor import CHECKS, Finding, check_packages, examine, show
from llm.core.device import Machine
from llm.core.errors import UserError
from llm.model import kernels

ROOT = Path(__file__).resolve().parents[2]


def test_this_machine_can_run_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = dict(examine())
    assert list(found) == list(CHECKS)
    needed = {"python", "packages", "compiler", "device", "threads", "params"}
    assert {name for name in needed if found[name].state == "FAIL"} == set()
    lines = show(list(found.items())).splitlines()
    assert [line.split()[1] for line in lines] == list(CHECKS)


def test_outside_of_the_project_a_run_cannot_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = dict(examine())
    assert {name for name, of in found.items() if of.state == "FAIL"} == {"packages", "git", "dvc", "params"}
    assert "git init" in found["git"].text and "dvc init" in found["dvc"].text
    result = CliRunner().invoke(command_line.app, ["doctor"])
    assert (result.exit_code, result.output.count("FAIL")) == (2, 4)


def test_a_new_repository_has_git_and_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_in_repository) -> None:
    monkeypatch.chdir(tmp_path)
    run_in_repository(tmp_path, "git init --quiet", "dvc init --quiet")
    assert (CHECKS["git"]().state, CHECKS["dvc"]()) == ("ok", Finding("ok", "the cache is .dvc/cache/files/md5"))
    for name in CHECKS:
        monkeypatch.setitem(CHECKS, name, lambda: Finding("note", "slower"))
    assert CliRunner().invoke(command_line.app, ["doctor"]).exit_code == 0


@pytest.mark.parametrize(
    ("lock", "state", "text"),
    [
        ("pytest==PYTEST\n", "ok", "1 as in"),
        ("pytest==0.1\n", "note", f"pytest {pytest.__version__}, not 0.1: results may differ"),
        ("no-such-package==1.0\npytest==0.1\n", "FAIL", "missing: no-such-package: run make setup"),
        ("".join(f"no-such-{n}==1\n" for n in range(5)), "FAIL", "no-such-0, no-such-1, no-such-2 and 2 more: run"),
    ],
)
def test_packages_are_compared_with_the_lock(tmp_path: Path, lock: str, state: str, text: str) -> None:
    (tmp_path / "lock").write_text(lock.replace("PYTEST", pytest.__version__))
    found = check_packages(tmp_path / "lock")
    assert found.state == state
    assert text in found.text


def test_kernels_that_cannot_be_built_say_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROUNDUP_KERNELS", raising=False)
    monkeypatch.setattr(kernels, "library", lambda: print("kernels: expected a C compiler, got no cc", file=sys.stderr))
    found = CHECKS["compiler"]()
    assert found.state == "note"
    assert found.text.startswith("expected a C compiler, got no cc. Debian: apt install gcc")


@pytest.mark.parametrize(("free", "state"), [(10e9, "ok"), (1.5e9, "note"), (1e8, "FAIL")])
def test_disk_and_memory_have_a_least_size(monkeypatch: pytest.MonkeyPatch, free: float, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(free))
    monkeypatch.setattr(Machine, "available_memory", lambda self: int(free))
    assert (CHECKS["disk"]().state, CHECKS["memory"]().state) == (state, state)


@pytest.mark.parametrize(("load", "threads", "state"), [(0.1, 4, "ok"), (0.1, 1, "note"), (9.0, 4, "note")])
def test_a_busy_machine_is_noted(monkeypatch: pytest.MonkeyPatch, load: float, threads: int, state: str) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0, 0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert CHECKS["threads"]().state == state


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ModuleNotFoundError("no", name="torch"), "expected the package torch, it cannot be imported: run make setup"),
        (UserError("environment: expected GROUNDUP_DEVICE cpu"), "environment: expected GROUNDUP_DEVICE cpu"),
    ],
)
def test_a_check_that_raises_is_a_line(monkeypatch: pytest.MonkeyPatch, error: Exception, text: str) -> None:
    def raise_error() -> Finding:
        raise error

    monkeypatch.setattr(doctor, "CHECKS", {"device": raise_error})
    assert examine() == [("device", Finding("FAIL", text))]
