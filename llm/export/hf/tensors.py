"""Untrusted safetensors files: names and shapes first, tensors after these were checked.

    model.safetensors                                                        one file, or
    model.safetensors.index.json  model-00001-of-00002.safetensors  …        several, and an index of tensors

Only safetensors files are opened: what torch.save and pickle write can run code when it is read.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llm.core import params
from llm.core.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FLOATS = ("F32", "F16", "BF16")
MAX_SHOWN = 5
_FILE_NAME = re.compile(r"[^/\\]+\.safetensors")


class Stored(NamedTuple):
    """A tensor as a file's header describes it, and its name there."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def list_tensors(folder: Path) -> dict[str, Stored]:
    """Return what the headers say of each tensor; UserError for an invalid file, or an index that leads elsewhere."""
    stored: dict[str, Stored] = {}
    for file in _files(folder):
        try:
            with safe_open(file, framework="pt") as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (it is not a mapping)
                here = {name: Stored(file, name, tuple(of.get_shape()), of.get_dtype()) for name, of in slices.items()}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: expected a safetensors file, {shorten([' '.join(str(error).split())])}") from None
        if twice := stored.keys() & here.keys():
            raise UserError(f"{file}: {shorten(twice)} is in {stored[min(twice)].file.name} as well")
        stored |= here
    return stored


def read_tensors(stored: dict[str, Stored]) -> dict[str, Tensor]:
    """Read tensors in the dtype of the file; UserError names one that is not of floats, or holds NaN or infinity."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        with safe_open(tensor.file, framework="pt") as opened:
            values: Tensor = opened.get_tensor(tensor.name)
        if tensor.dtype not in FLOATS:
            got = f"{shorten([name])} is {tensor.dtype}"
            raise UserError(f"{tensor.file}: expected weights of {', '.join(FLOATS)}, got {got}")
        if not values.isfinite().all():
            raise UserError(f"{tensor.file}: expected finite weights, got NaN or infinity in {shorten([name])}")
        tensors[name] = values
    return tensors


def check_tensors(stored: dict[str, Stored], expected: dict[str, Tensor], owner: str, folder: Path) -> None:
    """Raise UserError unless the stored tensors have the expected names and shapes."""
    shapes = {name: tuple(weight.shape) for name, weight in expected.items()}
    problems = [f"{name} is missing" for name in shapes.keys() - stored.keys()]
    problems += [f"{name} is not a weight of {owner}" for name in stored.keys() - shapes.keys()]
    problems += [
        f"{name}: expected shape {shapes[name]}, got {stored[name].shape}"
        for name in shapes.keys() & stored.keys()
        if shapes[name] != stored[name].shape
    ]
    if problems:
        raise UserError(f"{folder}: {shorten(problems)}")


def write_tensors(path: Path, weights: dict[str, Tensor]) -> None:
    """Write tensors in float32."""
    cpu = {name: weight.detach().to("cpu", torch.float32).contiguous() for name, weight in weights.items()}
    # Transformers reads the framework from the metadata; one key keeps the bytes the same from run to run.
    save_file(cpu, path, metadata={"format": "pt"})


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; UserError where the file is missing, or is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError
        problem = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise UserError(f"{path}: expected JSON, {problem}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, got {params.describe(content)}")
    return content


def shorten(texts: Iterable[str]) -> str:
    r"""Join the first few texts in one printable line; names in a foreign file may hold anything.

    >>> shorten(["b", "a\n"])
    "'a\\n', b"
    >>> shorten(map(str, range(9)))
    '0, 1, 2, 3, 4 and 4 more'
    """
    found = sorted(texts)
    shown = [text if text.isprintable() else repr(text) for text in found[:MAX_SHOWN]]
    shown = [text if len(text) <= 120 else f"{text[:117]}..." for text in shown]
    return ", ".join(shown) + (f" and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else "")


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if (folder / INDEX).exists():
        return _shards(folder / INDEX)
    pickles = [path.name for path in folder.iterdir() if path.suffix in PICKLES]
    instead = f", got {shorten(pickles)}: pickles can run code and are not opened" if pickles else ", it is missing"
    raise UserError(f"{folder / SINGLE}: expected weights as safetensors{instead}")


def _shards(index: Path) -> list[Path]:
    places = read_object(index).get("weight_map")
    names = sorted(set(map(str, places.values()))) if isinstance(places, dict) else []
    wrong = [name for name in names if not _FILE_NAME.fullmatch(name) or not index.with_name(name).exists()]
    if wrong or not names:
        got = shorten(wrong) or params.describe(places)
        raise UserError(f"{index}: weight_map: expected names of existing safetensors files beside it, got {got}")
    return [index.with_name(name) for name in names]
