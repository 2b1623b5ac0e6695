"""ONNX Runtime computes what our model computes, with and without a cache; what it reads otherwise is found."""

import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from llm.core.errors import UserError
from llm.export import onnx as export
from llm.export.clients import verify_export
from llm.export.onnx import (
    compare_with_onnxruntime,
    continue_texts,
    export_onnx,
    files_of,
    input_names,
    output_names,
    write_onnx,
)

CACHE = [f"{{}}.{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]


@pytest.fixture(scope="module")
def model(draw_gpt):
    return draw_gpt()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    """A file of two layers. Only to be read."""
    return write_onnx(tmp_path_factory.mktemp("onnx") / "new", model)


@pytest.fixture
def written(file, monkeypatch):
    """`write_onnx` without what takes long: whatever the model, it writes the file above."""
    monkeypatch.setattr(export, "write_onnx", lambda folder, model: shutil.copy(file, folder / file.name))


def test_inputs_and_outputs_have_the_names_and_the_open_axes_that_other_programs_know(file):
    session = onnxruntime.InferenceSession(file)
    inputs = {given.name: (given.type, given.shape) for given in session.get_inputs()}
    outputs = {told.name: (told.type, told.shape) for told in session.get_outputs()}
    past, total = "past_sequence_length", "past_sequence_length + sequence_length"
    assert inputs.pop("input_ids") == ("tensor(int64)", ["batch_size", "sequence_length"])
    assert outputs.pop("logits") == ("tensor(float)", ["batch_size", "sequence_length", 320])
    assert list(inputs) == [name.format("past_key_values") for name in CACHE]
    assert list(outputs) == [name.format("present") for name in CACHE]
    assert all(value == ("tensor(float)", ["batch_size", 1, past, 12]) for value in inputs.values())
    assert all(value == ("tensor(float)", ["batch_size", 1, total, 12]) for value in outputs.values())


@torch.no_grad()
@pytest.mark.parametrize("pieces", [(48,), (1, 1, 1), (7, 1, 40)])
@pytest.mark.parametrize("n_texts", [1, 3])
def test_a_text_in_pieces_has_the_logits_of_the_whole(file, model, pieces, n_texts):
    session = onnxruntime.InferenceSession(file)
    ids = torch.randint(0, 320, (n_texts, sum(pieces)), generator=torch.Generator().manual_seed(3))
    past = [np.zeros((n_texts, 1, 0, 12), dtype=np.float32)] * 4
    told = []
    for piece in ids.split(pieces, dim=1):
        given = dict(zip([name.format("past_key_values") for name in CACHE], past, strict=True))
        logits, *past = session.run(None, {"input_ids": piece.numpy()} | given)
        told.append(logits)
    assert past[0].shape == (n_texts, 1, sum(pieces), 12)
    torch.testing.assert_close(torch.from_numpy(np.concatenate(told, axis=1)), model(ids), atol=1e-4, rtol=0)


def test_the_same_model_gives_the_same_bytes_without_a_path_and_a_tied_matrix_once(tmp_path, draw_gpt):
    shape = {"n_layers": 1, "vocab_size": 4096}
    first, second = (write_onnx(tmp_path / name, draw_gpt(**shape)).read_bytes() for name in ("first", "second"))
    assert first == second
    assert b".py" not in first
    n_weights = draw_gpt(**shape).n_parameters()
    assert 4 * n_weights < len(first) < 4 * n_weights + 120_000


@pytest.mark.parametrize(
    "shape",
    [
        {"family": "gpt2", "attention": "multi_head", "n_heads": 3},
        {"family": "qwen2", "n_heads": 4, "n_kv_heads": 2, "positions": "sinusoidal", "context_length": 3},
    ],
    ids=lambda shape: shape["family"],
)
def test_every_family_is_the_same_model_in_onnx_runtime(tmp_path, draw_gpt, shape):
    found = export_onnx(tmp_path, draw_gpt(n_layers=1, **shape), seed=1)
    assert found.pop("max_logit_difference") < 1e-4
    assert found.pop("mean_divergence") < 1e-9
    assert found["bytes"] == (tmp_path / "model.onnx").stat().st_size
    assert (found["generation_mismatches"], found["continuations"]) == (0, 20)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["none", "sinusoidal", "learned", "rope"])
@pytest.mark.parametrize("attention", ["causal", "multi_head", "grouped"])
@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama", "gpt2"])
def test_what_is_traced_goes_on_as_the_model_does(draw_gpt, family, attention, positions):
    model = draw_gpt(family=family, attention=attention, positions=positions, n_heads=4, n_kv_heads=2)
    config = model.config
    ids = torch.randint(0, 320, (2, 11), generator=torch.Generator().manual_seed(5))
    nothing = [torch.zeros(2, config.n_key_heads, 0, config.head_dim)] * 4
    first, *past = continue_texts(model, ids[:, :4], nothing)
    second, *present = continue_texts(model, ids[:, 4:], past)
    _, kept = model.run_blocks(model.embedding(ids))
    torch.testing.assert_close(torch.cat([first, second], dim=1), model(ids), atol=1e-5, rtol=0)
    torch.testing.assert_close(present, [tensor for layer in kept.layers for tensor in layer], atol=1e-5, rtol=0)


def test_weights_too_large_for_one_file_lie_beside_it(tmp_path, draw_gpt, monkeypatch):
    monkeypatch.setattr(export, "MOST_BYTES", 0)
    shape = {"family": "llama", "attention": "causal", "tie_embeddings": False, "context_length": 1}
    found = export_onnx(tmp_path, draw_gpt(n_layers=1, **shape), seed=1)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {path.name for path in files_of(tmp_path)} == {"model.onnx", "model.onnx_data"}
    assert sizes["model.onnx_data"] > 4 * 2 * 320 * 24
    assert found["bytes"] == sum(sizes.values())
    assert found["generation_mismatches"] == 0


@pytest.mark.parametrize(
    "shape",
    [{"family": "gru"}, {"attention": "simplified"}, {"attention": "trainable"}],
    ids=["gru", "simplified", "2"],
)
def test_a_model_that_keeps_no_keys_is_one_line_and_no_file(tmp_path, draw_gpt, shape):
    with pytest.raises(UserError, match="expected a model that keeps keys and values") as caught:
        write_onnx(tmp_path / "folder", draw_gpt(**shape))
    assert next(iter(shape.values())) in str(caught.value)
    assert not (tmp_path / "folder").exists()
    with pytest.raises(UserError, match="expected a model that keeps keys and values"):
        export_onnx(tmp_path / "folder", draw_gpt(**shape), seed=1)
    assert list((tmp_path / "folder").iterdir()) == []


def test_an_export_is_the_model_that_it_was_made_of(file, model):
    parity = compare_with_onnxruntime(file, model, seed=1)
    assert parity.agrees()
    assert parity.max_logit_difference < 1e-4
    assert (parity.generation_mismatches, parity.continuations) == (0, 20)


def test_one_changed_weight_is_noticed(file, draw_gpt):
    other = draw_gpt()
    with torch.no_grad():
        other.blocks[1].attention.key.weight[0, 0] += 5
    parity = compare_with_onnxruntime(file, other, seed=1)
    assert parity.max_logit_difference > 1e-3
    assert parity.generation_mismatches > 0
    assert not parity.agrees()


def test_a_cache_that_is_mixed_up_is_noticed(file, model, tmp_path):
    """Its first call is right: only what goes on from it is not."""
    graph = onnx.load(file)
    swapped = {"present.0.key": "present.0.value", "present.0.value": "present.0.key"}
    for node in graph.graph.node:
        node.output[:] = [swapped.get(name, name) for name in node.output]
        node.input[:] = [swapped.get(name, name) for name in node.input]
    onnx.save(graph, tmp_path / "model.onnx")
    parity = compare_with_onnxruntime(tmp_path / "model.onnx", model, seed=1)
    assert parity.max_logit_difference > 1e-3
    assert parity.generation_mismatches > 0


def test_a_file_of_another_model_is_deleted_and_ends_the_export(tmp_path, draw_gpt, written):
    with pytest.raises(UserError, match=r"export\.formats: onnx: expected the same .* in ONNX Runtime") as caught:
        export_onnx(tmp_path, draw_gpt(seed=2), seed=1)
    assert "20 of 20 other texts" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_run_is_one_line(file, model, tmp_path, draw_gpt):
    (tmp_path / "model.onnx").write_bytes(file.read_bytes()[:-1000] + b"\xff" * 1000)
    for given, other in ((tmp_path / "model.onnx", model), (file, draw_gpt(n_layers=3))):
        with pytest.raises(UserError, match=r"model\.onnx: wanted a file that ONNX Runtime runs") as caught:
            compare_with_onnxruntime(given, other, seed=1)
        assert "\n" not in str(caught.value)


def _without(monkeypatch, missing: str) -> None:
    found = export.importlib.util.find_spec
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if name == missing else found(name))


def test_without_onnx_runtime_a_file_is_unverified(tmp_path, model, file, written, monkeypatch, capsys):
    _without(monkeypatch, "onnxruntime")
    found = export_onnx(tmp_path, model, seed=1)
    assert found.pop("bytes") == file.stat().st_size
    assert "onnxruntime" in found["unverified"]
    assert capsys.readouterr().err == f"export: onnx unverified: {found['unverified']}\n"
    assert (tmp_path / "model.onnx").exists()
    with pytest.raises(UserError, match="wanted the package onnxruntime"):
        compare_with_onnxruntime(file, model, seed=1)


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_the_packages_nothing_is_written(tmp_path, model, monkeypatch, package):
    _without(monkeypatch, package)
    with pytest.raises(UserError, match=f"{package}, it is not installed \\(make extras\\)"):
        export_onnx(tmp_path, model, seed=1)
    assert list(tmp_path.iterdir()) == []


def test_names_count_the_layers(config):
    assert input_names(config)[2:] == ["past_key_values.1.key", "past_key_values.1.value"]
    assert output_names(config)[:2] == ["present.0.key", "present.0.value"]


def test_verify_export_shows_the_file_and_names_it_where_it_is_of_another_model(tmp_path, exported_folder, file):
    shutil.copytree(exported_folder, tmp_path / "export")
    (tmp_path / "export/onnx").mkdir()
    shutil.copy(file, tmp_path / "export/onnx/model.onnx")
    table, wrong = verify_export(tmp_path / "export", 1)
    row = table.splitlines()[2].split()
    assert row[:4] == ["model.onnx", "ONNX", "Runtime", f"{file.stat().st_size:,}"]
    assert row[6:] == ["1e-06", "–", "0", "of", "20", "–"]
    assert wrong == []
    graph = onnx.load(file)
    weight = next(tensor for tensor in graph.graph.initializer if tensor.name == "model.head.weight")
    weight.raw_data = (1.5 * onnx.numpy_helper.to_array(weight)).tobytes()
    onnx.save(graph, tmp_path / "export/onnx/model.onnx")
    assert verify_export(tmp_path / "export", 1)[1] == ["model.onnx"]
