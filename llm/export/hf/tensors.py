"""The tensors of a folder that others made, read with distrust: which there are, and of what shape, before any is.

    model.safetensors                                                        one file, or
    model.safetensors.index.json  model-00001-of-00002.safetensors  …        several, and where each tensor lies

Nothing but safetensors is opened: what torch.save and pickle write can run code when it is read.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from llm.core import params
from llm.core.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
FLOATS = ("F32", "F16", "BF16")
NAMES_SHOWN = 5


class Stored(NamedTuple):
    """Where a tensor lies, and what the file's header says of it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def list_tensors(folder: Path) -> dict[str, Stored]:
    """What the headers say of each tensor; no tensor is read.

    UserError where files are missing, cut short or none, or an index names what is not there or not in the folder.
    """
    stored: dict[str, Stored] = {}
    for file in _files(folder):
        for name, tensor in _read_header(file).items():
            if name in stored:
                raise UserError(f"{file}: {listed([name])} is in {stored[name].file.name} as well")
            stored[name] = tensor
    return stored


def read_tensors(stored: dict[str, Stored]) -> dict[str, Tensor]:
    """The tensors as they are stored; UserError names those that are no floats or hold NaN or infinity."""
    if unlike := [f"{name} is {tensor.dtype}" for name, tensor in stored.items() if tensor.dtype not in FLOATS]:
        raise UserError(f"{_folder(stored)}: wanted weights of {', '.join(FLOATS)}, given {listed(unlike)}")
    tensors: dict[str, Tensor] = {}
    for file in sorted({tensor.file for tensor in stored.values()}):
        with safe_open(file, framework="pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name, tensor in stored.items() if tensor.file == file}
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise UserError(f"{_folder(stored)}: wanted finite weights, given NaN or infinity in {listed(broken)}")
    return tensors


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; UserError where it is missing, no JSON, too deep or no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError
        problem = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise UserError(f"{path}: wanted JSON, {problem}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: wanted an object, given {params.describe(content)}")
    return content


def listed(problems: Iterable[str]) -> str:
    r"""The first few of what may be many, in one line; a name in a file of others may hold anything.

    >>> listed(["b", "a\n"])
    "'a\\n', b"
    >>> listed(map(str, range(9)))
    '0, 1, 2, 3, 4 and 4 more'
    """
    found = sorted(problems)
    shown = [_cut(problem if problem.isprintable() else repr(problem)) for problem in found[:NAMES_SHOWN]]
    return ", ".join(shown) + (f" and {len(found) - NAMES_SHOWN} more" if len(found) > NAMES_SHOWN else "")


def _cut(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."


def _files(folder: Path) -> Sequence[Path]:
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    index = folder / INDEX
    if index.exists():
        return _shards(index)
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    instead = f", given {listed(pickles)}: pickles can run code and are not opened" if pickles else ", it is missing"
    raise UserError(f"{folder / SINGLE}: wanted weights as safetensors, there is no such file{instead}")


def _shards(index: Path) -> list[Path]:
    """The files that an index names: they stand beside it."""
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        given = listed([params.describe(places)])
        raise UserError(f"{index}: weight_map: wanted tensors and their files, given {given}")
    names = {name if isinstance(name, str) else params.describe(name) for name in places.values()}
    if elsewhere := [name for name in names if "/" in name or "\\" in name or not name.endswith(".safetensors")]:
        raise UserError(f"{index}: wanted names of safetensors files beside it, given {listed(elsewhere)}")
    files = sorted(index.with_name(name) for name in names)
    if missing := [file.name for file in files if not file.exists()]:
        raise UserError(f"{index}: wanted the files that it names, there is no {listed(missing)}")
    return files


def _read_header(file: Path) -> dict[str, Stored]:
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (it is no mapping)
            stored = {name: Stored(file, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: wanted a safetensors file, {_cut(' '.join(str(error).split()))}") from None
    # A shape without a number in it is not held to the size of the file.
    if empty := [f"{name} of {tensor.shape}" for name, tensor in stored.items() if 0 in tensor.shape]:
        raise UserError(f"{file}: wanted tensors that hold numbers, given {listed(empty)}")
    return stored


def _folder(stored: dict[str, Stored]) -> Path:
    return next(iter(stored.values())).file.parent
