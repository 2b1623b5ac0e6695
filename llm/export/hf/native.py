"""A model that Transformers has no architecture for, as a folder in our own words.

    config.json        {"model_type": "groundup", "model": {"family": "gru", "d_model": 192, …}, …}
    model.safetensors  blocks.0.recurrence.given.weight, …

These are the rungs below causal attention, a GRU, and positions that its family has not. Only this project computes
such a model. The other files of the folder are those of every export, so its tokenizer loads everywhere.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm.core import params
from llm.core.errors import UserError
from llm.export.hf.config import LONGEST_CONTEXT
from llm.export.hf.tensors import Stored, list_tensors, listed, read_object, read_tensors
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.model.weights import set_weights

MODEL_TYPE = "groundup"
LANGUAGE_MODEL, CLASSIFIER = "GroundupForCausalLM", "GroundupForSequenceClassification"
_LARGEST = (1 << 31) - 1  # of any number that counts


def native_config(config: ModelConfig) -> dict[str, Any]:
    """The content of a language model's config.json. Dropout is a part of training, so it is off."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": [LANGUAGE_MODEL],
        "model": config.model_copy(update={"dropout": 0.0}).model_dump(),
    }


def is_native(content: dict[str, Any]) -> bool:
    """Whether a config.json is in our own words."""
    return content.get("model_type") == MODEL_TYPE


def read_native_config(content: dict[str, Any], path: Path) -> ModelConfig:
    """The shape that such a config.json describes; UserError for what is no language model, or has huge numbers."""
    if content.get("architectures") != [LANGUAGE_MODEL]:
        given = listed([params.describe(content.get("architectures"))])
        raise UserError(f"{path}: architectures: wanted {LANGUAGE_MODEL} alone, given {given}")
    config: ModelConfig = params.check(ModelConfig, params.find(content, "model", path), "model", path)
    for key, value in config.model_dump().items():
        most = LONGEST_CONTEXT if key == "context_length" else _LARGEST
        if isinstance(value, int) and value > most:
            raise UserError(f"{path}: model.{key}: wanted at most {most}, given {params.describe(value)}")
    return config.model_copy(update={"dropout": 0.0})


def read_native(content: dict[str, Any], folder: Path, beside: frozenset[str] = frozenset()) -> GPT:
    """The model of a folder with such a config.json, in float32; its tensors `beside` it are no part of it.

    UserError, before memory is taken for the model, where the file's tensors are others than the shape asks for.
    """
    path = folder / "config.json"
    stored = {name: tensor for name, tensor in list_tensors(folder).items() if name not in beside}
    config = read_native_config(content, path)
    # Blocks take memory and time even without their weights.
    n_layers = len({name.split(".")[1] for name in stored if name.startswith("blocks.")})
    if config.n_layers != n_layers:
        raise UserError(f"{path}: model.n_layers: wanted {n_layers} as in the weights, given {config.n_layers}")
    check_shapes(stored, weights_of(config), LANGUAGE_MODEL, folder)
    model = GPT(config)
    set_weights(model, read_tensors(stored), folder)
    return model


def open_native(folder: Path) -> GPT | None:
    """The language model of a folder in our own words; None where its config.json is in others'."""
    content = read_object(folder / "config.json")
    return read_native(content, folder) if is_native(content) else None


def weights_of(config: ModelConfig) -> dict[str, Tensor]:
    """The weights of a shape by our names, with a shape each and no numbers: they take no memory."""
    with torch.device("meta"):
        return dict(GPT(config).named_parameters())


def check_shapes(stored: dict[str, Stored], wanted: dict[str, Tensor], architecture: str, folder: Path) -> None:
    """UserError names the stored tensors that are not the `wanted` ones, or have another shape."""
    shapes = {name: tuple(weight.shape) for name, weight in wanted.items()}
    problems = [f"{name} is missing" for name in shapes.keys() - stored.keys()]
    problems += [f"{name} is no part of {architecture}" for name in stored.keys() - shapes.keys()]
    problems += [
        f"{name} is {stored[name].shape}, wanted {shapes[name]}"
        for name in shapes.keys() & stored.keys()
        if shapes[name] != stored[name].shape
    ]
    if problems:
        raise UserError(f"{folder}: {listed(problems)}")
