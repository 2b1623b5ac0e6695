"""Tracing a model back, in a small repository that real DVC has run: every changed byte is named, nothing else is."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm import __main__ as command_line
from llm.core.errors import UserError
from llm.report.trace import differences, render, trace_back

LIBRARY = "ab" * 32

SCRIPT = """
import json, platform, shutil, sys
from pathlib import Path

def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")

stage, *paths = sys.argv[1:]
if stage == "prepare":
    raw = sorted(path for path in Path("data/raw").rglob("*") if path.is_file())
    for split in ("train", "val", "deep/tést"):
        write(f"data/corpus/{split}.txt", split + "".join(path.read_text() for path in raw))
    write("data/corpus.txt", "beside the folder")
    python = {"version": platform.python_version(), "library_sha256": "LIBRARY"}
    write("metrics/prepare.json", json.dumps({"python": python}))
elif stage == "train":
    write("models/pretrained/weights.bin", Path("data/corpus/train.txt").read_text() + "weights")
    write("models/pretrained/config.json", "{}")
    write("metrics/train.json", json.dumps({"loss": 1.5}))
elif stage == "export":
    write("models/export/weights.bin", Path("models/pretrained/weights.bin").read_text() + "exported")
    write("models/export/config.json", "{}")
elif stage == "card":
    write("models/export/README.md", Path("metrics/train.json").read_text())
else:
    write(paths[0] + "/weights.bin", "tuned" + Path("models/export/weights.bin").read_text())
""".replace("LIBRARY", LIBRARY)

WIRING = """
stages:
  prepare:
    cmd: python work.py prepare
    deps: [work.py, data/raw]
    params: [prepare]
    outs: [data/corpus, data/corpus.txt]
    metrics: [{metrics/prepare.json: {cache: false}}]
  train:
    cmd: python work.py train
    deps: [work.py, extra.py, data/corpus]
    params: [train, seed]
    outs: [models/pretrained]
    metrics: [{metrics/train.json: {cache: false}}]
  export:
    cmd: python work.py export
    deps: [work.py, models/pretrained]
    outs: [models/export/weights.bin, models/export/config.json]
  tune:
    foreach: ${tune}
    do:
      cmd: python work.py tune models/tuned/${key}
      deps: [work.py, models/export/weights.bin]
      params: ["tune.${key}"]
      outs: ["models/tuned/${key}"]
  card:
    cmd: python work.py card
    deps: [work.py, models/export/weights.bin, metrics/train.json, models/tuned]
    outs: [models/export/README.md]
"""

PARAMS = """
seed: 1
prepare: {sources: [{name: mine, globs: ["*"]}], rules: {near: null, min_chars: 3}}
train: {steps: 40, rate: 1e-3}
tune: {short: {epochs: 1}, long: {epochs: 9}}
"""


def run(folder: Path, *words: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_", "PYTHON"))}
    author = {f"GIT_{role}_{key}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(words, cwd=folder, env=kept | author | path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository after one `dvc repro` and a commit. Only to be copied."""
    folder = tmp_path_factory.mktemp("made") / "repository"
    files = {
        "work.py": SCRIPT,
        "extra.py": "# nothing\n",
        "dvc.yaml": WIRING,
        "params.yaml": PARAMS,
        ".dvcignore": "__pycache__\n",
        "data/raw/a/one.txt": "one",
        "data/raw/a.txt": "two",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    run(folder, "git", "init", "--quiet", "--initial-branch", "main")
    run(folder, "dvc", "init", "--quiet")
    run(folder, "dvc", "repro")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "run")
    return folder


@pytest.fixture
def repository(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("llm.corpus.sources.library_hash", lambda: LIBRARY)
    return Path(shutil.copytree(made, tmp_path / "repository", symlinks=True))


def change_byte(path: Path) -> None:
    """Flip one bit and keep the size and the time, by which DVC itself would know of a change."""
    before = path.stat()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cached(repository: Path, md5: str) -> Path:
    return repository / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def recorded(repository: Path, name: str) -> str:
    lines = (line for step in trace_back(Path("models/export"), repository) for line in step.lines)
    return next(line.recorded for line in lines if line.name == name)


def names(repository: Path, target: str = "models/export") -> list[str]:
    return differences(trace_back(Path(target), repository))


def stages(repository: Path, target: str) -> list[str]:
    return [step.stage for step in trace_back(Path(target), repository)]


def test_a_model_is_traced_to_the_raw_text_and_all_of_it_is_as_recorded(repository):
    steps = trace_back(Path("models/export"), repository)
    assert [step.stage for step in steps] == ["export", "card", "train", "prepare"]
    assert differences(steps) == []
    lines = {(line.kind, line.name) for line in steps[-1].lines}
    assert lines == {
        ("made", "data/corpus"),
        ("made", "data/corpus.txt"),
        ("made", "metrics/prepare.json"),
        *(("made", f"data/corpus/{name}.txt") for name in ("train", "val", "deep/tést")),
        ("read", f"the standard library of Python {platform.python_version()}"),
        ("read", "data/raw"),
        ("read", "data/raw/a.txt"),
        ("read", "data/raw/a/one.txt"),
        ("code", "work.py"),
        ("params", "prepare.sources"),
        ("params", "prepare.rules.near"),
        ("params", "prepare.rules.min_chars"),
    }
    assert "all as recorded" in render(steps)


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("models/export/weights.bin", ["models/export/weights.bin"]),
        ("models/export/README.md", ["models/export/README.md"]),
        ("models/pretrained/config.json", ["models/pretrained", "models/pretrained/config.json"]),
        ("data/corpus/train.txt", ["data/corpus", "data/corpus/train.txt"]),
        ("data/corpus/deep/tést.txt", ["data/corpus", "data/corpus/deep/tést.txt"]),
        ("data/raw/a.txt", ["data/raw", "data/raw/a.txt"]),
        ("data/raw/a/one.txt", ["data/raw", "data/raw/a/one.txt"]),
        ("extra.py", ["extra.py"]),
        ("work.py", ["work.py"]),
        ("metrics/train.json", ["metrics/train.json"]),
        ("metrics/prepare.json", ["metrics/prepare.json"]),
        ("data/corpus.txt", ["data/corpus.txt"]),  # of the same stage, though no model was made of it
    ],
)
def test_one_changed_byte_is_named_and_nothing_else(repository, file, named):
    change_byte(repository / file)
    assert names(repository) == named


def test_a_byte_of_the_cache_is_named_too(repository):
    copy = cached(repository, recorded(repository, "data/corpus/val.txt"))
    change_byte(copy)
    steps = trace_back(Path("models/export"), repository)
    assert differences(steps) == ["data/corpus/val.txt"]
    assert copy.relative_to(repository).as_posix() in render(steps)


def test_a_changed_listing_in_the_cache_is_named(repository):
    change_byte(cached(repository, recorded(repository, "data/corpus")))
    assert names(repository) == ["data/corpus"]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("rate: 1e-3", "rate: 2e-3", ["train.rate"]),
        ("rate: 1e-3", "rate: 1e-3, clip: 1.0", ["train.clip"]),
        (", rate: 1e-3", "", ["train.rate"]),
        ("seed: 1\n", "", ["seed"]),
        ("near: null", "near: off", ["prepare.rules.near"]),
        ("rate: 1e-3", "rate: 0.001", []),
        ("epochs: 9", "epochs: 8", []),  # of a later stage
    ],
)
def test_a_changed_param_is_named(repository, old, new, named):
    path = repository / "params.yaml"
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    assert names(repository) == named


def test_what_is_gone_and_what_came_since_is_named(repository):
    (repository / "data/corpus/val.txt").unlink()
    (repository / "data/corpus/new.txt").write_text("new")
    (repository / "models/export/other.bin").write_text("made by hand")
    (repository / "models/export/config.json").unlink()
    assert set(names(repository)) == {
        "data/corpus",
        "data/corpus/val.txt",
        "data/corpus/new.txt",
        "models/export/other.bin",
        "models/export/config.json",
    }


def test_a_folder_that_is_gone_is_named(repository):
    shutil.rmtree(repository / "data/corpus")
    assert names(repository) == ["data/corpus"]
    assert "missing" in render(trace_back(Path("models/export"), repository))


def test_what_dvc_ignores_is_no_difference(repository):
    (repository / "data/corpus/__pycache__").mkdir()
    (repository / "data/corpus/__pycache__/x.pyc").write_text("x")
    assert names(repository) == []


def test_raw_text_that_git_had_when_the_lock_was_written_is_known_by_its_files(repository):
    change_byte(repository / "data/raw/a.txt")
    run(repository, "git", "commit", "--quiet", "--all", "--message", "another text")
    assert names(repository) == ["data/raw", "data/raw/a.txt"]


def test_where_nothing_tells_what_a_folder_held_the_folder_is_named_and_that_is_said(repository):
    shutil.rmtree(repository / ".git")
    run(repository, "git", "init", "--quiet")
    change_byte(repository / "data/raw/a.txt")
    steps = trace_back(Path("models/export"), repository)
    assert differences(steps) == ["data/raw"]
    assert "neither in DVC's cache nor in Git" in render(steps)


def test_an_input_made_anew_since_shows_where_it_was_read(repository):
    (repository / "data/raw/a.txt").write_text("three")
    run(repository, "dvc", "repro", "prepare")
    steps = {step.stage: step for step in trace_back(Path("models/export"), repository)}
    assert differences([steps["prepare"]]) == []
    assert differences([steps["train"]]) == [
        "data/corpus",
        *(f"data/corpus/{x}.txt" for x in ("deep/tést", "train", "val")),
    ]


def test_another_standard_library_is_named(repository, monkeypatch):
    monkeypatch.setattr("llm.corpus.sources.library_hash", lambda: "cd" * 32)
    assert names(repository) == [f"the standard library of Python {platform.python_version()}"]
    monkeypatch.setattr("platform.python_version", lambda: "3.99.1")
    assert "now Python 3.99.1" in render(trace_back(Path("models/export"), repository))


def test_the_stage_that_describes_a_model_is_not_where_it_came_from(repository):
    # The card reads the tuned models too, and train's figures; they are checked, and not walked back from.
    assert "tune@short" not in stages(repository, "models/export")
    assert stages(repository, "models/export/weights.bin") == ["export", "train", "prepare"]
    assert set(stages(repository, "models/export/README.md")) >= {"card", "tune@short", "tune@long"}
    change_byte(repository / "models/tuned/long/weights.bin")
    assert names(repository) == ["models/tuned", "models/tuned/long/weights.bin"]
    assert names(repository, "models/export/weights.bin") == []


@pytest.mark.parametrize(
    "target", ["models/tuned/short", "models/tuned/short/weights.bin", "./models/tuned/../tuned/short/"]
)
def test_one_model_of_several_that_a_stage_makes(repository, target):
    steps = trace_back(Path(target), repository)
    assert [step.stage for step in steps] == ["tune@short", "export", "train", "prepare"]
    assert [line.name for line in steps[0].lines if line.kind == "params"] == ["tune.short.epochs"]


def test_an_output_may_be_a_link_into_the_cache(repository):
    path = repository / "models/export/weights.bin"
    copy = cached(repository, recorded(repository, "models/export/weights.bin"))
    path.unlink()
    path.symlink_to(copy)
    assert names(repository, str(path)) == []


@pytest.mark.parametrize("target", ["models/none", "work.py", "data/raw", "../elsewhere"])
def test_what_no_stage_makes_is_refused(repository, target):
    with pytest.raises(UserError, match="no stage makes it"):
        trace_back(Path(target), repository)


def test_without_a_record_or_a_repository_it_says_so(repository, tmp_path):
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match=r"^dvc\.lock: wanted the record of a run"):
        trace_back(Path("models/export"), tmp_path / "bare")
    shutil.copy(repository / "dvc.lock", tmp_path / "bare")
    with pytest.raises(UserError, match="wanted a DVC repository") as refused:
        trace_back(Path("models/export"), tmp_path / "bare")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("change", "code", "end"), [(False, 0, "all as recorded\n"), (True, 1, "\n  extra.py\n")])
def test_the_command_ends_with_0_or_1(repository, monkeypatch, change, code, end):
    if change:
        change_byte(repository / "extra.py")
    monkeypatch.chdir(repository)
    ended = CliRunner().invoke(command_line.app, ["trace"])
    assert ended.exit_code == code
    assert ended.output.endswith(end)


def test_the_command_loads_no_torch(repository):
    code = "import sys, llm.__main__ as m\ntry: m.run()\nfinally: print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, "trace", "models/tuned/short"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    shown = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert shown.stdout.endswith("False\n"), shown.stderr


def test_params_are_broken_to_the_width_of_the_terminal(repository, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = render(trace_back(Path("models/export"), repository)).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("  params  prepare"))
    assert " ".join("\n".join(lines[first : first + 3]).split()) == (
        'params prepare.sources [{"name": "mine", "globs": ["*"]}], prepare.rules.near null, prepare.rules.min_chars 3'
    )
    assert len(lines[first]) <= 60
