"""ONNX Runtime computes the same as our model, with and without a cache, and a difference is found."""

import importlib.util

import onnx
import onnxruntime
import pytest

from llm.core.errors import UserError
from llm.export import onnx as export
from llm.export.onnx import compare_with_onnxruntime, files_of, write_onnx

CACHE = [f"{{}}.{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]


@pytest.fixture
def model(draw_gpt):
    return draw_gpt()


def test_names_and_open_axes_are_those_of_optimum(onnx_file):
    session = onnxruntime.InferenceSession(onnx_file)
    inputs = {given.name: (given.type, given.shape) for given in session.get_inputs()}
    outputs = {found.name: (found.type, found.shape) for found in session.get_outputs()}
    past, total = "past_sequence_length", "past_sequence_length + sequence_length"
    assert inputs.pop("input_ids") == ("tensor(int64)", ["batch_size", "sequence_length"])
    assert outputs.pop("logits") == ("tensor(float)", ["batch_size", "sequence_length", 320])
    assert list(inputs) == [name.format("past_key_values") for name in CACHE]
    assert list(outputs) == [name.format("present") for name in CACHE]
    assert all(value == ("tensor(float)", ["batch_size", 1, past, 12]) for value in inputs.values())
    assert all(value == ("tensor(float)", ["batch_size", 1, total, 12]) for value in outputs.values())


def test_the_same_model_gives_the_same_bytes(tmp_path, onnx_file, model):
    """Without a path, and with a tied matrix once."""
    first, second = onnx_file.read_bytes(), write_onnx(tmp_path, model).read_bytes()
    assert first == second
    assert b".py" not in first
    assert first.count(model.embedding.weight.detach().numpy().tobytes()) == 1


@pytest.mark.parametrize(
    "shape",
    [
        {"family": "gpt2", "attention": "multi_head", "n_heads": 3, "context_length": 6},
        {"family": "llama", "n_heads": 4, "n_kv_heads": 2, "positions": "sinusoidal", "tie_embeddings": False},
    ],
    ids=lambda shape: shape["family"],
)
def test_every_kind_of_model_is_traced(tmp_path, draw_gpt, monkeypatch, shape):
    model, is_large = draw_gpt(n_layers=1, **shape), shape["family"] == "llama"
    monkeypatch.setattr(export, "MAX_BYTES", 0 if is_large else export.MAX_BYTES)
    parity = compare_with_onnxruntime(write_onnx(tmp_path, model), model, seed=1)
    assert parity.agrees and parity.max_difference < 1e-4 and parity.continuations == 20
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in files_of(tmp_path)}
    assert names == ({"model.onnx", "model.onnx_data"} if is_large else {"model.onnx"})


def test_a_model_that_cannot_be_traced_is_one_line(tmp_path, draw_gpt):
    for shape, expected in ({"family": "gru"}, "model with a cache"), ({"context_length": 5}, "context of at least 6"):
        with pytest.raises(UserError, match=f"expected a {expected}"):
            write_onnx(tmp_path / "folder", draw_gpt(**shape))
    assert not (tmp_path / "folder").exists()


def test_an_exchanged_cache_is_found(onnx_file, model, tmp_path):
    """Its first call is right, only those after it are not."""
    graph = onnx.load(onnx_file)
    swapped = {"present.0.key": "present.0.value", "present.0.value": "present.0.key"}
    for node in graph.graph.node:
        node.output[:] = [swapped.get(name, name) for name in node.output]
        node.input[:] = [swapped.get(name, name) for name in node.input]
    onnx.save(graph, tmp_path / "model.onnx")
    parity = compare_with_onnxruntime(tmp_path / "model.onnx", model, seed=1)
    assert parity.max_difference > 1e-3 and parity.generation_mismatches > 0


def test_an_invalid_file_is_one_line(onnx_file, model, tmp_path, draw_gpt):
    (tmp_path / "model.onnx").write_bytes(onnx_file.read_bytes()[:-1000] + b"\xff" * 1000)
    for path, other in ((tmp_path / "model.onnx", model), (onnx_file, draw_gpt(n_layers=3))):
        with pytest.raises(UserError, match=r"model\.onnx: expected a file that ONNX Runtime runs") as caught:
            compare_with_onnxruntime(path, other, seed=1)
        assert "\n" not in str(caught.value)


def test_a_missing_client_is_one_line(onnx_file, model, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    with pytest.raises(UserError, match=r"expected the package onnxruntime, it is not installed \(make extras\)"):
        compare_with_onnxruntime(onnx_file, model, 1)
