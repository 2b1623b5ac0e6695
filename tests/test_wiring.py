"""dvc.yaml agrees with the code: what a stage imports, reads and writes is what DVC tracks."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from llm.core.closure import import_closure
from llm.core.stage import Signature

ROOT = Path(__file__).resolve().parents[1]
PIPELINE: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
STAGES: dict[str, dict[str, Any]] = {name: stage.get("do", stage) for name, stage in PIPELINE.items()}
FOLDERS = STAGES.pop("folders")  # a shell command
KINDS = ("classify", "instruct", "dpo")

# In reading order: a package imports only from itself and from packages before it.
ROOMS = ["core", "corpus", "tokens", "model", "export", "train", "evaluate", "finetune", "page", "report", "serve"]
ROOMS += ["experiments", "commands"]
# What a stage must never import, so that an edit there reruns no expensive stage.
NEVER = {
    "prepare": {"tokens", "model", "train", "evaluate", "export", "finetune"},
    "label": {"tokens", "model", "train", "evaluate", "export", "finetune"},
    "tokenize": {"corpus", "model", "train", "evaluate", "export", "finetune"},
    "sample": {"corpus", "model", "train", "evaluate", "export", "finetune"},
    "pretrain": {"corpus", "evaluate", "finetune", "export/gguf.py", "export/onnx.py", "export/push.py"},
    "finetune": {"export/gguf.py", "export/onnx.py", "export/push.py"},
    "page": {"corpus", "train", "evaluate", "finetune", "export/gguf.py", "export/onnx.py", "export/push.py"},
    "report": {"model", "train", "export", "finetune", "page"},
}
TORCH_FREE = {"corpus", "tokens", "report"}
PRESENTATION = {"page", "report", "serve", "experiments", "commands"}


def paths_of(entries: list[Any]) -> set[str]:
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def is_code(path: str) -> bool:
    return path.startswith(("llm/", "stages/"))


def signature_of(name: str) -> Signature:
    return Signature.of(importlib.import_module(f"stages.{name}").main)


def defaults(name: str, kind: str) -> set[str]:
    """The default paths of a kind, as dvc.yaml writes them."""
    found = [str(default) for own, default in signature_of(name).paths.values() if own == kind]
    return {re.sub(r"\{task\.(\w+)\}", r"${item.\1}", path.replace("{name}", "${key}")) for path in found}


def closure_of(name: str, kind: str | None = None) -> set[str]:
    """The files of code that a stage reaches; of a finetuning, with the code of one kind of task alone."""
    others = tuple(f"llm/finetune/{other}/" for other in KINDS if kind and other != kind)
    files = {path.as_posix() for path in import_closure(ROOT / "stages" / f"{name}.py", ROOT)}
    return {file for file in files if not file.startswith(others)} if others else files


def test_every_script_is_a_stage_and_every_stage_a_script() -> None:
    assert {script.stem for script in (ROOT / "stages").glob("*.py")} - {"__init__"} == set(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_tracks_what_main_reads_and_writes(name: str) -> None:
    stage, signature = STAGES[name], signature_of(name)
    assert stage["cmd"] == f"python -m stages.{name}" + " --name ${key}" * ("name" in signature.options)
    made = paths_of(FOLDERS["outs"]) if name == "prepare" else set()
    assert {dep for dep in stage["deps"] if not is_code(dep)} == defaults(name, "input") | made
    written = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    assert paths_of(written) == defaults(name, "output")
    keys = {key.replace("{name}", "${key}") for key, _ in signature.params.values()}
    assert set(stage.get("params", [])) == keys
    assert not any(path.startswith("metrics/runtime") for path in stage["deps"])


@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_imports_only_what_it_depends_on(name: str, kind: str | None) -> None:
    if (kind is None) == (name == "finetune"):
        return
    declared = [dep.replace("${item.kind}", kind or "") for dep in STAGES[name]["deps"] if is_code(dep)]
    files = {file for file in closure_of(name, kind) if not file.endswith("__init__.py")}
    lies_in = {file: {dep for dep in declared if file == dep or file.startswith(f"{dep}/")} for file in files}
    assert not [file for file, deps in lies_in.items() if not deps], f"{name} imports files outside of its deps"
    unused = set(declared).difference(*lies_in.values())
    assert not unused, f"{name} depends on code that it does not import"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_never_reaches_code_that_it_must_not(name: str) -> None:
    own = {"card": {"report"}, "report": {"report"}, "page": {"page"}}.get(name, set())
    never = NEVER.get(name, set()) | (PRESENTATION - own)
    reached = {f"llm/{part}" for part in never for file in closure_of(name) if file.startswith(f"llm/{part}")}
    assert not reached


@pytest.mark.parametrize("name", ["prepare", "label", "tokenize", "sample", "card", "report"])
def test_these_stages_start_without_torch(name: str) -> None:
    command = f"import sys, stages.{name}; sys.exit(any(heavy in sys.modules for heavy in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=False).returncode == 0


def imports(file: Path) -> set[str]:
    """The modules that a file of code names in its import statements."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return named | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room: str) -> None:
    allowed = {"errors", *ROOMS[: ROOMS.index(room) + 1]}
    for file in (ROOT / "llm" / room).rglob("*.py"):
        found = imports(file)
        assert {name.split(".")[1] for name in found if name.startswith("llm.")} <= allowed, file
        never = {"stages"} | ({"torch", "transformers", "safetensors"} if room in TORCH_FREE else set())
        assert not {name.split(".")[0] for name in found} & never, file


def test_package_files_hold_a_docstring_and_nothing_else() -> None:
    packages = {file.parent.relative_to(ROOT / "llm").parts[:1] for file in (ROOT / "llm").rglob("__init__.py")}
    assert packages == {(), *((room,) for room in ROOMS)}
    for file in (ROOT / "llm").rglob("__init__.py"):
        (node,) = ast.parse(file.read_text(encoding="utf-8")).body
        assert isinstance(node, ast.Expr), file
