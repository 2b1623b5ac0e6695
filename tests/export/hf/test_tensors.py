"""Headers are read before tensors, and files that are not what they say are one line."""

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from llm.core.errors import UserError
from llm.export.hf.tensors import INDEX, NAMES_SHOWN, SINGLE, Stored, list_tensors, listed, read_object, read_tensors

FIRST = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(1.5)}
SECOND = {"c": torch.ones(5, dtype=torch.bfloat16)}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def write_shards(folder: Path, **changes: object) -> Path:
    for name, tensors in zip(SHARDS, (FIRST, SECOND), strict=True):
        save_file(tensors, folder / name)
    places = dict.fromkeys(FIRST, SHARDS[0]) | dict.fromkeys(SECOND, SHARDS[1])
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places} | changes))
    return folder


def write_header(path: Path, header: object, body: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_tensors(list_tensors(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def outcome(folder: Path) -> str:
    """What is said of a folder, or which it is where all is well."""
    try:
        read_tensors(list_tensors(folder))
    except UserError as error:
        return str(error)
    return str(folder)


def test_a_header_says_shapes_and_the_tensors_come_as_they_are_stored(tmp_path):
    save_file(FIRST | SECOND, tmp_path / SINGLE)
    stored = list_tensors(tmp_path)
    assert {name: tensor.shape for name, tensor in stored.items()} == {"a.weight": (2, 3), "b": (), "c": (5,)}
    tensors = read_tensors({name: stored[name] for name in ("a.weight", "c")})
    assert tensors.keys() == {"a.weight", "c"}
    assert torch.equal(tensors["a.weight"], FIRST["a.weight"])
    assert tensors["c"].dtype == torch.bfloat16


def test_shards_are_one_model(tmp_path):
    tensors = read_tensors(list_tensors(write_shards(tmp_path)))
    assert tensors.keys() == FIRST.keys() | SECOND.keys()
    assert torch.equal(tensors["a.weight"], FIRST["a.weight"])


def test_one_file_goes_before_an_index(tmp_path):
    save_file(SECOND, write_shards(tmp_path) / SINGLE)
    assert list_tensors(tmp_path).keys() == {"c"}


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.safetensors", "sub\\x.safetensors", "pytorch_model.bin", 3]
)
def test_an_index_names_safetensors_beside_it_and_nothing_else(tmp_path, name):
    message = refusal(write_shards(tmp_path, weight_map={"a.weight": name}))
    assert INDEX in message and str(name) in message.replace("\\\\", "\\")


@pytest.mark.parametrize("places", [None, {}, [], "x"])
def test_an_index_without_files_is_refused(tmp_path, places):
    assert "weight_map: wanted tensors" in refusal(write_shards(tmp_path, weight_map=places))


def test_a_shard_that_is_not_there_is_named(tmp_path):
    (write_shards(tmp_path) / SHARDS[1]).unlink()
    assert f"there is no {SHARDS[1]}" in refusal(tmp_path)


def test_a_tensor_in_two_shards_is_named_with_both(tmp_path):
    save_file(FIRST, write_shards(tmp_path) / SHARDS[1])
    message = refusal(tmp_path)
    assert "a.weight" in message and SHARDS[0] in message and SHARDS[1] in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_no_numbers_are_named(tmp_path, value, dtype):
    save_file(FIRST | {"bad": torch.tensor([1.0, value], dtype=dtype)}, tmp_path / SINGLE)
    assert "NaN or infinity in bad" in refusal(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.float8_e4m3fn, torch.bool])
def test_weights_of_another_kind_are_named(tmp_path, dtype):
    save_file(FIRST | {"packed": torch.ones(4).to(dtype)}, tmp_path / SINGLE)
    message = refusal(tmp_path)
    assert "F32, F16, BF16" in message and "packed is" in message


HEADERS = {
    "longer than the file": ({}, b"", 1 << 40),
    "longer than any number": ({}, b"", (1 << 64) - 1),
    "no JSON": (b"{", b"", None),
    "not UTF-8": (b'{"\xff": 1}', b"", None),
    "a list": ([], b"", None),
    "more than the file has": ({"a": {"dtype": "F32", "shape": [10], "data_offsets": [0, 40]}}, b"1234", None),
    "less than the file has": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345678", None),
    "other bytes than the shape": ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}, b"1234", None),
    "a terabyte": ({"a": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}, b"", None),
    "more than can be counted": ({"a": {"dtype": "F32", "shape": [1 << 62, 8], "data_offsets": [0, 0]}}, b"", None),
    "a negative size": ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234", None),
    "nothing, a quadrillion times": ({"a": {"dtype": "F32", "shape": [0, 10**15], "data_offsets": [0, 0]}}, b"", None),
    "another type": ({"a": {"dtype": "PY", "shape": [1], "data_offsets": [0, 4]}}, b"1234", None),
}


@pytest.mark.parametrize(("header", "body", "length"), HEADERS.values(), ids=HEADERS.keys())
def test_a_header_that_lies_is_one_line_with_the_file(tmp_path, header, body, length):
    write_header(tmp_path / SINGLE, header, body, length)
    assert SINGLE in refusal(tmp_path)


@given(place=st.integers(0, 63), bit=st.integers(0, 7), cut=st.integers(0, 200))
def test_a_flipped_bit_or_a_cut_is_read_or_refused_in_one_line(tmp_path_factory, place, bit, cut):
    path = tmp_path_factory.mktemp("flipped") / SINGLE
    save_file(FIRST, path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content[: len(content) - cut])
    told = outcome(path.parent)
    assert "\n" not in told
    assert str(path.parent) in told


def test_pickles_are_named_and_not_opened(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    message = refusal(tmp_path)
    assert "safetensors" in message and "pytorch_model.bin" in message and "not opened" in message


def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path):
    (tmp_path / SINGLE).mkdir()
    assert SINGLE in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[1]", b"null", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_what_is_no_json_object_is_one_line_with_the_file(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json: wanted") as caught:
        read_object(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


@given(st.lists(st.text(max_size=300), min_size=1, max_size=20))
def test_what_is_listed_is_one_short_line(names):
    line = listed(names)
    assert line.isprintable()
    assert len(line) <= NAMES_SHOWN * 122 + 20


def test_what_is_listed_says_how_many_more_there_are():
    assert listed(f"layer.{number}" for number in range(7)).endswith("layer.4 and 2 more")


def test_stored_tensors_know_their_folder(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        read_tensors({"a": Stored(tmp_path / SINGLE, (1,), "I64")})
