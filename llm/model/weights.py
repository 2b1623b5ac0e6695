"""Save, load and resize a model's weights."""

import json
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

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
    """Read what `save_model` wrote; UserError names a missing file, or tensors that do not fit."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: expected a model's config.json, got: {error}") from None
    model = GPT(params.check(ModelConfig, content, "model", path))
    set_weights(model, read_safetensors(folder / "model.safetensors"), folder)
    return model


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file; UserError where it is missing, truncated or of another format."""
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(f"{path}: expected a safetensors file, got: {error}") from None


def set_weights(model: GPT, weights: dict[str, Tensor], where: Path) -> None:
    """Copy tensors into the model; UserError names those that are missing, unexpected or of another shape."""
    expected = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    got = {name: tuple(weight.shape) for name, weight in weights.items()}
    problems = [
        f"{name}: expected {expected.get(name, 'no such tensor')}, got {got.get(name, 'none')}"
        for name in sorted(expected.keys() | got.keys())
        if expected.get(name) != got.get(name)
    ]
    if problems:
        raise UserError(f"{where}: {'; '.join(problems[:5])}" + (" …" if len(problems) > 5 else ""))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(weights[name])


def resize_embeddings(model: GPT, n_known: int, n_tokens: int) -> None:
    """Give embedding and head `n_tokens` rows, in place: the first `n_known` stay, the others are their mean.

    So a new token takes no more probability than an average one, whatever the hidden state; a random row may take more
    than all others (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models").
    """
    assert 0 < n_known <= min(n_tokens, model.config.vocab_size)
    if n_known == n_tokens == model.config.vocab_size:
        return
    model.embedding = nn.Embedding.from_pretrained(resize_rows(model.embedding.weight, n_known, n_tokens), freeze=False)
    if model.config.tie_embeddings:
        model.head.weight = cast(nn.Parameter, model.embedding.weight)
    else:
        model.head.weight = nn.Parameter(resize_rows(model.head.weight, n_known, n_tokens))
    model.config = model.config.model_copy(update={"vocab_size": n_tokens})


@torch.no_grad()
def resize_rows(rows: Tensor, n_known: int, n: int) -> Tensor:
    """Return rows (n, D): the first `n_known` of (V, D), and then their mean.

    >>> resize_rows(torch.tensor([[1.0], [3.0], [9.0]]), n_known=2, n=4).flatten().tolist()
    [1.0, 3.0, 2.0, 2.0]
    """
    known = rows[:n_known]
    # Summed in float64, so that rounding to float32 hides the order in which threads add.
    mean = known.mean(dim=0, dtype=torch.float64).to(rows.dtype)
    return torch.cat([known, mean.expand(n - n_known, -1)])
