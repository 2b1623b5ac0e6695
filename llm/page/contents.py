"""What a page holds of a model: a description as JSON, and the weights as float16.

models/finetuned/library  →  {"kind": "classifier", "config": …, "tensors": [{"name": "embedding.weight", …}], …}, bytes
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from numpy.typing import NDArray
from torch import Tensor

from llm.export.hf.base import open_model, read_tokenizer
from llm.export.hf.classifier import is_classifier, read_classifier
from llm.export.hf.folder import CHAT_TEMPLATE, read_config_file
from llm.model.config import ModelConfig
from llm.page.errors import NoPageError
from llm.page.vocabulary import describe_tokenizer
from llm.tokens.special import END_OF_TEXT, EOS, IM_END, IM_START
from llm.tokens.tokenizer import Tokenizer, read_library

MAP = "map"  # the tensor (V, 2) of the vocabulary's principal components, beside those of the model
Floats = NDArray[np.float32]


class Contents(NamedTuple):
    """The description, whose `tensors` are at their `offset` in `weights`."""

    data: dict[str, Any]
    weights: bytes


def read_contents(folder: Path, chat_template: str | None = None) -> Contents:
    """Read a Hugging Face folder of ours; a model with `chat_template` has a conversation.

    NoPageError for a model that engine.js does not support.
    """
    content = read_config_file(folder)
    if is_classifier(content):
        return _read_classifier(folder)
    model, tokenizer = open_model(folder)
    data: dict[str, Any] = {"kind": "language"}
    ends = tokenizer.eos_ids
    if chat_template is not None and (folder / CHAT_TEMPLATE).exists():
        if (folder / CHAT_TEMPLATE).read_text(encoding="utf-8").strip() != chat_template:
            raise NoPageError(f"{folder / CHAT_TEMPLATE}: expected the template of this project, got another one")
        start, end = tokenizer.special[IM_START], tokenizer.special[IM_END]
        data = {"kind": "instruction", "chat": {"bos": tokenizer.bos_id, "start": start, "end": end}}
        ends |= {end}
    weights: dict[str, Tensor] = dict(model.named_parameters())
    return _contents(data, model.config, read_tokenizer(folder)[0], tokenizer, ends, weights)


def _read_classifier(folder: Path) -> Contents:
    model, tokenizer, info = read_classifier(folder)
    data = {
        "kind": "classifier",
        "labels": info.labels,
        "is_multilabel": info.is_multilabel,
        "text_columns": info.text_columns,
        "max_tokens": info.max_tokens,
        "frame": {"separator": tokenizer.special[EOS], "end": tokenizer.special[END_OF_TEXT]},
    }
    weights: dict[str, Tensor] = {
        name: weight for name, weight in model.trunk.named_parameters() if name != "head.weight"
    }
    weights["score.weight"] = model.score.weight
    weights["embedding.weight"] = model.trunk.embedding.weight[: tokenizer.vocab_size]
    library = read_library(folder / "tokenizer.json")
    return _contents(data, model.trunk.config, library, tokenizer, [], weights)


def _contents(
    data: dict[str, Any],
    config: ModelConfig,
    library: tokenizers.Tokenizer,
    tokenizer: Tokenizer,
    ends: Iterable[int],
    weights: dict[str, Tensor],
) -> Contents:
    arrays = {name: weight.detach().numpy() for name, weight in weights.items()}
    arrays[MAP] = principal_components(arrays["embedding.weight"])
    tensors, packed = pack(arrays)
    about = {"config": describe_shape(config, tokenizer.vocab_size), "tensors": tensors}
    return Contents(data | about | {"tokenizer": describe_tokenizer(library, tokenizer, ends)}, packed)


def describe_shape(config: ModelConfig, vocab_size: int) -> dict[str, Any]:
    """Return the keys of a model's shape that engine.js reads."""
    keys = ("family", "n_layers", "n_heads", "d_model", "d_ff", "context_length", "norm_eps", "tie_embeddings")
    shape = {key: getattr(config, key) for key in keys}
    positions = config.position_scheme
    rope_theta = config.rope_theta if positions == "rope" else None
    heads = {"n_heads": config.n_query_heads, "n_kv_heads": config.n_key_heads, "head_dim": config.head_dim}
    return shape | heads | {"positions": positions, "rope_theta": rope_theta, "vocab_size": vocab_size}


def principal_components(rows: Floats) -> Floats:
    """Return the coordinates (V, 2) of rows (V, D) on the two axes along which they vary most, from -1 to 1.

    The largest coordinate of each axis is positive, so that equal rows give equal bytes.

    >>> principal_components(np.array([[8, 1, 0], [-8, 1, 0], [0, -2, 0]], dtype=np.float32)).round(2).tolist()
    [[1.0, -0.5], [-1.0, -0.5], [0.0, 1.0]]
    """
    centered = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centered.T @ centered)
    placed = centered @ axes[:, [-1, -2]]
    largest = placed[np.abs(placed).argmax(axis=0), range(2)]
    return (placed / np.where(largest == 0, 1, largest)).astype(np.float32)


def pack(arrays: dict[str, Floats]) -> tuple[list[dict[str, Any]], bytes]:
    """Return name, shape and byte offset of each array, and all of them as little-endian float16.

    NoPageError for a weight that float16 cannot hold.

    >>> pack({"a": np.array([[1.0, 2.0]]), "b": np.array([3.0])})[0]
    [{'name': 'a', 'shape': [1, 2], 'offset': 0}, {'name': 'b', 'shape': [1], 'offset': 4}]
    """
    tensors, parts, offset = [], [], 0
    limit = float(np.finfo(np.float16).max)
    for name, array in arrays.items():
        if (largest := float(np.abs(array).max())) > limit:
            raise NoPageError(f"{name}: expected weights of at most {limit:g}, the largest float16, got {largest:g}")
        tensors.append({"name": name, "shape": list(array.shape), "offset": offset})
        parts.append(array.astype("<f2").tobytes())
        offset += len(parts[-1])
    return tensors, b"".join(parts)
