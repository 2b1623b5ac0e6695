"""Headers are read before tensors, and an invalid file is one line."""

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from llm.core.errors import UserError
from llm.export.hf.tensors import INDEX, MAX_SHOWN, SINGLE, list_tensors, read_object, read_tensors, shorten

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


@pytest.mark.parametrize("name", ["/etc/x.safetensors", "sub\\x.safetensors", "model.bin", 3])
def test_an_index_may_name_only_safetensors_beside_it(tmp_path, name):
    message = outcome(write_shards(tmp_path, weight_map={"a.weight": name}))
    assert INDEX in message and str(name) in message.replace("\\\\", "\\")
    assert "weight_map: expected names of existing" in outcome(write_shards(tmp_path, weight_map=None))


def test_a_missing_shard_and_a_tensor_in_two_are_named(tmp_path):
    (write_shards(tmp_path) / SHARDS[1]).unlink()
    assert f"got {SHARDS[1]}" in outcome(tmp_path)
    save_file(FIRST, tmp_path / SHARDS[1])
    message = outcome(tmp_path)
    assert "a.weight" in message and SHARDS[0] in message and SHARDS[1] in message


@pytest.mark.parametrize(
    ("values", "dtype", "words"),
    [
        (float("nan"), torch.float32, "NaN or infinity in bad"),
        (float("inf"), torch.float16, "NaN or infinity in bad"),
        (float("-inf"), torch.bfloat16, "NaN or infinity in bad"),
        (1.0, torch.int8, "expected weights of F32, F16, BF16, got bad is I8"),
        (1.0, torch.float8_e4m3fn, "expected weights of F32, F16, BF16, got bad is F8_E4M3"),
    ],
)
def test_values_and_dtypes_that_are_no_weights_are_named(tmp_path, values, dtype, words):
    save_file(FIRST | {"bad": torch.tensor([1.0, values]).to(dtype)}, tmp_path / SINGLE)
    assert words in outcome(tmp_path)


def _tensor(shape: list[int], end: int, dtype: str = "F32") -> dict:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


HEADERS = {
    "longer than the file": ({}, b"", 1 << 40),
    "not JSON": (b"{", b"", None),
    "a list": ([], b"", None),
    "more than the file has": (_tensor([10], 40), b"1234", None),
    "other bytes than the shape": (_tensor([3], 4), b"1234", None),
    "another dtype": (_tensor([1], 4, "PY"), b"1234", None),
}


@pytest.mark.parametrize(("header", "body", "length"), HEADERS.values(), ids=HEADERS.keys())
def test_an_invalid_header_is_one_line_with_the_file(tmp_path, header, body, length):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = struct.pack("<Q", len(text) if length is None else length)
    (tmp_path / SINGLE).write_bytes(size + text + body)
    assert SINGLE in outcome(tmp_path)


@given(place=st.integers(0, 63), bit=st.integers(0, 7), cut=st.integers(0, 200))
def test_a_flipped_bit_or_a_cut_is_read_or_refused(tmp_path_factory, place, bit, cut):
    path = tmp_path_factory.mktemp("flipped") / SINGLE
    save_file(FIRST, path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content[: len(content) - cut])
    outcome(path.parent)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[1]", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_an_invalid_json_object_is_one_line_with_the_file(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json: expected") as caught:
        read_object(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


@given(st.lists(st.text(max_size=300), min_size=1, max_size=20))
def test_shortened_texts_are_one_printable_line(names):
    line = shorten(names)
    assert line.isprintable()
    assert len(line) <= MAX_SHOWN * 122 + 20
