"""The whole params file at once: what one section asks of another, all of it told in one line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench import gpu
from llm.commands.check import Params, check_params
from llm.commands.presets import apply_preset
from llm.core import params
from llm.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def change(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """A writer of the default params with other values under some dotted keys."""

    def write(values: dict[str, Any]) -> Path:
        path = Path(shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml"))
        apply_preset(ROOT / "presets" / "default.yaml", path)
        content = params.read(path)
        for key, value in values.items():
            *above, last = key.split(".")
            params.find(content, ".".join(above), path)[last] = value
        YAML(typ="safe", pure=True).dump(content, path)
        return path

    return write


def test_the_shipped_params_are_right() -> None:
    assert check_params(ROOT / "params.yaml").sample.context_length > 0


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("evaluate.stride", 257, "evaluate.stride: wanted at most sample.context_length 256, given 257"),
        (
            "memorise.prefix_tokens",
            257,
            "memorise.prefix_tokens: wanted at most sample.context_length 256, given 257",
        ),
        (
            "finetune.tasks.library.max_tokens",
            300,
            "finetune.tasks.library.max_tokens: wanted at most sample.context_length 256, given 300",
        ),
        ("finetune.tasks.docstring.data", "data/rows", "finetune.tasks.docstring.data: wanted a file, given data/rows"),
        ("model.n_heads", 5, "model: wanted d_model divisible by n_heads, given d_model 192 and n_heads 5"),
        ("prepare.split.test", 0.97, "prepare.split: wanted val + test below 1, given 0.05 + 0.97"),
        ("sample.weights", {"mine": 2.0}, "sample.weights.mine: wanted the name of a source (documentation)"),
        ("sample.strid", 1, "sample.strid: unknown key"),
        ("sample.weights", {"documentation": 0.0}, "sample.weights: expected a source to train on, got 0 for each one"),
        ("label.min_chars", 600, "label.min_chars: expected at most label.max_chars 500, got 600"),
        (
            "tokenize.pretrained",
            "data/raw/t.json",
            "tokenize.pretrained: expected a path under data/given, got data/raw/t.json",
        ),
        (
            "pretrain.init_from",
            "data/given/none",
            "pretrain.init_from: expected a file or folder, there is no data/given/none",
        ),
        (
            "finetune.tasks.library.data",
            "data/labeled/none.csv",
            "finetune.tasks.library.data: expected a file, there is no data/labeled/none.csv",
        ),
        (
            "finetune.tasks.library.base",
            "models/finetuned/none",
            "finetune.tasks.library.base: expected a Hugging Face folder, there is no models/finetuned/none",
        ),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_file_the_key_and_what_was_given(
    key: str, value: Any, sentence: str, change: Callable[[dict[str, Any]], Path]
) -> None:
    path = change({key: value})
    with pytest.raises(UserError) as error:
        check_params(path)
    assert str(error.value) == f"{path}: {sentence}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("evaluate.stride", 256),
        ("memorise.prefix_tokens", 256),
        ("finetune.tasks.library.max_tokens", 256),
        ("evaluate.prompts", []),
    ],
)
def test_a_value_at_its_bound_is_right(key: str, value: Any, change: Callable[[dict[str, Any]], Path]) -> None:
    assert params.find(check_params(change({key: value})).model_dump(), key, Path()) == value


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"pretrain.early_stopping_patience": 2, "pretrain.checkpoint_selection": "best", "prepare.split.val": 0.0},
            "pretrain.early_stopping_patience: expected held-out text (prepare.split.val above 0) to stop by, got 0",
        ),
        (
            {"pretrain.init": "previous_token_heads", "model.family": "gpt2"},
            "pretrain.init: expected random or null for a model without causal attention and rotary positions, "
            "got previous_token_heads",
        ),
        (
            {"finetune.tasks.library.method.kind": "last_k_blocks", "finetune.tasks.library.method.k": 6},
            "finetune.tasks.library.method.k: expected at most model.n_layers 2, got 6",
        ),
        (
            {"finetune.tasks.library.method.kind": "lora", "finetune.tasks.library.method.rank": 100_000},
            "finetune.tasks.library.method.rank: expected at most model.d_model 192, got 100000",
        ),
    ],
)
def test_sections_that_do_not_fit_each_other_are_named(
    values: dict[str, Any], sentence: str, change: Callable[[dict[str, Any]], Path]
) -> None:
    path = change(values)
    with pytest.raises(UserError) as error:
        check_params(path)
    assert str(error.value) == f"{path}: {sentence}"


@pytest.mark.parametrize(
    ("key", "file", "tracked"),
    [
        ("data", "data/labeled/rows.csv", "data/labeled/rows.csv.dvc"),
        ("data", "data/labeled/rows.csv", "data/labeled.dvc"),
        ("base", "models/other", "models/other.dvc"),
    ],
)
def test_a_file_that_dvc_can_bring_back_need_not_be_there(
    key: str,
    file: str,
    tracked: str,
    change: Callable[[dict[str, Any]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = change({f"finetune.tasks.library.{key}": file})
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"there is no {file}$"):
        check_params(path)
    (tmp_path / tracked).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / tracked).touch()
    check_params(path)


def test_a_task_may_begin_from_another_tasks_model(change: Callable[[dict[str, Any]], Path]) -> None:
    path = change({"finetune.tasks.library.base": "models/finetuned/docstring"})
    assert check_params(path).finetune.tasks["library"].base == "models/finetuned/docstring"


def test_the_context_binds_no_task_that_starts_from_another_model(
    change: Callable[[dict[str, Any]], Path], tmp_path: Path
) -> None:
    path = change({"finetune.tasks.library.base": str(tmp_path), "finetune.tasks.library.max_tokens": 4096})
    assert check_params(path).finetune.tasks["library"].max_tokens == 4096


def test_all_that_is_wrong_is_told_at_once(change: Callable[[dict[str, Any]], Path]) -> None:
    within = change({"sample.stride": "wide", "pretrain.max_steps": 0, "label.n_packages": 1})
    with pytest.raises(UserError) as error:
        check_params(within)
    assert all(key in str(error.value) for key in ("sample.stride", "pretrain.max_steps", "label.n_packages"))
    between = change({"evaluate.stride": 999, "finetune.tasks.library.max_tokens": 999})
    with pytest.raises(UserError) as error:
        check_params(between)
    assert all(key in str(error.value) for key in ("evaluate.stride", "finetune.tasks.library.max_tokens"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("of", ["shakespeare", "gpu"])
def test_the_params_of_the_bench_are_right_as_far_as_its_stages_go(of: str) -> None:
    path = ROOT / "bench" / "shakespeare.yaml"
    sections = params.read(path) if of == "shakespeare" else gpu.small_params(max_steps=20, compile="never")
    assert {"tokenize", "pretrain", "evaluate"} <= set(sections)
    for name, section in sections.items():
        params.check(Params.model_fields[name].annotation, section, name, path)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("model.family", "gru", "wanted a model that Transformers knows: model.family"),
        ("model.positions", "learned", "wanted a model that Transformers knows: model.positions rope"),
        ("tokenize.kind", "char", "expected tokenize.kind bpe"),
        ("tokenize.pattern", "cl100k", "expected tokenize.pattern qwen2, gpt2, llama3"),
    ],
)
def test_a_format_that_cannot_be_written_is_refused(
    change: Callable[[dict[str, Any]], Path], key: str, value: str, sentence: str
) -> None:
    path = change({key: value})
    with pytest.raises(UserError) as error:
        check_params(path)
    assert str(error.value).startswith(f"{path}: export.formats: gguf-f16: {sentence}")
    assert str(error.value).endswith("; or leave the format out")


@pytest.mark.parametrize(
    "changes",
    [
        {"model.family": "qwen2"},
        {"model.family": "gru", "export.formats": []},
        {"tokenize.kind": "char", "export.formats": []},
        {"tokenize.pattern": "cl100k", "export.formats": ["onnx"]},
    ],
)
def test_what_can_be_exported_is_accepted(change: Callable[[dict[str, Any]], Path], changes: dict[str, Any]) -> None:
    assert check_params(change(changes)).export.formats == changes.get("export.formats", ["gguf-f16"])


def test_a_base_that_llama_cpp_cannot_have_is_named(
    change: Callable[[dict[str, Any]], Path], tmp_path: Path, exported_folder: Path
) -> None:
    import tokenizers

    folder = Path(shutil.copytree(exported_folder, tmp_path / "base"))
    path = change({"finetune.tasks.docstring.base": str(folder), "finetune.tasks.docstring.max_tokens": 40})
    check_params(path)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(
        UserError, match=r"finetune\.tasks\.docstring\.base: .*: export\.formats: gguf-f16: wanted a byte"
    ):
        check_params(path)
