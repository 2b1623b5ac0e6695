"""Headers are read before tensors, and an invalid file is one line."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from llm.core.errors import UserError
from llm.export.hf.tensors import INDEX, MAX_SHOWN, SINGLE, list_tensors, read_tensors, shorten

FIRST = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(1.5)}
SECOND = {"c": torch.ones(5, dtype=torch.bfloat16)}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def write_shards(folder: Path, **changes: object) -> Path:
    for name, tensors in zip(SHARDS, (FIRST, SECOND), strict=True):
        save_file(tensors, folder / name)
    places = dict.fromkeys(FIRST, SHARDS[0]) | dict.fromkeys(SECOND, SHARDS[1])
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places} | changes))
    return folder


def outcome(folder: Path) -> str:
    """The line for an invalid folder, or "valid FOLDER"."""
    try:
        read_tensors(list_tensors(folder))
    except UserError as error:
        message = str(error)
    else:
        message = f"valid {folder}"
    assert "\n" not in message and str(folder) in message
    return message


def test_a_header_has_shapes_and_tensors_keep_their_dtype(tmp_path):
    save_file(FIRST | SECOND, tmp_path / SINGLE)
    stored = list_tensors(tmp_path)
    assert {name: tensor.shape for name, tensor in stored.items()} == {"a.weight": (2, 3), "b": (), "c": (5,)}
    tensors = read_tensors({name: stored[name] for name in ("a.weight", "c")})
    assert tensors.keys() == {"a.weight", "c"}
    assert torch.equal(tensors["a.weight"], FIRST["a.weight"])
    assert tensors["c"].dtype == torch.bfloat16


def test_shards_are_one_model_and_a_single_file_goes_first(tmp_path):
    tensors = read_tensors(list_tensors(write_shards(tmp_path)))
    assert tensors.keys() == FIRST.keys() | SECOND.keys()
    assert torch.equal(tensors["a.weight"], FIRST["a.weight"])
    save_file(SECOND, tmp_path / SINGLE)
    assert list_tensors(tmp_path).keys() == {"c"}


@pytest.mark.parametrize("name", ["/etc/x.safetensors", "sub\\x.safetensors", "model.bin", 3, "missing.safetensors"])
def test_an_index_may_name_only_safetensors_beside_it(tmp_path, name):
    message = outcome(write_shards(tmp_path, weight_map={"a.weight": name}))
    assert INDEX in message and str(name) in message.replace("\\\\", "\\")
    assert "weight_map: expected names of existing" in outcome(write_shards(tmp_path, weight_map=None))
    save_file(FIRST, write_shards(tmp_path) / SHARDS[1])
    message = outcome(tmp_path)
    assert "a.weight" in message and SHARDS[0] in message and SHARDS[1] in message  # it is in two of them


NO_FLOATS, NO_NUMBERS = "expected weights of F32, F16, BF16, got bad is ", "NaN or infinity in bad"


@pytest.mark.parametrize(
    ("values", "dtype", "words"),
    [
        (float("nan"), torch.float32, NO_NUMBERS),
        (float("-inf"), torch.bfloat16, NO_NUMBERS),
        (1.0, torch.int8, f"{NO_FLOATS}I8"),
        (1.0, torch.float8_e4m3fn, f"{NO_FLOATS}F8_E4M3"),
    ],
)
def test_values_and_dtypes_that_are_no_weights_are_named(tmp_path, values, dtype, words):
    save_file(FIRST | {"bad": torch.tensor([1.0, values]).to(dtype)}, tmp_path / SINGLE)
    assert words in outcome(tmp_path)


@given(place=st.integers(0, 63), bit=st.integers(0, 7), cut=st.integers(0, 200))
def test_a_flipped_bit_or_a_cut_is_read_or_refused(tmp_path_factory, place, bit, cut):
    path = tmp_path_factory.mktemp("flipped") / SINGLE
    save_file(FIRST, path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content[: len(content) - cut])
    outcome(path.parent)


@given(st.lists(st.text(max_size=300), min_size=1, max_size=20))
def test_shortened_texts_are_one_printable_line(names):
    line = shorten(names)
    assert line.isprintable()
    assert len(line) <= MAX_SHOWN * 122 + 20
