"""Tracing a model back in a small repository that real DVC has run: every changed byte is named, nothing else is."""

import os
import platform
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm.__main__ import app
from llm.core.errors import UserError
from llm.report.trace import differences, render, trace_back

LIBRARY = "ab" * 32
PYTHON = f"the standard library of Python {platform.python_version()}"
MODEL = Path("models/export/hf")

WIRING = """
stages:
  prepare:
    cmd: >-
      mkdir -p data/corpus/deep metrics && for name in corpus corpus/train corpus/val corpus/deep/tést; do
      cat data/raw/a.txt data/raw/a/one.txt > data/$name.txt; echo $name >> data/$name.txt; done;
      echo '{"python": {"version": "VERSION", "library_sha256": "LIBRARY"}}' > metrics/prepare.json
    deps: [stages/work.py, data/raw]
    params: [prepare]
    outs: [data/corpus, data/corpus.txt]
    metrics: [{metrics/prepare.json: {cache: false}}]
  train:
    cmd: >-
      mkdir -p models/pretrained && cp data/corpus/train.txt models/pretrained/weights.bin &&
      echo one >> models/pretrained/weights.bin && echo 1 > metrics/train.json
    deps: [stages/work.py, llm/core, data/corpus]
    params: [train, seed]
    outs: [models/pretrained]
    metrics: [{metrics/train.json: {cache: false}}]
  export:
    cmd: >-
      mkdir -p models/export/hf && cp models/pretrained/weights.bin models/export/hf && echo two >>
      models/export/hf/weights.bin && echo d > models/export/config.json
    deps: [stages/work.py, models/pretrained]
    outs: [models/export/hf, models/export/config.json]
  tune:
    foreach: ${tune}
    do:
      cmd: mkdir -p models/tuned/${key} && echo ${key} > models/tuned/${key}/weights.bin
      deps: [stages/work.py, models/export/hf]
      params: ["tune.${key}"]
      outs: ["models/tuned/${key}"]
  card:
    cmd: cp metrics/train.json models/export/README.md
    deps: [stages/work.py, models/export/hf, metrics/train.json, models/tuned]
    outs: [models/export/README.md]
""".replace("LIBRARY", LIBRARY).replace("VERSION", platform.python_version())

PARAMS = """
seed: 1
prepare: {sources: [{name: mine, globs: ["*"]}], rules: {near: null, min_chars: 3}}
train: {steps: 40, rate: 1e-3}
tune: {short: {epochs: 1}, long: {epochs: 9}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, run_in_repository) -> Path:
    """The repository after one `dvc repro` and a commit. Only to be copied."""
    folder = tmp_path_factory.mktemp("made") / "repository"
    files = {"dvc.yaml": WIRING, "params.yaml": PARAMS, ".dvcignore": "__pycache__\n"}
    files |= {"stages/work.py": "#\n", "llm/core/files.py": "#\n", "data/raw/a/one.txt": "one", "data/raw/a.txt": "two"}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    run_in_repository(folder, "git init --quiet --initial-branch main", "dvc init --quiet", "dvc repro")
    run_in_repository(folder, "git add --all", "git commit --quiet --message run")
    return folder


@pytest.fixture
def repository(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("llm.corpus.sources.library_hash", lambda: LIBRARY)
    return Path(shutil.copytree(made, tmp_path / "repository", symlinks=True))


def change_byte(path: Path) -> None:
    """Flip one bit and keep the size and the time, by which DVC itself finds changes."""
    before = path.stat()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def names(repository: Path, target: Path = MODEL) -> list[str]:
    return differences(trace_back(target, repository))


def test_a_model_is_traced_to_the_raw_text(repository):
    lines = trace_back(MODEL, repository)
    assert list(dict.fromkeys(line.stage for line in lines)) == ["export", "train", "prepare"]
    assert {(line.kind, line.name) for line in lines if line.stage == "prepare"} == {
        *(("made", f"data/corpus{name}") for name in ("", ".txt", "/train.txt", "/val.txt", "/deep/tést.txt")),
        ("made", "metrics/prepare.json"),
        ("read", PYTHON),
        *(("read", f"data/raw{name}") for name in ("", "/a.txt", "/a/one.txt")),
        ("code", "stages/work.py"),
        *(("params", f"prepare.{name}") for name in ("sources", "rules.near", "rules.min_chars")),
    }
    assert differences(lines) == []
    assert render(lines).endswith("3 stages, 18 files and folders, 6 params; all as recorded")


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("models/export/hf/weights.bin", ["models/export/hf", "models/export/hf/weights.bin"]),
        ("data/corpus/deep/tést.txt", ["data/corpus", "data/corpus/deep/tést.txt"]),
        ("data/raw/a/one.txt", ["data/raw", "data/raw/a/one.txt"]),
        ("llm/core/files.py", ["llm/core", "llm/core/files.py"]),
        ("data/corpus.txt", ["data/corpus.txt"]),  # of the same stage, though no model was made of it
        ("models/export/README.md", []),  # of a later stage
    ],
)
def test_one_changed_byte_is_named_and_nothing_else(repository, file, named):
    change_byte(repository / file)
    assert names(repository) == named


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("rate: 1e-3", "rate: 2e-3", ["train.rate"]),
        ("rate: 1e-3", "rate: 1e-3, clip: 1.0", ["train.clip"]),
        ("seed: 1\n", "", ["seed"]),
        ("near: null", "near: off", ["prepare.rules.near"]),
        ("rate: 1e-3", "rate: 0.001", []),
        ("epochs: 9", "epochs: 8", []),  # of a later stage
    ],
)
def test_a_changed_param_is_named(repository, old, new, named, monkeypatch):
    path = repository / "params.yaml"
    path.write_text(path.read_text().replace(old, new))
    assert names(repository) == named
    monkeypatch.chdir(repository)
    ended = CliRunner().invoke(app, ["trace", str(MODEL)])
    assert ended.exit_code == bool(named)
    assert ended.output.endswith(f"\n  {named[0]}\n" if named else "all as recorded\n")


def test_missing_and_added_files_are_named(repository):
    (repository / "data/corpus/val.txt").unlink()
    (repository / "data/corpus/new.txt").write_text("new")
    (repository / "data/corpus/__pycache__").mkdir()  # DVC ignores it
    (repository / "data/corpus/__pycache__/x.pyc").write_text("x")
    (repository / "models/export/other.bin").write_text("made by hand")
    shutil.rmtree(repository / "models/pretrained")
    shown = ["data/corpus", "data/corpus/new.txt", "data/corpus/val.txt", "models/pretrained"]
    assert sorted(names(repository)) == shown
    assert "models/export/other.bin" in names(repository, MODEL.parent)
    assert "missing" in render(trace_back(MODEL, repository))


@pytest.mark.parametrize("is_committed", [True, False])
def test_the_files_of_a_folder_are_those_of_the_locks_commit(repository, run_in_repository, is_committed):
    change_byte(repository / "data/raw/a.txt")
    if is_committed:
        run_in_repository(repository, "git commit --quiet --all --message another")
        assert names(repository) == ["data/raw", "data/raw/a.txt"]
    else:
        shutil.rmtree(repository / ".git")
        run_in_repository(repository, "git init --quiet")
        assert names(repository) == ["data/raw"]
        assert "neither in DVC's cache nor in Git" in render(trace_back(MODEL, repository))


def test_an_input_that_was_made_again_differs_where_it_was_read(repository, run_in_repository):
    (repository / "data/raw/a.txt").write_text("three")
    run_in_repository(repository, "dvc repro prepare")
    files = [f"data/corpus/{name}.txt" for name in ("deep/tést", "train", "val")]
    lines = trace_back(MODEL, repository)
    assert {line.stage for line in lines if line.difference} == {"train"}
    assert differences(lines) == ["data/corpus", *files]


def test_another_standard_library_is_named(repository, monkeypatch):
    monkeypatch.setattr("llm.corpus.sources.library_hash", lambda: "cd" * 32)
    assert names(repository) == [PYTHON]
    monkeypatch.setattr("platform.python_version", lambda: "3.99.1")
    assert "now Python 3.99.1" in render(trace_back(MODEL, repository))


@pytest.mark.parametrize(
    ("target", "stages"),
    [
        ("models/export/README.md", {"card", "tune@short", "tune@long", "export", "train", "prepare"}),
        ("./models/tuned/../tuned/short/weights.bin", {"tune@short", "export", "train", "prepare"}),
    ],
)
def test_only_the_stages_on_the_way_are_shown(repository, target, stages):
    assert {line.stage for line in trace_back(Path(target), repository)} == stages


def test_an_output_may_be_a_link_into_the_cache(repository):
    path = repository / "models/export/config.json"
    md5 = next(line.recorded for line in trace_back(MODEL, repository) if line.name == "models/export/config.json")
    path.unlink()
    path.symlink_to(repository / ".dvc/cache/files/md5" / md5[:2] / md5[2:])
    assert names(repository, path) == []


def test_a_path_that_no_stage_makes_is_refused(repository):
    for target in ("models/none", "stages/work.py", "data/raw", "../elsewhere"):
        with pytest.raises(UserError, match="no stage makes it"):
            trace_back(Path(target), repository)


def test_a_missing_lock_or_repository_is_refused(made, tmp_path):
    with pytest.raises(UserError, match=r"^dvc\.lock: expected the record of a run"):
        trace_back(MODEL, tmp_path)
    shutil.copy(made / "dvc.lock", tmp_path)
    with pytest.raises(UserError, match="expected a DVC repository") as refused:
        trace_back(MODEL, tmp_path)
    assert "\n" not in str(refused.value)
