"""What `llm.core.stage` does around a stage's work, tried on small stages of their own project."""

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

import pytest

from llm.core.openmp import SPIN
from llm.core.outputs import file_hash

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


def main(demo: Annotated[Demo, Param("demo")], text: Input, result: Output, folder: Output, scratch: Scratch) -> None:
    {work}


if __name__ == "__main__":
    stage.run(main)
"""

WORK = """
    folder.mkdir()
    (folder / "inner.txt").write_text("inner")
    result.write_text(text.read_text() * demo.times)
"""


class Project:
    """A folder with one stage, its params and its input, over this repository's `llm`."""

    def __init__(self, folder: Path, work: str = WORK):
        self.folder = folder
        (folder / "stages").mkdir()
        (folder / "stages" / "__init__.py").write_text('"""Stages."""\n')
        (folder / "llm").mkdir()
        for path in (ROOT / "llm").iterdir():
            if path.name != "commands":
                (folder / "llm" / path.name).symlink_to(path)
        (folder / "llm" / "commands").mkdir()
        # The check of all params has its own tests; the sections of this project are none of its.
        self.write_check("")
        (folder / "params.yaml").write_text("demo:\n  times: 2\n")
        (folder / "text.txt").write_text("abc")
        self.write_stage(work)

    def write_stage(self, work: str) -> None:
        body = textwrap.indent(textwrap.dedent(work).strip(), "    ").strip()
        script = self.folder / "stages" / "demo.py"
        script.write_text(STAGE.replace("{work}", body))
        # A stage refuses code that was written while it started: this one was there before.
        earlier = time.time() - 10
        os.utime(script, (earlier, earlier))

    def write_check(self, problem: str) -> None:
        """Have the check of all params, which a stage runs under DVC, find a problem or none."""
        work = f"raise UserError({problem!r})" if problem else "pass"
        check = self.folder / "llm" / "commands" / "check.py"
        check.write_text(f"from llm.core.errors import UserError\n\n\ndef check_params(path):\n    {work}\n")

    def start(self, **environment: str) -> "subprocess.Popen[str]":
        options = ["--text", "text.txt", "--result", "out/result.txt", "--folder", "out/folder"]
        return subprocess.Popen(
            [sys.executable, "-m", "stages.demo", *options, "--runtime", "out/runtime.json"],
            cwd=self.folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **environment: str) -> tuple[int, str]:
        process = self.start(**environment)
        _, errors = process.communicate(timeout=60)
        return process.returncode, errors

    def outputs(self) -> set[str]:
        out = self.folder / "out"
        found = {path.relative_to(out) for path in out.rglob("*") if path.is_file()} if out.exists() else set()
        return {str(path) for path in found if ".scratch" not in path.parts}

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 30
        while not (self.folder / name).exists():
            assert time.monotonic() < deadline, f"the stage never wrote {name}"
            time.sleep(0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_outputs_are_in_place_and_the_scratch_is_gone(folder: Path) -> None:
    project = Project(folder)
    assert project.run() == (0, "")
    assert (folder / "out" / "result.txt").read_text() == "abcabc"
    assert project.outputs() == {"result.txt", "folder/inner.txt", "runtime.json"}
    assert set(json.loads((folder / "out" / "runtime.json").read_text())) >= {"seconds", "peak_memory_mb"}
    assert not list((folder / ".scratch" / "demo").iterdir())


def test_an_older_output_is_replaced_whole(folder: Path) -> None:
    project = Project(folder)
    (folder / "out" / "folder").mkdir(parents=True)
    (folder / "out" / "folder" / "old.txt").write_text("old")
    assert project.run()[0] == 0
    assert "folder/old.txt" not in project.outputs()


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("demo:\n  times: abc\n", "demo: params.yaml: demo.times: expected integer, got text 'abc'\n"),
        (
            "demo:\n  tims: 2\n",
            "demo: params.yaml: demo.times: required key is missing; demo.tims: unknown key\n",
        ),
        ("other: 1\n", "demo: params.yaml: demo: required key is missing\n"),
        ("demo: [\n", None),
    ],
)
def test_a_wrong_param_is_one_line_and_exit_code_2(folder: Path, params: str, expected: str | None) -> None:
    project = Project(folder)
    (folder / "params.yaml").write_text(params)
    code, errors = project.run()
    assert code == 2
    assert errors.count("\n") == 1
    assert expected in (None, errors)
    assert project.outputs() == set()


def test_a_missing_input_is_named(folder: Path) -> None:
    project = Project(folder)
    (folder / "text.txt").unlink()
    assert project.run() == (2, "demo: text.txt: expected a file or folder, it is missing\n")


def test_a_users_error_leaves_the_old_outputs_as_they_were(folder: Path) -> None:
    project = Project(folder)
    project.run()
    project.write_stage('result.write_text("half")\nraise UserError("text.txt: expected more")')
    (folder / "text.txt").write_text("abcd")
    assert project.run() == (2, "demo: text.txt: expected more\n")
    assert (folder / "out" / "result.txt").read_text() == "abcabc"


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ('Path("text.txt").write_text("changed")', "text.txt"),
        ('Path("stages/demo.py").write_text(Path("stages/demo.py").read_text() + "# edited")', "stages/demo.py"),
        ('Path("params.yaml").write_text("demo:\\n  times: 3\\n")', "params.yaml"),
    ],
)
def test_what_changes_while_the_stage_runs_drops_its_outputs(folder: Path, edit: str, named: str) -> None:
    project = Project(folder, WORK + f"\n    {edit}\n")
    code, errors = project.run()
    assert code == 2
    assert errors == f"demo: {named}: changed while the stage ran, so its outputs are discarded; run it again\n"
    assert project.outputs() == set()


def test_a_change_of_another_section_is_no_matter(folder: Path) -> None:
    project = Project(folder, WORK + '\n    Path("params.yaml").write_text("other: 1\\ndemo:\\n  times: 2\\n")\n')
    assert project.run() == (0, "")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells when a process began")
def test_code_that_is_newer_than_the_process_is_refused(folder: Path) -> None:
    project = Project(folder)
    later = time.time() + 60
    os.utime(folder / "stages" / "demo.py", (later, later))
    code, errors = project.run()
    assert (code, errors) == (2, "demo: stages/demo.py: edited while the stage started; run it again\n")


def test_under_dvc_a_problem_of_any_stage_ends_this_one_before_its_work(folder: Path) -> None:
    project = Project(folder)
    project.write_check("params.yaml: evaluate.stride: expected less")
    assert project.run(DVC_STAGE="demo") == (2, "demo: params.yaml: evaluate.stride: expected less\n")
    assert project.outputs() == set()
    assert project.run() == (0, "")


WAIT = """
    marker = scratch / "begun"
    result.write_text("resumed" if marker.exists() else "fresh")
    folder.mkdir()
    again = marker.exists()
    marker.touch()
    Path("ready").touch()
    while not (again or Path("go").exists()):
        time.sleep(0.05)
"""


def test_a_killed_stage_finds_its_scratch_again_and_writes_nothing_before(folder: Path) -> None:
    project = Project(folder, WAIT)
    process = project.start()
    project.wait_for("ready")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert project.outputs() == set()
    assert project.run() == (0, "")
    assert (folder / "out" / "result.txt").read_text() == "resumed"


def test_other_params_find_another_scratch(folder: Path) -> None:
    project = Project(folder, WAIT)
    process = project.start()
    project.wait_for("ready")
    process.kill()
    process.communicate()
    (folder / "params.yaml").write_text("demo:\n  times: 3\n")
    (folder / "go").touch()
    assert project.run() == (0, "")
    assert (folder / "out" / "result.txt").read_text() == "fresh"


def test_two_at_once_on_the_same_work_are_one_too_many(folder: Path) -> None:
    project = Project(folder, WAIT)
    first = project.start()
    project.wait_for("ready")
    code, errors = project.run()
    assert code == 2
    assert re.fullmatch(r"demo: \.scratch/demo/\w+: locked by another `demo` process\n", errors)
    (folder / "go").touch()
    assert first.wait(timeout=30) == 0
    first.communicate()


@pytest.mark.parametrize("through_a_shell", [True, False])
@pytest.mark.parametrize("under_dvc", [True, False])
def test_a_stage_ends_with_the_dvc_that_started_it_and_with_nothing_else(
    folder: Path, under_dvc: bool, through_a_shell: bool
) -> None:
    project = Project(
        folder, WAIT.replace('Path("ready").touch()', 'Path("ready").write_text(str(__import__("os").getpid()))')
    )
    words = [sys.executable, "-m", "stages.demo", "--text", "text.txt"]
    words += ["--result", "out/result.txt", "--folder", "out/folder"]
    # A second command keeps any shell from becoming the first one.
    command = ["/bin/sh", "-c", f"{shlex.join(words)}; true"] if through_a_shell else words
    starter = f"import subprocess, time; subprocess.Popen({command!r}); time.sleep(60)"
    environment = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
    parent = subprocess.Popen(
        [sys.executable, "-c", starter], cwd=folder, env=environment | ({"DVC_STAGE": "demo"} if under_dvc else {})
    )
    project.wait_for("ready")
    time.sleep(0.2)
    child = int((folder / "ready").read_text())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_alive(child) is not under_dvc
    (folder / "go").touch()
    while is_alive(child):
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # A process that has ended may wait as a zombie for whoever adopted it.
    status = Path(f"/proc/{process}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_folders_hash_sees_names_and_contents_and_not_bytecode(tmp_path: Path) -> None:
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
    memory = Path("/dev/shm")  # noqa: S108 (another disk; the test makes a folder of its own)
    if not memory.is_dir() or memory.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("there is no second file system to write to")
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


@pytest.mark.parametrize("link", ["out", "out/folder", ".scratch", "out/runtime.json"])
def test_outputs_and_scratch_may_lie_on_another_disk(folder: Path, other_disk: Path, link: str) -> None:
    project = Project(folder)
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).symlink_to(other_disk)
    if link == "out/runtime.json":
        (folder / link).unlink()
        (folder / link).symlink_to(other_disk / "theirs.json")  # DVC's cache, say: a file behind a link is not ours
    (other_disk / "old.txt").write_text("old")
    assert project.run() == (0, "")
    assert all((folder / "out" / name).is_file() for name in ("result.txt", "folder/inner.txt", "runtime.json"))
    assert (folder / link).is_symlink() is not link.endswith(".json")
    assert (other_disk / "old.txt").exists() is (link != "out/folder")  # an output is replaced whole
    assert not (other_disk / "theirs.json").exists()
    assert [path for path in other_disk.rglob(".scratch") if path.parent != other_disk] == []
    assert not (other_disk / ".scratch").exists()


def test_under_dvc_a_linked_folder_above_an_output_is_refused_before_the_work(folder: Path, other_disk: Path) -> None:
    (folder / "repository").mkdir()
    project = Project(folder / "repository")
    (project.folder / "out").symlink_to(other_disk)
    code, errors = project.run(DVC_STAGE="demo")
    assert code == 2
    assert errors.startswith(f"demo: out: expected a folder of the repository, got a link to {other_disk}, where DVC")
    assert errors.count("\n") == 1
    assert project.outputs() == set()


@pytest.mark.parametrize("old", ["a file", "a folder", "a link"])
def test_whatever_stood_where_an_output_belongs_is_replaced(folder: Path, old: str) -> None:
    project = Project(folder)
    for path in (folder / "out" / "result.txt", folder / "out" / "folder"):
        path.parent.mkdir(exist_ok=True)
        match old:
            case "a file":
                path.write_text("old")
            case "a folder":
                path.mkdir()
            case "a link":
                path.symlink_to(folder / "nowhere")
    assert project.run() == (0, "")
    assert project.outputs() == {"result.txt", "folder/inner.txt", "runtime.json"}


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        ('Path("/dev/full").write_text("x")', "demo: .*: no space left, No space left on device; free some"),
        ('Path("text.txt/inner").mkdir(parents=True)', "demo: text.txt/inner: expected folders above it, text.txt is"),
        ('(scratch / ("n" * 300)).touch()', "demo: .*: expected a shorter name, got: File name too long"),
        ('raise Exception("Error: Read-only file system (os error 30)")', "demo: expected a disk that can be written"),
        ("raise MemoryError", "demo: out of memory; "),
    ],
)
def test_an_error_of_the_system_is_one_line_and_leaves_nothing_behind(folder: Path, work: str, sentence: str) -> None:
    project = Project(folder, f'result.write_text("half")\nwith suppress(ZeroDivisionError):\n    {work}')
    code, errors = project.run()
    assert code == 2
    assert re.match(sentence, errors)
    assert errors.count("\n") == 1
    assert [path for path in (folder / "out").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("out", "demo: out/.scratch/.*: expected folders above it, out is a file\n"),
        (".scratch", "demo: .scratch/demo/.*: expected folders above it, .scratch is a file\n"),
    ],
)
def test_a_file_in_the_place_of_a_folder_is_named(folder: Path, file: str, sentence: str) -> None:
    project = Project(folder)
    (folder / file).write_text("x")
    code, errors = project.run()
    assert (code, bool(re.fullmatch(sentence, errors))) == (2, True), errors


def test_paths_that_the_command_line_omits_are_the_defaults(folder: Path) -> None:
    project = Project(folder)
    script = folder / "stages" / "demo.py"
    text = script.read_text().replace("text: Input", 'text: Input = Path("{demo.times}.txt")')
    text = text.replace("result: Output", 'result: Output = Path("out/result.txt")').replace(
        "scratch: Scratch)", "scratch: Scratch = Path())"
    )
    script.write_text(
        text.replace("folder: Output", 'folder: Output = Path("out/{name}")').replace(
            ", scratch:", ', name: str = "n", scratch:'
        )
    )
    os.utime(script, (time.time() - 10,) * 2)
    (folder / "text.txt").rename(folder / "2.txt")
    subprocess.run([sys.executable, "-m", "stages.demo", "--name", "other"], cwd=folder, check=True)
    assert project.outputs() == {"result.txt", "other/inner.txt"}
    assert (folder / "metrics/runtime/demo-other.json").is_file()


def test_openmp_is_set_before_torch_is_imported(tmp_path: Path) -> None:
    show = "import os, sys, stages; print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}

    def shown(**environment: str) -> str:
        command = [sys.executable, "-c", show]
        return subprocess.run(
            command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert shown() == f"False {SPIN['GOMP_SPINCOUNT']}"
    assert shown(OMP_WAIT_POLICY="ACTIVE") == "False None"
    assert shown(GOMP_SPINCOUNT="7") == "False 7"
