"""All of params.yaml at once: what the sections require of each other, reported in one line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from ruamel.yaml import YAML

from bench import gpu
from llm.commands.check import Params, check_params
from llm.core import params
from llm.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
Change = Callable[[dict[str, Any]], Path]
LIBRARY = "finetune.tasks.library"


@pytest.fixture
def change(tmp_path: Path) -> Change:
    """Writes the shipped params with other values at dotted keys."""

    def write(values: dict[str, Any]) -> Path:
        path, content = tmp_path / "params.yaml", params.read(ROOT / "params.yaml")
        for key, value in values.items():
            *above, last = key.split(".")
            params.find(content, ".".join(above), path)[last] = value
        YAML(typ="safe", pure=True).dump(content, path)
        return path

    return write


def refusal(path: Path) -> str:
    """The message for a params file, without the name of the file."""
    with pytest.raises(UserError) as error:
        check_params(path)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{path}: ")


CONTEXT = "expected at most sample.context_length 256, got 257"
PATIENCE = {"pretrain.early_stopping_patience": 2, "pretrain.checkpoint_selection": "best", "prepare.split.val": 0.0}


PROBLEMS = [
    ({"evaluate.stride": 257}, f"evaluate.stride: {CONTEXT}"),
    ({f"{LIBRARY}.max_tokens": 257}, f"{LIBRARY}.max_tokens: {CONTEXT}"),
    ({f"{LIBRARY}.data": "data/rows"}, f"{LIBRARY}.data: expected a file, got data/rows"),
    ({"sample.weights": {"mine": 2.0}}, "sample.weights.mine: expected the name of a source (documentation)"),
    ({"sample.weights": {"documentation": 0.0}}, "sample.weights: expected a source to train on, got 0 for each one"),
    ({"tokenize.pretrained": "data/raw/t"}, "tokenize.pretrained: expected a path under data/given, got data/raw/t"),
    (
        {"pretrain.init_from": "data/given/no"},
        "pretrain.init_from: expected a file or folder, there is no data/given/no",
    ),
    ({f"{LIBRARY}.data": "data/no.csv"}, f"{LIBRARY}.data: expected a file, there is no data/no.csv"),
    ({f"{LIBRARY}.base": "models/no"}, f"{LIBRARY}.base: expected a Hugging Face folder, there is no models/no"),
    (
        PATIENCE,
        "pretrain.early_stopping_patience: expected held-out text (prepare.split.val above 0) to stop by, got 0",
    ),
    (
        {"pretrain.init": "previous_token_heads", "model.family": "gpt2"},
        "pretrain.init: expected random or null for a model without causal attention and rotary positions, "
        "got previous_token_heads",
    ),
    (
        {f"{LIBRARY}.method": {"kind": "last_k_blocks", "k": 6}},
        f"{LIBRARY}.method.k: expected at most model.n_layers 2, got 6",
    ),
]
FORMATS = [
    ({"model.family": "gru"}, "model.family"),
    ({"tokenize.kind": "char"}, "tokenize.kind bpe"),
    ({"tokenize.pattern": "cl100k"}, "tokenize.pattern qwen2, gpt2, llama3"),
]


@pytest.mark.parametrize(("changes", "message"), [*PROBLEMS, *FORMATS])
def test_sections_that_do_not_fit_are_named(changes: dict[str, Any], message: str, change: Change) -> None:
    found = refusal(change(changes))
    assert (found.startswith("export.formats: gguf-f16: ") and message in found) or found == message


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"evaluate.stride": 256, "memorise.prefix_tokens": 256, f"{LIBRARY}.max_tokens": 256, "evaluate.prompts": []},
        {f"{LIBRARY}.base": "models/finetuned/docstring", f"{LIBRARY}.max_tokens": 4096},  # of another base
        {"model.family": "gru", "export.formats": []},
        {"tokenize.pattern": "cl100k", "export.formats": ["onnx"]},
    ],
)
def test_valid_params_are_accepted(changes: dict[str, Any], change: Change) -> None:
    checked = check_params(change(changes)).model_dump()
    assert [key for key, value in changes.items() if params.find(checked, key, Path()) != value] == []


def test_a_file_that_dvc_tracks_need_not_exist(change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    for key, file, tracked in (
        ("data", "data/labeled/rows.csv", "data/labeled.dvc"),
        ("base", "models/other", "models/other.dvc"),
    ):
        path = change({f"{LIBRARY}.{key}": file})
        assert refusal(path).endswith(f"there is no {file}")
        (tmp_path / tracked).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / tracked).touch()
        check_params(path)


def test_all_problems_are_reported_at_once(change: Change) -> None:
    for changes in (
        {"sample.stride": "wide", "pretrain.max_steps": 0, "label.n_packages": 1},
        {"evaluate.stride": 999, f"{LIBRARY}.max_tokens": 999},
    ):
        message = refusal(change(changes))
        assert [key for key in changes if f"{key}: " not in message] == []


@pytest.mark.parametrize("of", ["shakespeare", "gpu"])
def test_the_params_of_the_bench_are_valid(of: str) -> None:
    path = ROOT / "bench" / "shakespeare.yaml"
    sections = params.read(path) if of == "shakespeare" else gpu.small_params(max_steps=20, compile="never")
    assert {"tokenize", "pretrain", "evaluate"} <= set(sections)
    for name, section in sections.items():
        params.check(Params.model_fields[name].annotation, section, name, path)


def test_a_base_that_llama_cpp_cannot_read_is_named(change: Change, tmp_path: Path, exported_folder: Path) -> None:
    folder = Path(shutil.copytree(exported_folder, tmp_path / "base"))
    path = change({"finetune.tasks.docstring.base": str(folder), "finetune.tasks.docstring.max_tokens": 40})
    check_params(path)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.save(str(folder / "tokenizer.json"))
    message = refusal(path)
    assert message.startswith("finetune.tasks.docstring.base: ")
    assert "export.formats: gguf-f16: " in message
