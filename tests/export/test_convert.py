"""Each format is written and loaded by its client; a file of another model ends a conversion, and is named later."""

import importlib.util
import shutil

import onnx
import pytest
import torch
from typer.testing import CliRunner

from llm.__main__ import app
from llm.core.errors import UserError
from llm.export import convert as module
from llm.export import gguf, verify
from llm.export.convert import convert, verify_export
from llm.export.hf.classifier import ClassifierInfo, write_classifier
from llm.model.classifier import Classifier

TEXT = "The river runs, the rain falls; 2024 déjà vu. <|endoftext|>\n" * 3


@pytest.fixture
def run(tmp_path, draw_gpt, small_tokenizer_file, one_process, onnx_file, monkeypatch):
    """A function that converts a small model; returns the figures and the names of the files."""

    def write_onnx(folder, model):
        return shutil.copytree(onnx_file.parent, folder) / onnx_file.name

    def run_convert(*formats: str, model=None, tokenizer_file=small_tokenizer_file):
        folders = tmp_path / "gguf", tmp_path / "onnx"
        figures = convert(model or draw_gpt(), tokenizer_file, formats, 1, *folders)
        return figures, {path.name for folder in folders for path in folder.iterdir()}

    monkeypatch.setattr(module, "write_onnx", write_onnx)
    return run_convert


def test_every_file_has_its_figures_and_a_line(run, tmp_path, exported_folder, capsys):
    figures, files = run("gguf-q8_0", "gguf-f32", "onnx")
    assert files == {"model-q8_0.gguf", "model-f32.gguf", "Modelfile", "model.onnx"}
    assert (tmp_path / "gguf/Modelfile").read_text().startswith("FROM ./model-q8_0.gguf\n")
    exact, rounded = figures["gguf"]["gguf-f32"], figures["gguf"]["gguf-q8_0"]
    assert exact["max_logprob_difference"] < 1e-4 < rounded["max_logprob_difference"]
    assert exact["bytes"] == (tmp_path / "gguf/model-f32.gguf").stat().st_size
    assert figures["onnx"].pop("max_logit_difference") < 1e-4 and figures["onnx"].pop("mean_divergence") < 1e-6
    size = (tmp_path / "onnx/model.onnx").stat().st_size
    counts = {"tokenization_mismatches": 0, "generation_mismatches": 0, "continuations": 20}
    assert figures["onnx"] == {"bytes": size} | counts
    assert capsys.readouterr().err == ""
    table, wrong = verify_export(exported_folder, 1, TEXT, converted=tmp_path)
    transformers, exact, rounded, graph = (line.split() for line in table.splitlines()[1:])
    assert (transformers[:2], exact[:2]) == (["model.safetensors", "Transformers"], ["model-f32.gguf", "llama.cpp"])
    assert (graph[:4], wrong) == (["model.onnx", "ONNX", "Runtime", f"{size:,}"], [])
    assert [line[5] for line in (transformers, exact, rounded)] == ["1e-06", "1e-06", "0.05"]
    assert transformers[6:] == ["0", "of", "11", "0", "of", "25", "–"]
    assert graph[6:] == ["1e-06", "–", "0", "of", "20", "–"]
    assert exact[6:9] == rounded[6:9] == ["0", "of", "22"]
    assert abs(float(exact[-1])) < 1e-4 < abs(float(rounded[-1])) < 1


def test_the_files_of_another_model_are_named(run, tmp_path, draw_gpt, exported_folder, monkeypatch):
    shutil.copytree(exported_folder, tmp_path / "hf")
    run("gguf-f32", "onnx", model=draw_gpt())
    gguf.write_gguf(tmp_path / "gguf", draw_gpt(seed=2), exported_folder / "tokenizer.json", "gguf-f32")
    graph = onnx.load(tmp_path / "onnx/model.onnx")
    weight = next(tensor for tensor in graph.graph.initializer if tensor.name == "model.head.weight")
    weight.raw_data = (1.5 * onnx.numpy_helper.to_array(weight)).tobytes()
    onnx.save(graph, tmp_path / "onnx/model.onnx")
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["verify-export", str(tmp_path)])
    assert isinstance(shown.exception, UserError)
    assert str(shown.exception).endswith(" model-f32.gguf, model.onnx") and len(shown.output.splitlines()) == 4


def test_a_long_text_is_compared_in_parts(run, tmp_path, exported_folder):
    run("gguf-f32")
    table, wrong = verify_export(exported_folder, 1, "déjà vu " * 10_000, converted=tmp_path)
    assert (table.splitlines()[2].split()[6:9], wrong) == (["0", "of", "23"], [])


def test_a_modelfile_that_ollama_would_misread_is_left_out(run, tokenizer_of, capsys):
    figures, files = run("gguf-f16", tokenizer_file=tokenizer_of("gpt2"))
    assert figures["gguf"]["Modelfile"].keys() == {"skipped"}
    assert files == {"model-f16.gguf", "skipped.json"}
    assert capsys.readouterr().err.startswith("export: Modelfile skipped: expected the split pattern qwen2")


def test_a_file_that_its_client_reads_otherwise_ends_it(run, draw_gpt, monkeypatch):
    monkeypatch.setattr(gguf, "halves_to_pairs", lambda weight, head_dim: weight)
    with pytest.raises(UserError, match=r"formats: gguf-f16: .* the same .* in llama\.cpp .* of at most 0\.001"):
        run("gguf-f16", model=draw_gpt(family="llama"))
    with pytest.raises(UserError, match=r"formats: onnx: .* the same .* in ONNX Runtime .* 20 of 20 other texts"):
        run("onnx", model=draw_gpt(seed=2))


def test_a_trained_model_with_large_logits_keeps_16_bits(run, draw_gpt):
    """Rounding moves some log-probabilities by more than 0.02 nats, and changes no text."""
    model = draw_gpt(tie_embeddings=False)
    with torch.no_grad():
        model.head.weight.mul_(30)
    figures = run("gguf-f16", model=model)[0]["gguf"]["gguf-f16"]
    assert figures["max_logprob_difference"] > 2e-2 and figures["mean_divergence"] < 1e-3


@pytest.mark.parametrize(("format_", "package"), [("gguf-f16", "xllamacpp"), ("onnx", "onnxruntime")])
def test_without_its_client_a_file_is_unverified(run, monkeypatch, capsys, format_, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    figures, _ = run(format_)
    described = figures["onnx"] if format_ == "onnx" else figures["gguf"][format_]
    assert described.keys() == {"bytes", "unverified"}
    assert f"export: {format_} unverified: expected the package {package}" in capsys.readouterr().err


def test_a_classifier_is_compared(tmp_path, draw_gpt, small_tokenizer_file, monkeypatch):
    model = Classifier(draw_gpt(family="gpt2", n_kv_heads=2, tie_embeddings=False), 3)
    with torch.no_grad():
        model.score.weight.normal_(generator=torch.Generator().manual_seed(7))
    info = ClassifierInfo(["rain", "river", "sun"], ["text"], None, 40)
    write_classifier(tmp_path, model, small_tokenizer_file, info)
    table, wrong = verify_export(tmp_path, 1, TEXT)
    cells = table.splitlines()[1].split()
    assert (cells[:2], cells[6:], wrong) == (["model.safetensors", "Transformers"], ["0", "of", "6", "–", "–"], [])
    assert 0 <= float(cells[3]) <= 1e-4
    monkeypatch.setattr(verify, "classifier_ids", lambda texts, special, most: texts[0][:most])
    table, wrong = verify_export(tmp_path, 1)
    assert wrong == ["model.safetensors"] and "5 of 5" in table
