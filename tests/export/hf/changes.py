"""Changes of a Hugging Face folder, and one with a tokenizer of others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import load_file, save_file

from llm.export.hf.folder import write_folder
from llm.model.gpt import GPT
from llm.tokens.special import SPECIAL_TOKENS

WEIGHTS = "model.safetensors"
Change = Callable[[Path], object]


def change_json(path: Path, **values: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change a folder's tensors in place."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


# Changes of config.json, of tensors and of files.
def config(**values: Any) -> Change:
    return lambda folder: change_json(folder / "config.json", **values)


def add(**tensors: torch.Tensor) -> Change:
    return lambda folder: change_weights(folder, lambda stored: stored.update(tensors))


def drop(name: str) -> Change:
    return lambda folder: change_weights(folder, lambda stored: stored.pop(name))


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def write_foreign(folder: Path, model: GPT, tokenizer_file: Path) -> Path:
    """Write a folder whose tokenizer has one special token, in another place, and puts it before a text."""
    content = json.loads(tokenizer_file.read_text())
    vocab = {name: token for name, token in content["model"]["vocab"].items() if name not in SPECIAL_TOKENS}
    content["model"]["vocab"] = {name: number for number, name in enumerate(sorted(vocab, key=vocab.__getitem__))}
    end = {"id": len(vocab), "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False}
    content["added_tokens"] = [end | {"normalized": False, "special": True}]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", len(vocab))]
    )
    write_folder(folder, model, tokenizer_file)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
