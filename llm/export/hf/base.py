"""A Hugging Face folder as the model that finetuning, pretraining or generation starts from.

tokenizer.json     50257 tokens           →  50262: <|pad|>, <|bos|>, <|eos|>, <|im_start|>, <|im_end|>
model.safetensors  embedding (50257, D)   →  (50262, D), the new rows as `resize_embeddings` makes them
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers

from llm.core import params
from llm.core.errors import UserError
from llm.export.hf.folder import read_config_file, read_folder, read_headers
from llm.export.hf.tensors import read_object, shorten
from llm.model.config import ModelConfig, ModelParams
from llm.model.gpt import GPT
from llm.model.weights import load_model, resize_embeddings, set_weights
from llm.tokens.pretrained import read_pretrained
from llm.tokens.special import SPECIAL_TOKENS
from llm.tokens.templates import with_bos
from llm.tokens.tokenizer import Tokenizer, prefix_ids

TOKENIZER = Path("data/tokenizer/tokenizer.json")  # of weights in models/pretrained, which come without one


def read_tokenizer(folder: Path) -> tuple[tokenizers.Tokenizer, int]:
    """Return the folder's tokenizer with SPECIAL_TOKENS, and how many tokens it had; new ones have the last ids."""
    grown = read_pretrained(folder / "tokenizer.json", pattern="")  # the file has a split pattern of its own
    names = _library(folder).get_vocab()
    return grown, grown.get_vocab_size() - sum(name not in names for name in SPECIAL_TOKENS)


def open_base(folder: Path, target: Path) -> tuple[Path, Callable[[], GPT]]:
    """Return the tokenizer.json to finetune with, and a function that makes the folder's model with a row per token.

    The file is the folder's own, or `target` where tokens are appended or its post-processor changes: finetuning keeps
    the one token before each text. Names the new tokens in one line on stderr.
    """
    grown, n_known = read_tokenizer(folder)
    grown = with_bos(grown, open_tokenizer(folder).bos_token)
    n_tokens = grown.get_vocab_size()
    if n_known < n_tokens:
        new = ", ".join(str(grown.id_to_token(token)) for token in range(n_known, n_tokens))
        print(f"{folder}: appended {new} to its {n_known} tokens, with the mean of their rows", file=sys.stderr)
    file = folder / "tokenizer.json"
    if grown.to_str() != _library(folder).to_str():
        grown.save(str(target))
        file = target
    return file, partial(read_base, folder, n_known, n_tokens)


def read_base(folder: Path, n_known: int, n_tokens: int) -> GPT:
    """Read the folder's model with a row for each of `n_tokens`, of which `n_known` are in its own tokenizer."""
    model = read_folder(folder)
    if n_known > model.config.vocab_size:
        raise UserError(f"{folder}: expected at most the model's {model.config.vocab_size} tokens, got {n_known}")
    resize_embeddings(model, n_known, n_tokens)
    return model


def open_model(folder: Path, tokenizer_file: Path = TOKENIZER) -> tuple[GPT, Tokenizer]:
    """Return a language model and its tokenizer to generate text with; tokens that the folder lacks are not generated.

    The folder may also be weights of ours, such as models/pretrained, for ids of `tokenizer_file`.
    """
    if is_ours(folder):
        return load_model(folder).eval(), Tokenizer.load(tokenizer_file)
    read_config_file(folder)
    _, n_known = read_tokenizer(folder)
    return read_base(folder, n_known, n_known).eval(), open_tokenizer(folder)


def is_ours(folder: Path) -> bool:
    """Return whether a folder has weights in this project's own format, which pretraining writes."""
    path = folder / "config.json"
    return path.exists() and "family" in read_object(path)


def open_tokenizer(folder: Path) -> Tokenizer:
    """Return a folder's tokenizer as in every client: the prefix of its post-processor, the ends of its configs."""
    grown, n_known = read_tokenizer(folder)
    tokenizer = Tokenizer.of(grown)
    tokenizer.vocab_size = n_known
    library, ids = _library(folder), grown.get_vocab()
    tokenizer.prefix_ids = [ids[str(library.id_to_token(token))] for token in prefix_ids(library)]
    paths = [path for name in ("generation_config.json", "config.json") if (path := folder / name).exists()]
    ends: Any = next((found for path in paths if (found := read_object(path).get("eos_token_id")) is not None), [])
    known = [token for token in (ends if isinstance(ends, list) else [ends]) if type(token) is int]
    tokenizer.eos_ids = frozenset({tokenizer.end_of_text, *known})
    return tokenizer


def _library(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def resolve_shape(stated: dict[str, Any], base: Path | None, where: str = "params.yaml") -> ModelParams:
    """Return the section `model`; where weights are given, keys that are null have the value of their folder."""
    if base is not None:
        theirs = read_headers(base)[0]
        null = [key for key in ModelParams.model_fields if stated.get(key) is None and key != "positions"]
        stated = stated | {key: getattr(theirs, key) for key in null}
    shape: ModelParams = params.check(ModelParams, stated, "model", where)
    return shape


def read_first_weights(folder: Path, shape: ModelConfig, tokenizer_file: Path) -> GPT:
    """Return a model of `shape` for pretraining with the folder's weights, for ids of `tokenizer_file`.

    Its context may be shorter. UserError where the folder's tokenizer gives other ids, or keys of the shape differ.
    """
    grown, n_known = read_tokenizer(folder)
    own, theirs = (json.loads(of.to_str()) for of in (tokenizers.Tokenizer.from_file(str(tokenizer_file)), grown))
    if any(own[part] != theirs[part] for part in ("added_tokens", "normalizer", "pre_tokenizer", "model")):
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
        differing = shorten(f"model.{key}: expected {theirs[key]}, got {ours[key]}" for key in keys)
        raise UserError(f"pretrain.init_from: {folder} has another shape: {differing}")
