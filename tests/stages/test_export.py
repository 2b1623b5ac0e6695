"""The export stage writes a folder that Transformers loads, or nothing at all; and what other programs can have."""

import json
from pathlib import Path

import pytest
import tokenizers
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm.core.errors import UserError
from llm.export import verify
from llm.export.hf.folder import FILES
from llm.export.params import ExportParams
from llm.model.weights import save_model
from llm.tokens.bpe import train_bpe
from llm.tokens.tokenizer import Tokenizer
from stages.export import main

OPTIONS = ("config", "model", "generation", "tokenizer_copy", "tokenizer_config")


@pytest.fixture
def weights(tmp_path, draw_gpt) -> Path:
    save_model(tmp_path / "pretrained", draw_gpt())
    return tmp_path / "pretrained"


def _export(weights: Path, tokenizer: Path, folder: Path, formats: tuple[str, ...] = (), **other: Path) -> dict:
    outputs = {option: folder / name for option, name in zip(OPTIONS, FILES, strict=True)} | other
    outputs |= {"gguf": folder / "gguf", "onnx": folder / "onnx", "metrics": folder.parent / "export.json"}
    main(seed=1, export=ExportParams(formats=list(formats)), weights=weights, tokenizer=tokenizer, **outputs)
    return json.loads((folder.parent / "export.json").read_text())


@torch.no_grad()
def test_transformers_loads_what_was_pretrained(tmp_path, weights, draw_gpt, small_tokenizer_file):
    metrics = _export(weights, small_tokenizer_file, tmp_path / "out/export")
    folder = tmp_path / "out/export"
    assert {path.name for path in folder.iterdir()} == {*FILES, "gguf", "onnx"}
    # A reason instead of an empty folder, of which DVC would warn.
    for format_ in ("gguf", "onnx"):
        assert _read(folder / format_) == {"skipped.json": {"skipped": f"{format_} is not in export.formats"}}
    ids = torch.arange(6, 46)[None]
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(theirs(ids).logits, draw_gpt()(ids), atol=1e-4, rtol=0)
    assert metrics["max_logit_difference"] < 1e-4
    assert metrics["tokenization_mismatches"] == 0
    assert metrics["bytes"] == sum((folder / name).stat().st_size for name in FILES)
    assert metrics["gguf"] == metrics["onnx"] == {}


def test_a_second_run_writes_the_same_bytes(tmp_path, weights, small_tokenizer_file):
    for name in ("first", "second"):
        _export(weights, small_tokenizer_file, tmp_path / name / "export", ("gguf-f16", "gguf-f32"))
    for name in (*FILES, "gguf/model-f16.gguf", "gguf/model-f32.gguf", "gguf/Modelfile", "../export.json"):
        assert (tmp_path / "first/export" / name).read_bytes() == (tmp_path / "second/export" / name).read_bytes()


def test_llama_cpp_loads_what_was_pretrained(tmp_path, weights, small_tokenizer_file, capsys):
    metrics = _export(weights, small_tokenizer_file, tmp_path / "export", ("gguf-f32",))["gguf"]
    assert {path.name for path in (tmp_path / "export/gguf").iterdir()} == {"model-f32.gguf", "Modelfile"}
    assert metrics["gguf-f32"].pop("max_logprob_difference") < 1e-4
    assert metrics["gguf-f32"].pop("mean_divergence") < 1e-6
    size = (tmp_path / "export/gguf/model-f32.gguf").stat().st_size
    same = {"tokenization_mismatches": 0, "generation_mismatches": 0, "continuations": 25}
    assert metrics == {"gguf-f32": {"bytes": size} | same}
    assert "export:" not in capsys.readouterr().err


def _read(folder: Path) -> dict[str, object]:
    return {path.name: json.loads(path.read_text()) for path in folder.iterdir()}


def test_onnx_runtime_loads_what_was_pretrained(tmp_path, draw_gpt, small_tokenizer_file, capsys):
    save_model(tmp_path / "pretrained", draw_gpt(n_layers=1))
    metrics = _export(tmp_path / "pretrained", small_tokenizer_file, tmp_path / "export", ("onnx",))
    size = (tmp_path / "export/onnx/model.onnx").stat().st_size
    assert [path.name for path in (tmp_path / "export/onnx").iterdir()] == ["model.onnx"]
    assert _read(tmp_path / "export/gguf") == {"skipped.json": {"skipped": "gguf is not in export.formats"}}
    assert metrics["gguf"] == {}
    assert metrics["onnx"].pop("max_logit_difference") < 1e-4
    assert metrics["onnx"].pop("mean_divergence") < 1e-6
    same = {"tokenization_mismatches": 0, "generation_mismatches": 0, "continuations": 20}
    assert metrics["onnx"] == {"bytes": size} | same
    assert "export:" not in capsys.readouterr().err


def test_what_only_llama_cpp_cannot_have_is_refused_where_it_was_asked_for(tmp_path, weights):
    train_bpe(["The river runs, the rain falls. "], 320, "cl100k").save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"export\.formats: gguf-f16: .* given cl100k"):
        _export(weights, tmp_path / "tokenizer.json", tmp_path / "export", ("gguf-f16",))
    assert list((tmp_path / "export/gguf").iterdir()) == []
    assert not (tmp_path / "export.json").exists()
    assert _export(weights, tmp_path / "tokenizer.json", tmp_path / "again")["max_logit_difference"] < 1e-4


def test_a_tokenizer_that_transformers_reads_otherwise_is_refused(tmp_path, weights, small_tokenizer_file, monkeypatch):
    ours = Tokenizer.load(small_tokenizer_file)
    monkeypatch.setattr(verify, "open_tokenizer", lambda folder: ours)
    monkeypatch.setattr(ours, "encode", lambda text: [7])
    with pytest.raises(UserError, match="10 of 10 texts with other ids, 5 of 25 other texts") as caught:
        _export(weights, small_tokenizer_file, tmp_path / "out/export")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/export.json").exists()


def test_a_text_begins_with_one_token_in_every_client(tmp_path, weights, small_tokenizer_file):
    _export(weights, small_tokenizer_file, tmp_path / "export")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "export")
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "export/tokenizer.json"))
    assert theirs("The rain")["input_ids"][0] == library.encode("The rain").ids[0] == theirs.bos_token_id == 0


@pytest.mark.parametrize("other", ["elsewhere/model.safetensors", "export/weights.safetensors"])
def test_files_that_make_no_one_folder_are_refused(tmp_path, weights, small_tokenizer_file, other):
    with pytest.raises(UserError, match="in one folder") as caught:
        _export(weights, small_tokenizer_file, tmp_path / "export", model=tmp_path / other)
    assert str(tmp_path / other) in str(caught.value)


def test_weights_that_are_not_there_are_one_line(tmp_path, small_tokenizer_file):
    with pytest.raises(UserError, match=r"config\.json") as caught:
        _export(tmp_path / "nothing", small_tokenizer_file, tmp_path / "export")
    assert "\n" not in str(caught.value)
