"""The weights that pretraining starts from where `pretrain.init_from` names a Hugging Face folder.

Pretraining has windows of ids and a shape of its own; both must be the folder's.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers

from llm.core.errors import UserError
from llm.export.hf.base import read_base, read_tokenizer
from llm.export.hf.tensors import MAX_SHOWN
from llm.model.config import ModelConfig, ModelParams
from llm.model.gpt import GPT
from llm.model.weights import set_weights


def read_first_weights(folder: Path, shape: ModelConfig, tokenizer_file: Path) -> GPT:
    """Return a model of `shape` with the folder's weights, for ids of `tokenizer_file`; its context may be shorter.

    UserError where the folder's tokenizer gives other ids, or names the keys of the shape that differ.
    """
    grown, n_known = read_tokenizer(folder)
    if _encoding_of(grown) != _encoding_of(tokenizers.Tokenizer.from_file(str(tokenizer_file))):
        raise UserError(
            f"pretrain.init_from: expected the same tokenizer in {folder} and {tokenizer_file}, got two that differ; "
            f"tokenize.pretrained: {folder} uses the first for the corpus"
        )
    base = read_base(folder, n_known, shape.vocab_size)
    _check_shape(shape, base.config, folder)
    model = GPT(shape.model_copy(update={"head_width": base.config.head_width}))
    weights = {name: weight.detach() for name, weight in base.named_parameters()}
    if "positions.weight" in weights:
        weights["positions.weight"] = weights["positions.weight"][: shape.context_length]
    set_weights(model, weights, folder)
    return model


def _encoding_of(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    """Return the parts of a tokenizer that decide on the ids of a text, and the special tokens."""
    content = json.loads(tokenizer.to_str())
    return {key: content[key] for key in ("added_tokens", "normalizer", "pre_tokenizer", "model")}


def _check_shape(shape: ModelConfig, expected: ModelConfig, folder: Path) -> None:
    if shape.context_length > expected.context_length:
        raise UserError(
            f"sample.context_length: expected at most the {expected.context_length} tokens of {folder} "
            f"(pretrain.init_from), got {shape.context_length}"
        )
    unused = {"dropout"} | ({"rope_theta"} if expected.position_scheme != "rope" else set())
    theirs, ours = (of.model_dump() | {"positions": of.position_scheme} for of in (expected, shape))
    keys = [key for key in ModelParams.model_fields if key not in unused and theirs[key] != ours[key]]
    if keys:
        differing = [f"model.{key}: expected {theirs[key]}, got {ours[key]}" for key in keys[:MAX_SHOWN]]
        more = f"; {len(keys) - MAX_SHOWN} more keys differ" if len(keys) > MAX_SHOWN else ""
        raise UserError(f"pretrain.init_from: {folder} has another shape: {'; '.join(differing)}{more}")
