"""Each format is written, verified by its client and described; a file of another model ends the conversion."""

import importlib.util
import shutil

import pytest
import torch

from llm.core.errors import UserError
from llm.export import convert as module
from llm.export import gguf
from llm.export.convert import convert
from llm.export.onnx import FILE


@pytest.fixture
def run(tmp_path, draw_gpt, small_tokenizer_file, one_process, onnx_file, monkeypatch):
    """A function that converts a small model; returns the figures and the names of the files."""
    monkeypatch.setattr(module, "write_onnx", lambda folder, model: shutil.copytree(onnx_file.parent, folder) / FILE)

    def run_convert(*formats: str, model=None, tokenizer_file=small_tokenizer_file, **chat):
        folders = tmp_path / "gguf", tmp_path / "onnx"
        figures = convert(model or draw_gpt(), tokenizer_file, formats, 1, *folders, **chat)
        return figures, {path.name for folder in folders for path in folder.iterdir()}

    return run_convert


def test_every_format_has_its_files_and_figures(run, tmp_path, capsys):
    figures, files = run("gguf-q8_0", "gguf-f32", "onnx")
    assert files == {"model-q8_0.gguf", "model-f32.gguf", "Modelfile", "model.onnx"}
    assert (tmp_path / "gguf/Modelfile").read_text().startswith("FROM ./model-q8_0.gguf\n")
    exact, rounded = figures["gguf"]["gguf-f32"], figures["gguf"]["gguf-q8_0"]
    assert exact["max_logprob_difference"] < 1e-4 < rounded["max_logprob_difference"]
    assert figures["onnx"].pop("max_logit_difference") < 1e-4
    assert figures["onnx"].pop("mean_divergence") < 1e-6
    size = (tmp_path / "onnx/model.onnx").stat().st_size
    counts = {"tokenization_mismatches": 0, "generation_mismatches": 0, "continuations": 20}
    assert figures["onnx"] == {"bytes": size} | counts
    assert exact["bytes"] == (tmp_path / "gguf/model-f32.gguf").stat().st_size
    assert capsys.readouterr().err == ""


def test_a_modelfile_that_ollama_would_misread_is_left_out(run, tokenizer_of, capsys):
    figures, files = run("gguf-f16", tokenizer_file=tokenizer_of("gpt2"))
    assert figures["gguf"]["Modelfile"].keys() == {"skipped"}
    assert files == {"model-f16.gguf", "skipped.json"}
    assert capsys.readouterr().err.startswith("export: Modelfile skipped: expected the split pattern qwen2")


def test_a_file_that_its_client_reads_otherwise_ends_it(run, draw_gpt, monkeypatch):
    monkeypatch.setattr(gguf, "halves_to_pairs", lambda weight, head_dim: weight)
    with pytest.raises(
        UserError, match=r"formats: gguf-f16: .*: expected the same .* in llama\.cpp .* of at most 0\.001"
    ):
        run("gguf-f16", model=draw_gpt(family="llama"))
    with pytest.raises(
        UserError, match=r"formats: onnx: .*: expected the same .* in ONNX Runtime .* 20 of 20 other texts"
    ):
        run("onnx", model=draw_gpt(seed=2))


def test_a_trained_model_with_large_logits_keeps_16_bits(run, draw_gpt):
    """Rounding moves some log-probabilities by more than 0.02 nats, and changes no text."""
    model = draw_gpt(tie_embeddings=False)
    with torch.no_grad():
        model.head.weight.mul_(30)
    figures, _ = run("gguf-f16", model=model)
    assert figures["gguf"]["gguf-f16"]["max_logprob_difference"] > 2e-2
    assert figures["gguf"]["gguf-f16"]["mean_divergence"] < 1e-3


@pytest.mark.parametrize(("format_", "package"), [("gguf-f16", "xllamacpp"), ("onnx", "onnxruntime")])
def test_without_its_client_a_file_is_unverified(run, monkeypatch, capsys, format_, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    figures, _ = run(format_)
    described = figures["onnx"] if format_ == "onnx" else figures["gguf"][format_]
    assert described.keys() == {"bytes", "unverified"}
    assert f"export: {format_} unverified: expected the package {package}" in capsys.readouterr().err
