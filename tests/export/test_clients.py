"""Every file of an export is loaded by its client, and one of another model is named."""

import shutil

import onnx
import pytest
import torch
from typer.testing import CliRunner

from llm.__main__ import app
from llm.core.errors import UserError
from llm.export import verify
from llm.export.convert import verify_export
from llm.export.gguf import write_gguf
from llm.export.hf.classifier import ClassifierInfo, write_classifier
from llm.model.classifier import Classifier

TEXT = "The river runs, the rain falls; 2024 déjà vu. <|endoftext|>\n" * 3


@pytest.fixture
def folder(tmp_path, exported_folder, draw_gpt, small_tokenizer_file):
    """An export with two GGUF files."""
    shutil.copytree(exported_folder, tmp_path / "export/hf")
    for format_ in ("gguf-f32", "gguf-q8_0"):
        write_gguf(tmp_path / "export/gguf", draw_gpt(), small_tokenizer_file, format_)
    return tmp_path / "export"


def test_every_file_is_a_line_of_the_table(folder, one_process):
    table, wrong = verify_export(folder, 1, TEXT)
    transformers, exact, rounded = (line.split() for line in table.splitlines()[1:])
    assert (transformers[:2], exact[:2]) == (["model.safetensors", "Transformers"], ["model-f32.gguf", "llama.cpp"])
    assert (rounded[0], wrong) == ("model-q8_0.gguf", [])
    assert [line[5] for line in (transformers, exact, rounded)] == ["1e-06", "1e-06", "0.05"]
    assert transformers[6:] == ["0", "of", "11", "0", "of", "25", "–"]
    assert exact[6:9] == rounded[6:9] == ["0", "of", "22"]
    assert abs(float(exact[-1])) < 1e-4 < abs(float(rounded[-1])) < 1
    (folder / "gguf/model-q8_0.gguf").unlink()
    table, wrong = verify_export(folder / "hf", 1, "déjà vu " * 10_000, converted=folder)
    assert (table.splitlines()[2].split()[6:9], wrong) == (["0", "of", "23"], [])


def test_the_file_of_another_model_is_named(folder, draw_gpt, small_tokenizer_file, one_process, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_gguf(folder / "gguf", draw_gpt(seed=2), small_tokenizer_file, "gguf-f32")
    shown = CliRunner().invoke(app, ["verify-export", str(folder)])
    assert isinstance(shown.exception, UserError)
    assert str(shown.exception).endswith(" model-f32.gguf")
    assert len(shown.output.splitlines()) == 4


def test_a_graph_is_compared(tmp_path, exported_folder, onnx_file):
    shutil.copytree(exported_folder, tmp_path / "hf")
    file = shutil.copytree(onnx_file.parent, tmp_path / "onnx") / onnx_file.name
    table, wrong = verify_export(tmp_path, 1)
    cells = table.splitlines()[2].split()
    assert cells[:4] == ["model.onnx", "ONNX", "Runtime", f"{file.stat().st_size:,}"]
    assert (cells[6:], wrong) == (["1e-06", "–", "0", "of", "20", "–"], [])
    graph = onnx.load(file)
    weight = next(tensor for tensor in graph.graph.initializer if tensor.name == "model.head.weight")
    weight.raw_data = (1.5 * onnx.numpy_helper.to_array(weight)).tobytes()
    onnx.save(graph, file)
    assert verify_export(tmp_path, 1)[1] == ["model.onnx"]


def test_a_classifier_is_compared(tmp_path, draw_gpt, small_tokenizer_file, monkeypatch):
    model = Classifier(draw_gpt(family="gpt2", n_kv_heads=2, tie_embeddings=False), 3)
    with torch.no_grad():
        model.score.weight.normal_(generator=torch.Generator().manual_seed(7))
    info = ClassifierInfo(["rain", "river", "sun"], ["text"], None, 40)
    write_classifier(tmp_path, model, small_tokenizer_file, info)
    table, wrong = verify_export(tmp_path, 1, TEXT)
    (cells,) = (line.split() for line in table.splitlines()[1:])
    assert cells[:2] == ["model.safetensors", "Transformers"]
    assert (cells[6:], wrong) == (["0", "of", "6", "–", "–"], [])
    assert 0 <= float(cells[3]) <= 1e-4
    monkeypatch.setattr(verify, "classifier_ids", lambda texts, special, most: texts[0][:most])
    table, wrong = verify_export(tmp_path, 1)
    assert wrong == ["model.safetensors"] and "5 of 5" in table
