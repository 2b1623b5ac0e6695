"""Write and read a model's weights as safetensors."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm.core import params
from llm.core.errors import UserError
from llm.model.config import ModelConfig
from llm.model.gpt import GPT


def save_model(folder: Path, model: GPT) -> None:
    """Write model.safetensors (float32, a tied head once) and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.detach().to("cpu", torch.float32).contiguous() for name, weight in model.named_parameters()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(model.config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_model(folder: Path) -> GPT:
    """Read what `save_model` wrote; UserError names what is missing or has another shape."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError):
        raise UserError(f"{path}: wanted a model's config.json, it is missing or no JSON") from None
    model = GPT(params.check(ModelConfig, content, "model", path))
    set_weights(model, read_safetensors(folder / "model.safetensors"), folder)
    return model


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file; UserError where it is missing, cut short or none."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: wanted weights, there is no such file") from None
    except SafetensorError as error:
        raise UserError(f"{path}: wanted a safetensors file, {error}") from None


def set_weights(model: GPT, weights: dict[str, Tensor], where: Path) -> None:
    """Copy tensors into the model by name; every one has to be there, with the shape, and none may be left."""
    wanted = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    given = {name: tuple(weight.shape) for name, weight in weights.items()}
    problems = [f"{name} is missing" for name in wanted.keys() - given.keys()]
    problems += [f"{name} is not a part of the model" for name in given.keys() - wanted.keys()]
    problems += [
        f"{name} is {given[name]}, wanted {wanted[name]}"
        for name in wanted.keys() & given.keys()
        if wanted[name] != given[name]
    ]
    if problems:
        raise UserError(f"{where}: {'; '.join(sorted(problems)[:5])}" + (" …" if len(problems) > 5 else ""))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(weights[name])
