"""The pipeline as a user runs it: real `dvc`, real processes, in copies of this repository with caches of their own."""

import contextlib
import csv
import glob
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]

# A user's own text instead of the standard library, and as little work as makes every stage do something.
OWN_TEXT = {
    "prepare.sources": [{"name": "mine", "kind": "files", "globs": ["data/raw/*.txt"]}],
    "prepare.split.method": "position",
    "tokenize.vocab_size": 400,
    "pretrain.max_steps": 40,
    "pretrain.checkpoint_every_steps": 2,
    "pretrain.eval_every_steps": 20,
}


class Clone:
    """A copy of the repository's files, committed to a Git repository of its own, with an empty DVC cache."""

    def __init__(self, folder: Path, values: dict[str, object]):
        self.folder = folder
        listed = self._listed()
        for name in listed:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        # The committed lock is of another params.yaml; its hashes would be found in no cache here.
        (folder / "dvc.lock").unlink(missing_ok=True)
        self.llm("preset", "tiny")
        for key, value in values.items():
            self.set(key, value)
        self.git("init", "--quiet", "--initial-branch", "main")
        self.commit()

    @staticmethod
    def _listed() -> list[str]:
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        output = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        return [name for name in output.split("\0") if name and (ROOT / name).is_file()]

    def environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DVC_", "GIT_", "PYTHON", "GROUNDUP_", "PYTEST_"))
        }
        author = {"NAME": "Test", "EMAIL": "test@example.org"}
        names = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in author.items()}
        return kept | names | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def command(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def git(self, *words: str) -> str:
        return self.command("git", *words)

    def llm(self, *words: str) -> str:
        return self.command("python", "-m", "llm", *words)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "state")

    def repro(self, *words: str) -> set[str]:
        """Run `dvc repro`; which stages ran, rather than being found up to date or in the cache."""
        return set(re.findall(r"Running stage '([^']+)'", self.command("dvc", "repro", *words)))

    def set(self, key: str, value: object) -> None:
        """Set a key of params.yaml."""
        yaml = YAML()
        path = self.folder / "params.yaml"
        content = yaml.load(path)
        *above, last = key.split(".")
        part = content
        for name in above:
            part = part[name]
        part[last] = value
        yaml.dump(content, path)

    def edit(self, name: str) -> None:
        """Add a line to a file of code."""
        path = self.folder / name
        path.write_text(path.read_text(encoding="utf-8") + "\n_EDITED = True\n", encoding="utf-8")

    def undo(self) -> None:
        """Back to what was committed; DVC's outputs too."""
        self.git("reset", "--quiet", "--hard")
        self.command("dvc", "checkout", "--quiet")

    def checkpoints(self) -> dict[str, int]:
        """The states that pretraining keeps for a resume, each with the time when it was written."""
        times = {}
        for path in glob.glob(str(self.folder / ".scratch" / "pretrain" / "*" / "scratch" / "*" / "state.pt")):  # noqa: PTH207 - ignores folders that vanish
            with contextlib.suppress(FileNotFoundError):
                times[path] = Path(path).stat().st_mtime_ns
        return times

    def weights_hash(self) -> str:
        return hashlib.sha256((self.folder / "models/pretrained/model.safetensors").read_bytes()).hexdigest()


def write_own_text(folder: Path) -> None:
    """Sentences with some order in them, to learn from."""
    drawn = random.Random(1)
    words = [
        "the river",
        "an old boat",
        "my neighbour",
        "every morning",
        "goes to",
        "thinks of",
        "sails past",
        "the hill",
    ]
    text = "".join(" ".join(drawn.choices(words, k=7)).capitalize() + ".\n" for _ in range(900))
    (folder / "data" / "raw").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "raw" / "mine.txt").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def builtin(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The tiny preset on the built-in corpus, run once and committed."""
    clone = Clone(tmp_path_factory.mktemp("builtin"), {})
    clone.repro()
    clone.commit()
    return clone


@pytest.fixture(scope="module")
def own_text(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The tiny preset on a user's text file, tracked by DVC, run once and committed."""
    folder = tmp_path_factory.mktemp("own")
    write_own_text(folder)
    clone = Clone(folder, OWN_TEXT)
    clone.git("rm", "--quiet", "--cached", "data/raw/mine.txt")
    clone.command("dvc", "add", "data/raw/mine.txt")
    clone.repro()
    clone.commit()
    return clone


def test_the_tiny_pipeline_makes_everything(builtin: Clone) -> None:
    made = builtin.folder
    for name in ("model.safetensors", "config.json", "tokenizer.json", "README.md"):
        assert (made / "models" / "export" / name).is_file()
    evaluation = json.loads((made / "metrics/evaluate.json").read_text())
    baselines = json.loads((made / "metrics/baselines.json").read_text())
    assert 0 < evaluation["test"]["bits_per_byte"] < 8
    compressors = {"xz", "xz_given_train", "zstd", "zstd_given_train", "bzip2"}
    assert set(baselines["test"]) == compressors | {"kneser_ney_5gram", "unigram", "uniform"}
    assert set(json.loads((made / "metrics/finetune/library.json").read_text())["test"]) == {
        "pretrained",
        "random_weights",
        "tfidf",
        "majority",
        "zero_shot",
    }
    bits = json.loads((made / "metrics/finetune/docstring.json").read_text())["test"]["answer_bits_per_byte"]
    assert bits["after"] < bits["before"]
    assert builtin.llm("generate", "import ", "--max-tokens", "5").startswith("import ")


def test_a_second_repro_runs_nothing(builtin: Clone) -> None:
    assert builtin.repro() == set()
    assert builtin.git("status", "--short") == ""


def test_bytecode_folders_change_no_dependency(builtin: Clone) -> None:
    assert list((builtin.folder / "llm").rglob("__pycache__"))
    assert "up to date" in builtin.command("dvc", "status")


def test_a_deleted_export_comes_back_without_a_run(builtin: Clone) -> None:
    before = (builtin.folder / "models/export/model.safetensors").read_bytes()
    shutil.rmtree(builtin.folder / "models" / "export")
    assert builtin.repro() == set()
    assert (builtin.folder / "models/export/model.safetensors").read_bytes() == before
    assert (builtin.folder / "models/export/README.md").is_file()


def test_a_param_of_one_task_runs_that_task_alone(builtin: Clone) -> None:
    builtin.set("finetune.tasks.docstring.training.learning_rates", [0.005])
    assert builtin.repro() == {"finetune@docstring", "card", "report"}
    builtin.undo()
    assert builtin.repro() == set()


@pytest.mark.parametrize(
    ("edited", "runs", "stays"),
    [
        ("llm/finetune/instruct/instruct.py", {"finetune@library", "finetune@docstring"}, {"export", "pretrain"}),
        ("llm/finetune/params.py", {"finetune@library", "finetune@docstring"}, {"export", "pretrain"}),
        ("llm/evaluate/breakdown.py", {"evaluate"}, {"finetune@library", "export"}),
        ("llm/evaluate/likelihood.py", {"evaluate", "finetune@library"}, {"pretrain", "export"}),
        ("llm/model/attention.py", {"pretrain"}, {"tokenize", "sample", "prepare"}),
        ("llm/tokens/tokenizer.py", {"tokenize"}, {"prepare", "label"}),
    ],
)
def test_an_edit_changes_the_stages_that_reach_it(builtin: Clone, edited: str, runs: set[str], stays: set[str]) -> None:
    builtin.edit(edited)
    changed = set(json.loads(builtin.command("dvc", "status", "--json")))
    builtin.undo()
    assert runs <= changed
    assert not stays & changed


def test_the_vocabulary_is_no_matter_to_prepare(builtin: Clone) -> None:
    builtin.set("tokenize.vocab_size", 600)
    changed = set(json.loads(builtin.command("dvc", "status", "--json")))
    builtin.undo()
    assert "tokenize" in changed
    assert not {"prepare", "label"} & changed


def test_a_wrong_param_is_one_line_before_dvcs_own(builtin: Clone) -> None:
    builtin.set("finetune.tasks.docstring.max_tokens", "many")
    lines = builtin.command("dvc", "repro", code=255).splitlines()
    builtin.undo()
    assert "Traceback" not in "\n".join(lines)
    told = "finetune: params.yaml: finetune.tasks.docstring.max_tokens: expected integer, got text 'many'"
    behind = [line for line in lines[lines.index(told) + 1 :] if line]
    assert len(behind) == 1
    assert behind[0].startswith("ERROR: failed to reproduce 'finetune@docstring'")
    assert len(behind[0]) < 150


def test_the_first_stage_that_runs_refuses_what_a_later_one_would(builtin: Clone) -> None:
    builtin.set("sample.context_length", 100)
    said = builtin.command("dvc", "repro", code=255)
    builtin.undo()
    assert re.findall(r"Running stage '([^']+)'", said) == ["sample"]
    assert "sample: params.yaml: evaluate.stride: wanted at most sample.context_length 100, given 128" in said


def test_push_and_pull_carry_a_run_to_another_clone(builtin: Clone, tmp_path: Path) -> None:
    remote, elsewhere = tmp_path / "remote", tmp_path / "elsewhere"
    builtin.command("dvc", "remote", "add", "--local", "--default", "--force", "store", str(remote))
    builtin.command("dvc", "push", "--quiet")
    builtin.command("git", "clone", "--quiet", ".", str(elsewhere))
    other = object.__new__(Clone)
    other.folder = elsewhere
    other.command("dvc", "remote", "add", "--local", "--default", "store", str(remote))
    other.command("dvc", "pull", "--quiet")
    assert other.repro() == {"folders"}
    assert other.weights_hash() == builtin.weights_hash()


def test_a_users_text_goes_all_the_way(own_text: Clone) -> None:
    prepared = json.loads((own_text.folder / "metrics/prepare.json").read_text())
    assert list(prepared["bytes_by_source"]) == ["mine"]
    assert "python" not in prepared
    evaluation = json.loads((own_text.folder / "metrics/evaluate.json").read_text())
    assert set(evaluation) >= {"val", "test"}
    for task in ("library", "docstring"):
        report = json.loads((own_text.folder / f"metrics/finetune/{task}.json").read_text())
        assert report == {"skipped": "the corpus has no docstrings"}
    assert (own_text.folder / "models/export/model.safetensors").is_file()


def test_experiments_elsewhere_see_the_text_and_show_every_metric(own_text: Clone) -> None:
    for steps in (20, 30):
        own_text.command("dvc", "exp", "run", "--temp", "--set-param", f"pretrain.max_steps={steps}")
    shown = own_text.command("dvc", "exp", "show", "--csv", "--force")
    rows = list(csv.DictReader(io.StringIO(shown[shown.index("Experiment,") :])))
    experiments = [row for row in rows if row["typ"] != "baseline"]
    assert sorted(row["pretrain.max_steps"] for row in experiments) == ["20", "30"]
    assert all(float(row["test.bits_per_byte"]) > 0 for row in rows)
    assert len({row["test.bits_per_byte"] for row in experiments}) == len(experiments)
    assert "!" not in shown


def test_the_whole_folder_of_raw_text_can_be_tracked(tmp_path: Path) -> None:
    clone = Clone(tmp_path, OWN_TEXT)
    assert clone.repro("folders") == {"folders"}
    write_own_text(tmp_path)
    clone.command("dvc", "add", "data/raw")
    assert clone.repro("prepare") == {"prepare"}
    clone.commit()
    clone.command("dvc", "exp", "run", "--temp", "--set-param", "prepare.subset_fraction=0.5", "prepare")
    shown = clone.command("dvc", "exp", "show", "--json")
    assert '"mine": ' in shown
    elsewhere = tmp_path.parent / "elsewhere"
    clone.command("git", "clone", "--quiet", ".", str(elsewhere))
    assert not (elsewhere / "data" / "raw").exists()


def test_killed_pretraining_resumes_to_the_same_bytes(own_text: Clone, tmp_path: Path) -> None:
    write_own_text(tmp_path)
    # A cache of its own: in one cache, DVC would hand out the uninterrupted run's weights.
    clone = Clone(tmp_path, OWN_TEXT)
    clone.repro("sample")
    drawn = random.Random(time.time_ns())
    log = ""
    for _ in range(3):
        process = subprocess.Popen(
            ["dvc", "repro", "pretrain"],
            cwd=clone.folder,
            env=clone.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        before = clone.checkpoints()
        while process.poll() is None and clone.checkpoints() == before:
            time.sleep(0.005)
        time.sleep(drawn.uniform(0, 0.2))
        kill_stage(clone.folder)
        log += process.communicate(timeout=60)[0]
    log += clone.command("dvc", "repro", "pretrain")
    resumed = [int(step) for step in re.findall(r"resumed at step (\d+)", log)]
    assert resumed
    assert all(step > 0 for step in resumed)
    assert clone.weights_hash() == own_text.weights_hash()


def kill_stage(folder: Path) -> None:
    """SIGKILL the pretraining processes that run in a folder, found by their command line and working folder."""
    listed = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        number, _, words = line.strip().partition(" ")
        if "stages.pretrain" in words and Path(f"/proc/{number}/cwd").resolve() == folder.resolve():
            os.kill(int(number), signal.SIGKILL)


def test_killing_dvc_leaves_no_stage_behind(own_text: Clone, tmp_path: Path) -> None:
    write_own_text(tmp_path)
    clone = Clone(tmp_path, OWN_TEXT | {"pretrain.max_steps": 100_000})
    clone.repro("sample")
    process = subprocess.Popen(
        ["dvc", "repro", "pretrain"],
        cwd=clone.folder,
        env=clone.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not clone.checkpoints():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    time.sleep(2)
    written = clone.checkpoints()
    time.sleep(1)
    assert clone.checkpoints() == written
