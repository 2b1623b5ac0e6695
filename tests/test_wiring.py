"""dvc.yaml is held to the code: what a stage reaches is what it depends on, what it takes is what it is given."""

import ast
import importlib
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from llm.core import params
from llm.core.closure import import_closure
from llm.core.stage import Signature, wired_paths

ROOT = Path(__file__).resolve().parents[1]
WIRING: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, dict[str, Any]] = {name: stage.get("do", stage) for name, stage in WIRING["stages"].items()}
FOLDERS = STAGES.pop("folders")  # a command of the shell: it makes what Git does not keep
SCRIPTS = sorted(path for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__")


def signature_of(name: str) -> Signature:
    return Signature.of(importlib.import_module(f"stages.{name}").main)


def options_of(name: str) -> dict[str, str]:
    words = shlex.split(STAGES[name]["cmd"])
    assert words[:3] == ["python", "-m", f"stages.{name}"]
    options = {option.removeprefix("--"): value for option, value in zip(words[3::2], words[4::2], strict=True)}
    return options | STAGES[name]["meta"]


def paths_of(entries: list[Any]) -> set[str]:
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def test_every_script_is_a_stage_and_every_stage_a_script() -> None:
    assert {script.stem for script in SCRIPTS} == set(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_deps_are_the_inputs_and_the_exact_import_closure(name: str) -> None:
    options, signature = options_of(name), signature_of(name)
    inputs = {options[argument] for argument in signature.inputs}
    code = {path.as_posix() for path in import_closure(ROOT / "stages" / f"{name}.py", ROOT)}
    made = paths_of(FOLDERS["outs"]) if name == "prepare" else set()
    assert paths_of(STAGES[name]["deps"]) == inputs | code | made


@pytest.mark.parametrize("name", STAGES)
def test_params_are_the_keys_that_main_takes(name: str) -> None:
    keys = {key.replace("{name}", "${key}") for key, _ in signature_of(name).params.values()}
    assert set(STAGES[name].get("params", [])) == keys


@pytest.mark.parametrize("name", STAGES)
def test_outs_are_the_outputs_and_the_options_are_the_arguments(name: str) -> None:
    options, signature = options_of(name), signature_of(name)
    written = [entry for kind in ("outs", "metrics", "plots") for entry in STAGES[name].get(kind, [])]
    assert paths_of(written) == {options[argument] for argument in signature.outputs}
    assert set(options) == {*signature.inputs, *signature.outputs, *signature.words, "runtime"}


@pytest.mark.parametrize("name", STAGES)
def test_a_command_is_short_because_dvc_repeats_it_behind_each_error(name: str) -> None:
    assert len(STAGES[name]["cmd"]) < 60


@pytest.mark.parametrize("name", STAGES)
def test_the_paths_in_dvc_yaml_are_the_ones_that_the_stage_finds_there(name: str) -> None:
    key = "library"
    task = params.find(params.read(ROOT / "params.yaml"), f"finetune.tasks.{key}", ROOT / "params.yaml")
    wanted = {argument: path.replace("${key}", key) for argument, path in STAGES[name]["meta"].items()}
    for part in ("base", "weights", "data"):
        wanted = {argument: path.replace(f"${{item.{part}}}", task[part]) for argument, path in wanted.items()}
    assert wired_paths(ROOT / "dvc.yaml", name, ROOT / "params.yaml", key) == wanted


@pytest.mark.parametrize("name", STAGES)
def test_no_stage_depends_on_a_runtime_file(name: str) -> None:
    assert not any(path.startswith("metrics/runtime") for path in paths_of(STAGES[name]["deps"]))


@pytest.mark.parametrize("name", ["prepare", "label", "tokenize", "sample"])
def test_the_text_stages_start_without_torch(name: str) -> None:
    command = f"import sys, stages.{name}; sys.exit(any(heavy in sys.modules for heavy in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=False).returncode == 0


# Which rooms a file of a room may import; `stages` may import everything.
BASE = {"errors", "params", "closure", "stage", "runtime", "openmp", "plots"}
ROOMS = {
    "text": BASE - {"runtime", "plots"},
    "model": BASE | {"text"},
    "train": BASE | {"text", "model"},
    "evaluate": BASE | {"text", "model", "train"},
    "export": BASE | {"text", "model", "train"},
    "finetune": BASE | {"text", "model", "train", "evaluate", "export"},
    "serve": BASE | {"text", "model", "export", "finetune"},
}


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room: str) -> None:
    for file in sorted((ROOT / "llm" / room).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("llm."):
                assert node.module.split(".")[1] in ROOMS[room] | {room}, f"{file} imports {node.module}"


def test_the_text_room_never_imports_torch() -> None:
    for file in sorted((ROOT / "llm" / "text").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in ("torch", "transformers", "safetensors") for name in names), file


def test_package_files_hold_a_docstring_and_nothing_else() -> None:
    files = list((ROOT / "llm").rglob("__init__.py"))
    assert len(files) == len(ROOMS) + 1
    for file in files:
        body = ast.parse(file.read_text(encoding="utf-8")).body
        assert len(body) == 1, file
        assert isinstance(body[0], ast.Expr), file


def test_nobody_imports_a_stage() -> None:
    for file in (ROOT / "llm").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "stages"), file
