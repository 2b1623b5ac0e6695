"""Run small stages in projects of their own: outputs, refusals, kills, locks."""

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from llm.core.outputs import file_hash
from llm.core.threads import SPIN

ROOT = Path(__file__).resolve().parents[2]

STAGE = """
import sys, time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from llm.core import stage
from llm.core.errors import UserError
from llm.core.params import Section
from llm.core.stage import Input, Output, Param, Scratch


class Demo(Section):
    times: int


def main(demo: Annotated[Demo, Param("demo")], {signature}) -> None:
    {work}


if __name__ == "__main__":
    stage.run(main)
"""

WORK = """
    folder.mkdir()
    (folder / "inner.txt").write_text("inner")
    result.write_text(text.read_text() * demo.times)
"""


SIGNATURE = "text: Input, result: Output, folder: Output, scratch: Scratch"
OPTIONS = ["--text", "text.txt", "--result", "out/result.txt", "--folder", "out/folder"]


class Project:
    """A folder with one stage, its params and its input, and links to this repository's `llm`."""

    def __init__(self, folder: Path):
        self.folder, self.times = folder, itertools.count(time.time() - 1000)
        for name in ("stages", "llm/commands"):
            (folder / name).mkdir(parents=True)
        (folder / "stages" / "__init__.py").touch()
        for path in (ROOT / "llm").iterdir():
            if path.name != "commands":
                (folder / "llm" / path.name).symlink_to(path)
        self.write_check("")
        self.write("params.yaml", "demo:\n  times: 2\n")
        self.write("text.txt", "abc")
        self.write_stage(WORK)

    def write(self, name: str, content: str) -> None:
        (self.folder / name).write_text(content)

    def write_stage(self, work: str, signature: str = SIGNATURE) -> None:
        body = textwrap.indent(textwrap.dedent(work).strip(), "    ").strip()
        self.write("stages/demo.py", STAGE.replace("{work}", body).replace("{signature}", signature))
        # A stage refuses code edited while it starts; bytecode is used again where size and second are the same.
        os.utime(self.folder / "stages" / "demo.py", (next(self.times),) * 2)

    def write_check(self, problem: str) -> None:
        """Replace the check of all params, which a stage runs under DVC, by one that finds this problem."""
        work = f"raise UserError({problem!r})" if problem else "pass"
        check = f"from llm.core.errors import UserError\n\n\ndef check_params(path):\n    {work}\n"
        self.write("llm/commands/check.py", check)

    def start(self, **environment: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "stages.demo", *OPTIONS, "--runtime", "out/runtime.json"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.folder, env=os.environ | environment, text=True, **pipes)

    def run(self, **environment: str) -> tuple[int, str]:
        process = self.start(**environment)
        _, errors = process.communicate(timeout=60)
        return process.returncode, errors

    def outputs(self) -> set[str]:
        files = [path.relative_to(self.folder / "out") for path in self.folder.glob("out/**/*") if path.is_file()]
        return {str(path) for path in files if ".scratch" not in path.parts}

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 30
        while not (self.folder / name).exists():
            assert time.monotonic() < deadline, f"the stage never wrote {name}"
            time.sleep(0.02)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.parametrize("old", [None, "a file", "a folder", "a link"])
def test_outputs_replace_what_was_there(project: Project, old: str | None) -> None:
    for path in (project.folder / "out" / "result.txt", project.folder / "out" / "folder"):
        path.parent.mkdir(exist_ok=True)
        match old:
            case "a file":
                path.write_text("old")
            case "a folder":
                path.mkdir()
                (path / "old.txt").write_text("old")
            case "a link":
                path.symlink_to(project.folder / "nowhere")
    assert project.run() == (0, "")
    assert (project.folder / "out" / "result.txt").read_text() == "abcabc"
    assert project.outputs() == {"result.txt", "folder/inner.txt", "runtime.json"}
    assert set(json.loads((project.folder / "out" / "runtime.json").read_text())) >= {"seconds", "peak_memory_mb"}
    assert not list((project.folder / ".scratch" / "demo").iterdir())


def test_omitted_paths_are_the_defaults(project: Project) -> None:
    signature = 'scratch: Scratch, text: Input = Path("{demo.times}.txt"), result: Output = Path("out/result.txt"), '
    project.write_stage(WORK, signature + 'folder: Output = Path("out/{name}"), name: str = "n"')
    (project.folder / "text.txt").rename(project.folder / "2.txt")
    subprocess.run([sys.executable, "-m", "stages.demo", "--name", "other"], cwd=project.folder, check=True)
    assert project.outputs() == {"result.txt", "other/inner.txt"}
    assert (project.folder / "metrics/runtime/demo-other.json").is_file()


INVALID = [
    ("params.yaml", "demo:\n  tims: 2\n", "params.yaml: demo.times: required key is missing; demo.tims: unknown key"),
    ("params.yaml", "other: 1\n", "params.yaml: demo: required key is missing"),
    ("text.txt", None, "text.txt: expected a file or folder, it is missing"),
    ("out", "x", "out/.scratch/.*: expected folders above it, out is a file"),
    (".scratch", "x", ".scratch/demo/.*: expected folders above it, .scratch is a file"),
]


@pytest.mark.parametrize(("file", "content", "message"), INVALID)
def test_invalid_input_is_one_line(project: Project, file: str, content: str | None, message: str) -> None:
    (project.folder / file).unlink(missing_ok=True)
    if content is not None:
        project.write(file, content)
    code, errors = project.run()
    assert code == 2 and re.fullmatch(f"demo: {message}\n", errors)
    assert project.outputs() == set()


FAILING = [
    ('raise UserError("text.txt: expected more")', "demo: text.txt: expected more\n"),
    ('Path("/dev/full").write_text("x")', "demo: .*: no space left, No space left on device; free some"),
    ("raise MemoryError", "demo: out of memory; "),
]


@pytest.mark.parametrize(("work", "message"), FAILING)
def test_an_error_keeps_the_old_outputs(project: Project, work: str, message: str) -> None:
    project.run()
    project.write_stage(f'result.write_text("half")\nwith suppress(ZeroDivisionError):\n    {work}')
    code, errors = project.run()
    assert code == 2 and re.match(message, errors) and errors.count("\n") == 1
    assert (project.folder / "out" / "result.txt").read_text() == "abcabc"
    assert project.outputs() == {"result.txt", "folder/inner.txt", "runtime.json"}


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ('Path("text.txt").write_text("changed")', "text.txt"),
        ('Path("stages/demo.py").write_text(Path("stages/demo.py").read_text() + "# edited")', "stages/demo.py"),
        ('Path("params.yaml").write_text("demo:\\n  times: 3\\n")', "params.yaml"),
        ('Path("params.yaml").write_text("other: 1\\ndemo:\\n  times: 2\\n")', None),
    ],
)
def test_an_edit_during_the_run_discards_the_outputs(project: Project, edit: str, named: str | None) -> None:
    project.write_stage(WORK + f"\n    {edit}\n")
    message = "changed while the stage ran, so its outputs are discarded; run it again"
    assert project.run() == ((2, f"demo: {named}: {message}\n") if named else (0, ""))
    assert (project.outputs() == set()) is (named is not None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux reports the start of a process")
def test_code_that_is_newer_than_the_process_is_refused(project: Project) -> None:
    later = time.time() + 60
    os.utime(project.folder / "stages" / "demo.py", (later, later))
    assert project.run() == (2, "demo: stages/demo.py: edited while the stage started; run it again\n")


def test_under_dvc_a_problem_of_any_stage_ends_this_one(project: Project) -> None:
    project.write_check("params.yaml: evaluate.stride: expected less")
    assert project.run(DVC_STAGE="demo") == (2, "demo: params.yaml: evaluate.stride: expected less\n")
    assert project.outputs() == set()
    assert project.run() == (0, "")


WAIT = """
    marker = scratch / "begun"
    again = marker.exists()
    result.write_text("resumed" if again else "fresh")
    folder.mkdir()
    marker.touch()
    Path("ready").write_text(str(__import__("os").getpid()))
    while not (again or Path("go").exists()):
        time.sleep(0.05)
"""


@pytest.mark.parametrize(("times", "expected"), [(2, "resumed"), (3, "fresh")])
def test_a_killed_stage_resumes_for_equal_params(project: Project, times: int, expected: str) -> None:
    project.write_stage(WAIT)
    process = project.start()
    project.wait_for("ready")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert project.outputs() == set()
    project.write("params.yaml", f"demo:\n  times: {times}\n")
    project.write("go", "")
    assert project.run() == (0, "")
    assert (project.folder / "out" / "result.txt").read_text() == expected


def test_a_second_process_on_the_same_inputs_is_refused(project: Project) -> None:
    project.write_stage(WAIT)
    first = project.start()
    project.wait_for("ready")
    code, errors = project.run()
    assert code == 2 and re.fullmatch(r"demo: \.scratch/demo/\w+: locked by another `demo` process\n", errors)
    (project.folder / "go").touch()
    first.communicate(timeout=30)
    assert first.returncode == 0


@pytest.mark.parametrize(("under_dvc", "through_a_shell"), [(True, True), (True, False), (False, False)])
def test_a_stage_ends_with_dvc(project: Project, under_dvc: bool, through_a_shell: bool) -> None:
    project.write_stage(WAIT)
    words = [sys.executable, "-m", "stages.demo", *OPTIONS]
    # A second command keeps any shell from replacing itself by the first one.
    command = ["/bin/sh", "-c", f"{shlex.join(words)}; true"] if through_a_shell else words
    starter = f"import subprocess, time; subprocess.Popen({command!r}); time.sleep(60)"
    environment = os.environ | ({"DVC_STAGE": "demo"} if under_dvc else {})
    parent = subprocess.Popen([sys.executable, "-c", starter], cwd=project.folder, env=environment)
    project.wait_for("ready")
    time.sleep(0.2)
    child = int((project.folder / "ready").read_text())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + (5 if under_dvc else 1)
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_alive(child) is not under_dvc
    (project.folder / "go").touch()
    while is_alive(child):
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_hash_of_a_folder_ignores_bytecode(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = file_hash(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("2")
    assert file_hash(tmp_path) == first
    (tmp_path / "a").rename(tmp_path / "b")
    assert file_hash(tmp_path) != first


@pytest.fixture
def other_disk() -> Iterator[Path]:
    """A folder on another file system than the temporary folders of tests."""
    memory = Path("/dev/shm")  # noqa: S108 (another disk; the test creates a folder of its own)
    if not memory.is_dir() or memory.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("there is no second file system to write to")
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


@pytest.mark.parametrize("link", ["out", "out/folder", ".scratch", "out/runtime.json"])
def test_outputs_and_scratch_may_be_on_another_disk(project: Project, other_disk: Path, link: str) -> None:
    (project.folder / link).parent.mkdir(exist_ok=True)
    is_file = link.endswith(".json")  # a link into DVC's cache: the cached file must stay as it is
    (project.folder / link).symlink_to(other_disk / "cached.json" if is_file else other_disk)
    (other_disk / "old.txt").write_text("old")
    assert project.run() == (0, "")
    assert all((project.folder / "out" / name).is_file() for name in ("result.txt", "folder/inner.txt", "runtime.json"))
    assert (project.folder / link).is_symlink() is not is_file
    assert (other_disk / "old.txt").exists() is (link != "out/folder")  # an output is replaced whole
    assert not (other_disk / "cached.json").exists()
    assert not (other_disk / ".scratch").exists()


def test_under_dvc_a_linked_folder_above_an_output_is_refused(tmp_path: Path, other_disk: Path) -> None:
    (tmp_path / "repository").mkdir()
    project = Project(tmp_path / "repository")
    (project.folder / "out").symlink_to(other_disk)
    code, errors = project.run(DVC_STAGE="demo")
    assert code == 2
    assert errors.startswith(f"demo: out: expected a folder of the repository, got a link to {other_disk}, where DVC")
    assert errors.count("\n") == 1
    assert project.outputs() == set()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, SPIN["GOMP_SPINCOUNT"]), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"), ({"GOMP_SPINCOUNT": "7"}, "7")],
)
def test_openmp_is_set_before_torch_is_imported(environment: dict[str, str], expected: str) -> None:
    show = "import os, sys, stages; print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    shown = subprocess.check_output([sys.executable, "-c", show], cwd=ROOT, env=kept | environment, text=True)
    assert shown == f"False {expected}\n"
