"""A Hugging Face folder as what training begins from: its weights, and its tokenizer with the special tokens of ours.

    tokenizer.json     50257 tokens           →  50262: <|pad|>, <|bos|>, <|eos|>, <|im_start|>, <|im_end|>
    model.safetensors  embedding (50257, D)   →  (50262, D), the new rows as `llm.model.grow` makes them

Finetuning takes the folder's shape and the grown tokenizer. Pretraining has windows of ids and a shape of its own:
there both have to be the folder's.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers

from llm.core.errors import UserError
from llm.export.hf.folder import read_folder
from llm.export.hf.tensors import NAMES_SHOWN, read_object
from llm.model.config import ModelConfig, ModelParams
from llm.model.gpt import GPT
from llm.model.grow import set_vocabulary
from llm.model.weights import set_weights
from llm.tokens.pretrained import read_pretrained
from llm.tokens.special import SPECIAL_TOKENS
from llm.tokens.templates import with_bos
from llm.tokens.tokenizer import Tokenizer, prefix_ids


def read_tokenizer(folder: Path) -> tuple[tokenizers.Tokenizer, int]:
    """The folder's tokenizer with SPECIAL_TOKENS, and how many tokens it had; those that it lacked have the last ids.

    UserError in one line where there is none, or a broken one.
    """
    grown = read_pretrained(folder / "tokenizer.json", pattern="")  # such a file says itself how text is split
    names = _library(folder).get_vocab()
    return grown, grown.get_vocab_size() - sum(name not in names for name in SPECIAL_TOKENS)


def open_base(folder: Path, target: Path) -> tuple[Path, Callable[[], GPT]]:
    """The tokenizer.json to go on with, and a maker of the folder's model with a row for each of its tokens.

    The file is the folder's own, or `target` where tokens are appended or other tokens are put around a text than one
    that each text of the folder's begins with. Says in one line on stderr which tokens are new.
    """
    grown, n_known = read_tokenizer(folder)
    grown = with_bos(grown, open_tokenizer(folder).bos_token)
    n_tokens = grown.get_vocab_size()
    if n_known < n_tokens:
        print(
            f"{folder}: {', '.join(map(str, map(grown.id_to_token, range(n_known, n_tokens))))} come behind its "
            f"{n_known} tokens, with the mean of their rows",
            file=sys.stderr,
        )
    is_as_it_was = grown.to_str() == _library(folder).to_str()
    if not is_as_it_was:
        grown.save(str(target))
    return folder / "tokenizer.json" if is_as_it_was else target, partial(read_base, folder, n_known, n_tokens)


def read_base(folder: Path, n_known: int, n_tokens: int) -> GPT:
    """The folder's model with a row for each of `n_tokens`, of which it knows the first `n_known`.

    UserError where the folder's tokenizer has ids that its embedding has no row for.
    """
    model = read_folder(folder)
    if n_known > model.config.vocab_size:
        raise UserError(
            f"{folder}: wanted a tokenizer of at most the model's {model.config.vocab_size} tokens, given {n_known}"
        )
    set_vocabulary(model, n_known, n_tokens)
    return model


def open_model(folder: Path) -> tuple[GPT, Tokenizer]:
    """Return a folder's language model and tokenizer, to generate text with: all folders that `open_base` takes.

    Tokens that the folder lacks have no row, so none of them is generated.
    """
    if not (folder / "config.json").exists():
        raise UserError(f"{folder}: wanted a Hugging Face folder, it has no config.json")
    _, n_known = read_tokenizer(folder)
    return read_base(folder, n_known, n_known).eval(), open_tokenizer(folder)


def open_tokenizer(folder: Path) -> Tokenizer:
    """Return a folder's tokenizer: before a text it puts what the file's post-processor does, as in every client.

    A text that is generated ends at the tokens of the folder's `eos_token_id`. Tokens that the folder lacks are not
    counted.
    """
    grown, n_known = read_tokenizer(folder)
    tokenizer = Tokenizer.of(grown)
    tokenizer.vocab_size = n_known
    library, ids = _library(folder), grown.get_vocab()
    tokenizer.prefix_ids = [ids[str(library.id_to_token(token))] for token in prefix_ids(library)]
    tokenizer.eos_ids = frozenset({tokenizer.end_of_text, *_eos_ids(folder)})
    return tokenizer


def _eos_ids(folder: Path) -> set[int]:
    """The ids at which generation ends: of generation_config.json, or where it has none of config.json."""
    for path in (folder / "generation_config.json", folder / "config.json"):
        given = read_object(path).get("eos_token_id") if path.exists() else None
        if given is not None:
            return {token for token in (given if isinstance(given, list) else [given]) if type(token) is int}
    return set()


def read_first_weights(folder: Path, shape: ModelConfig, tokenizer_file: Path) -> GPT:
    """A model of `shape` with the folder's weights, for ids of `tokenizer_file`; its context may be a shorter one.

    UserError where the folder's tokenizer gives other ids, or its shape is another one: the first keys that differ.
    """
    grown, n_known = read_tokenizer(folder)
    theirs = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    if _ids_decided_by(grown) != _ids_decided_by(theirs):
        raise UserError(
            f"pretrain.init_from: wanted one tokenizer in {folder} and {tokenizer_file}, given two that differ; "
            f"tokenize.pretrained: {folder} takes the first for the corpus"
        )
    base = read_base(folder, n_known, shape.vocab_size)
    _refuse_other_shape(shape, base.config, folder)
    model = GPT(shape.model_copy(update={"head_width": base.config.head_width}))
    weights = {name: weight.detach() for name, weight in base.named_parameters()}
    if "positions.weight" in weights:
        weights["positions.weight"] = weights["positions.weight"][: shape.context_length]
    set_weights(model, weights, folder)
    return model


def _library(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def _ids_decided_by(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    """What of a tokenizer decides on the ids of a text, and which tokens are special."""
    content = json.loads(tokenizer.to_str())
    return {key: content[key] for key in ("added_tokens", "normalizer", "pre_tokenizer", "model")}


def _refuse_other_shape(given: ModelConfig, wanted: ModelConfig, folder: Path) -> None:
    if given.context_length > wanted.context_length:
        raise UserError(
            f"sample.context_length: wanted at most the {wanted.context_length} tokens of {folder} "
            f"(pretrain.init_from), given {given.context_length}"
        )
    keys = [key for key in ModelParams.model_fields if key not in {"positions", "dropout"}]
    if wanted.position_scheme != "rope":
        keys.remove("rope_theta")
    pairs = {f"model.{key}": (getattr(wanted, key), getattr(given, key)) for key in keys}
    pairs["model.positions"] = (wanted.position_scheme, given.position_scheme)
    differing = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    if differing:
        shown = list(differing.items())[:NAMES_SHOWN]
        raise UserError(
            f"pretrain.init_from: wanted {', '.join(f'{key}: {pair[0]}' for key, pair in shown)} as in {folder}, "
            f"given {', '.join(str(pair[1]) for _, pair in shown)}"
            + (f"; {len(differing) - len(shown)} more keys differ" if len(differing) > len(shown) else "")
        )
