"""The pipeline as a user runs it: real `dvc` in copies of this repository, each with an empty cache."""

import contextlib
import csv
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
OWN_TEXT = {"name": "mine", "kind": "files", "globs": ["data/raw/*.txt"]}
DOCSTRINGS = {"name": "documentation", "kind": "docstrings", "packages": ["networkx", "scikit-learn"]}
# As little work as makes every stage do something, on top of the preset tiny.
VALUES = {
    "prepare.sources": [OWN_TEXT, DOCSTRINGS],
    "prepare.subset_fraction": 0.5,
    "label.n_packages": 2,
    "label.max_train_rows_per_package": 50,
    "tokenize.vocab_size": 400,
    "sample.context_length": 64,
    "pretrain.max_steps": 40,
    "pretrain.checkpoint_every_steps": 2,
    "pretrain.eval_every_steps": 20,
}
QUICK = VALUES | {"prepare.sources": [OWN_TEXT], "prepare.split.method": "position", "prepare.subset_fraction": 1.0}


class Clone:
    """A copy of the repository's files, committed to a Git repository of its own, with an empty DVC cache."""

    def __init__(self, folder: Path, values: dict[str, object], tracked: str = "data/raw/mine.txt"):
        self.folder = folder
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.check_output(listing, cwd=ROOT, text=True).split("\0"):
            # The committed lock is of another params.yaml; its hashes are in no cache here.
            if (ROOT / name).is_file() and name != "dvc.lock":
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        write_own_text(folder / "data" / "raw" / "mine.txt")
        self.command("python", "-m", "llm", "preset", "tiny")
        for key, value in values.items():
            self.set(key, value)
        self.git("init", "--quiet", "--initial-branch", "main")
        self.command("dvc", "add", "--quiet", tracked)
        self.commit()

    def command(self, *words: str, code: int = 0) -> str:
        hidden = ("DVC_", "GIT_", "PYTHON", "GROUNDUP_", "PYTEST_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        for role in ("AUTHOR", "COMMITTER"):
            environment |= {f"GIT_{role}_NAME": "Test", f"GIT_{role}_EMAIL": "test@example.org"}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            words, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def git(self, *words: str) -> str:
        return self.command("git", *words)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "state")

    def repro(self, *words: str) -> set[str]:
        """Run `dvc repro`; return the stages that ran, without those restored from the cache."""
        return set(re.findall(r"Running stage '([^']+)'", self.command("dvc", "repro", *words)))

    def status(self) -> set[str]:
        """Return the stages that `dvc status` reports as changed."""
        return set(json.loads(self.command("dvc", "status", "--json")))

    def set(self, key: str, value: object) -> None:
        """Set a key of params.yaml."""
        yaml, path = YAML(), self.folder / "params.yaml"
        content = section = yaml.load(path)
        *above, last = key.split(".")
        for name in above:
            section = section[name]
        section[last] = value
        yaml.dump(content, path)

    @contextlib.contextmanager
    def undone(self):
        """Reset the clone to what was committed, DVC's outputs too, at the end of the block."""
        yield
        self.git("reset", "--quiet", "--hard")
        self.command("dvc", "checkout", "--quiet")

    def read(self, name: str) -> dict:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def start_pretraining(self) -> "subprocess.Popen[str]":
        """Start `dvc repro pretrain` and wait until it has written a new checkpoint."""
        before = self.checkpoints()
        process = subprocess.Popen(
            ["dvc", "repro", "pretrain"],
            cwd=self.folder,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while process.poll() is None and self.checkpoints() == before:
            time.sleep(0.005)
        return process

    def checkpoints(self) -> dict[Path, int]:
        """Return the modification time of each checkpoint of pretraining."""
        found = {}
        with contextlib.suppress(FileNotFoundError):  # a folder that is removed while it is listed
            for path in (self.folder / ".scratch" / "pretrain").glob("*/scratch/*/state.pt"):
                found[path] = path.stat().st_mtime_ns
        return found

    def weights_hash(self) -> str:
        return hashlib.sha256((self.folder / "models/pretrained/model.safetensors").read_bytes()).hexdigest()


def write_own_text(path: Path) -> None:
    rng = random.Random(1)
    words = ["the river", "an old boat", "every morning", "goes to", "thinks of", "sails past", "the hill"]
    text = "".join(" ".join(rng.choices(words, k=7)).capitalize() + ".\n" for _ in range(900))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A small pipeline on docstrings and a user's text, run once and committed."""
    clone = Clone(tmp_path_factory.mktemp("clone"), VALUES)
    clone.repro()
    clone.commit()
    return clone


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone with a user's text alone, run up to the windows."""
    clone = Clone(tmp_path_factory.mktemp("quick"), QUICK)
    clone.repro("sample")
    return clone


def test_every_stage_leaves_its_outputs(clone: Clone) -> None:
    for name in ("hf/model.safetensors", "hf/config.json", "hf/tokenizer.json", "gguf", "README.md"):
        assert (clone.folder / "models" / "export" / name).exists(), name
    page = (clone.folder / "reports/model.html").read_bytes()
    assert page == (clone.folder / "models/page.html").read_bytes()
    assert len(page) == clone.read("metrics/page.json")["bytes"]
    assert set(clone.read("metrics/prepare.json")["bytes_by_source"]) == {"mine", "documentation"}
    assert 0 < clone.read("metrics/evaluate.json")["test"]["model"]["bits_per_byte"] < 8
    systems = set(clone.read("metrics/baselines.json")["test"])
    assert systems >= {"xz", "xz_given_train", "zstd", "bzip2", "kneser_ney_5gram", "unigram", "uniform"}
    systems = set(clone.read("metrics/finetune/library.json")["test"])
    assert systems == {"pretrained", "random_weights", "tfidf", "majority", "zero_shot"}
    answers = clone.read("metrics/finetune/docstring.json")["test"]
    assert answers["after"]["answer_bits_per_byte"] < answers["before"]["answer_bits_per_byte"]
    text = clone.command("python", "-m", "llm", "generate", "Return ", "--max-tokens", "5")
    assert text.startswith("Return ")


def test_another_context_is_one_edit(clone: Clone) -> None:
    assert clone.read("models/export/hf/config.json")["max_position_embeddings"] == 64
    assert clone.read("models/finetuned/library/tokenizer_config.json")["model_max_length"] == 64
    assert clone.read("data/windows/windows.json")["stride"] == 64
    assert clone.read("metrics/details/memorise.json")["prefix_tokens"] == 16
    assert clone.read("metrics/details/evaluate.json")["quality"]["prompt_tokens"] == 12


def test_a_second_run_does_nothing(clone: Clone) -> None:
    assert list((clone.folder / "llm").rglob("__pycache__"))
    assert clone.status() == set()
    assert clone.repro() == set()
    assert clone.git("status", "--short") == ""


def test_a_deleted_export_is_restored_from_the_cache(clone: Clone) -> None:
    weights = clone.folder / "models/export/hf/model.safetensors"
    before = weights.read_bytes()
    shutil.rmtree(clone.folder / "models" / "export")
    assert clone.repro() == set()
    assert weights.read_bytes() == before
    assert (clone.folder / "models/export/README.md").is_file()


FINETUNING = {"finetune@library", "finetune@docstring"}
CONVERSION = {"convert@library", "convert@docstring"}
SCORING = {"baselines", "evaluate", "memorise", "cloze"}
TORCH = {"pretrain", "evaluate", "memorise", "cloze", "export", "page"} | FINETUNING | CONVERSION


@pytest.mark.parametrize(
    ("edited", "reruns"),
    [
        ("llm/corpus/clean.py", {"prepare", "label"}),
        ("llm/corpus/readers/rows.py", {"prepare", "label"} | FINETUNING),
        ("llm/tokens/windows.py", {"tokenize", "sample", "baselines"} | TORCH),
        ("llm/model/attention.py", TORCH),
        ("llm/train/loop.py", {"pretrain"} | FINETUNING),
        ("llm/evaluate/breakdown.py", SCORING),
        ("llm/export/gguf.py", {"export"} | CONVERSION),
        ("llm/export/push.py", {"export"} | CONVERSION),
        ("llm/page/engine.js", {"page"}),
        ("llm/finetune/classify/classifier.py", {"finetune@library"}),
        ("llm/finetune/instruct/job.py", {"finetune@docstring"}),
        ("llm/report/plots.py", {"card", "report"}),
        ("llm/report/report.html.jinja", {"card", "report"}),
        ("llm/serve/app.py", set()),
        ("llm/experiments/scaling.py", set()),
        ("llm/commands/presets.py", set()),
        ("tests/test_pipeline.py", set()),
        ("README.md", set()),
        ("params.yaml: tokenize.train_bytes", {"tokenize", "card", "report"}),
        ("params.yaml: finetune.tasks.docstring.max_tokens", {"finetune@docstring", "card", "report"}),
    ],
)
def test_an_edit_reruns_these_stages(clone: Clone, edited: str, reruns: set[str]) -> None:
    with clone.undone():
        name, _, key = edited.partition(": ")
        if key:
            clone.set(key, 120)
        else:
            with (clone.folder / name).open("a", encoding="utf-8") as file:
                file.write("\n")
        assert clone.status() == reruns


def test_an_edit_of_one_task_runs_it_alone(clone: Clone) -> None:
    with clone.undone():
        clone.set("finetune.tasks.docstring.training.learning_rates", [0.005])
        assert clone.repro() == {"finetune@docstring", "convert@docstring", "card", "report"}
    assert clone.repro() == set()


def test_a_wrong_param_is_one_line_above_dvcs_own(clone: Clone) -> None:
    with clone.undone():
        clone.set("finetune.tasks.docstring.max_tokens", "many")
        lines = clone.command("dvc", "repro", code=255).splitlines()
    assert "Traceback" not in "\n".join(lines)
    message = "finetune: params.yaml: finetune.tasks.docstring.max_tokens: expected integer, got text 'many'"
    (last,) = [line for line in lines[lines.index(message) + 1 :] if line]
    assert last.startswith("ERROR: failed to reproduce 'finetune@docstring'")
    assert len(last) < 150


def test_the_first_stage_refuses_what_a_later_one_would(clone: Clone) -> None:
    with clone.undone():
        clone.set("sample.context_length", 100)
        clone.set("evaluate.stride", 128)
        printed = clone.command("dvc", "repro", code=255)
    assert re.findall(r"Running stage '([^']+)'", printed) == ["sample"]
    assert "sample: params.yaml: evaluate.stride: expected at most sample.context_length 100, got 128" in printed


def test_push_and_pull_carry_a_run_to_another_clone(clone: Clone, tmp_path: Path) -> None:
    other = object.__new__(Clone)
    other.folder = tmp_path / "elsewhere"
    clone.git("clone", "--quiet", ".", str(other.folder))
    for place in (clone, other):
        remote = ["--local", "--default", "--force", "store", str(tmp_path / "remote")]
        place.command("dvc", "remote", "add", *remote)
    clone.command("dvc", "push", "--quiet")
    other.command("dvc", "pull", "--quiet")
    assert other.repro() == {"folders"}
    assert other.weights_hash() == clone.weights_hash()


def test_experiments_elsewhere_show_every_metric(clone: Clone) -> None:
    for steps in (20, 30):
        clone.command("dvc", "exp", "run", "--temp", "--set-param", f"pretrain.max_steps={steps}", "evaluate")
    shown = clone.command("dvc", "exp", "show", "--csv", "--force")
    rows = list(csv.DictReader(io.StringIO(shown[shown.index("Experiment,") :])))
    scores = {row["pretrain.max_steps"]: float(row["test.model.bits_per_byte"]) for row in rows}
    assert set(scores) == {"20", "30", "40"}
    assert len(set(scores.values())) == 3
    assert "!" not in shown


def test_the_folder_of_raw_text_can_be_tracked_as_a_whole(tmp_path: Path) -> None:
    clone = Clone(tmp_path, QUICK, tracked="data/raw")
    assert clone.repro("prepare") == {"folders", "prepare"}
    clone.commit()
    clone.command("dvc", "exp", "run", "--temp", "--set-param", "prepare.subset_fraction=0.5", "prepare")
    assert '"mine": ' in clone.command("dvc", "exp", "show", "--json")


def test_killed_pretraining_resumes_to_the_same_bytes(quick: Clone, tmp_path: Path) -> None:
    shutil.copytree(quick.folder, tmp_path, dirs_exist_ok=True, symlinks=True)
    killed = object.__new__(Clone)
    killed.folder = tmp_path
    quick.repro("pretrain")
    log = ""
    for _ in range(3):
        process = killed.start_pretraining()
        time.sleep(random.uniform(0, 0.2))
        for stage in psutil.Process(process.pid).children(recursive=True):
            stage.kill()
        log += process.communicate(timeout=60)[0]
    log += killed.command("dvc", "repro", "pretrain")
    resumed = [int(step) for step in re.findall(r"resumed at step (\d+)", log)]
    assert resumed
    assert all(step > 0 for step in resumed)
    assert killed.weights_hash() == quick.weights_hash()


def test_killing_dvc_ends_its_stage(quick: Clone) -> None:
    quick.set("pretrain.max_steps", 100_000)
    process = quick.start_pretraining()
    process.kill()
    process.communicate()
    time.sleep(2)
    written = quick.checkpoints()
    assert written
    time.sleep(1)
    assert quick.checkpoints() == written
