"""A folder of weights as the model that finetuning, pretraining or generation starts from.

tokenizer.json     50257 tokens           →  50262: <|pad|>, <|bos|>, <|eos|>, <|im_start|>, <|im_end|>
model.safetensors  embedding (50257, D)   →  (50262, D), the new rows as `resize_embeddings` makes them
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import tokenizers

from llm.core.errors import UserError
from llm.export.hf.folder import read_config_file, read_folder
from llm.export.hf.tensors import read_object
from llm.model.gpt import GPT
from llm.model.weights import load_model, resize_embeddings
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
    """Return a language model and its tokenizer to generate text with, from any Hugging Face folder of `open_base`.

    The folder may also be weights of ours, such as models/pretrained, for ids of `tokenizer_file`. Tokens that a folder
    lacks have no row, so none of them is generated.
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
    """Return a folder's tokenizer, which puts before a text what the file's post-processor does, as in every client.

    Generation ends at the tokens of the folder's `eos_token_id`. Tokens that the folder lacks are not counted.
    """
    grown, n_known = read_tokenizer(folder)
    tokenizer = Tokenizer.of(grown)
    tokenizer.vocab_size = n_known
    library, ids = _library(folder), grown.get_vocab()
    tokenizer.prefix_ids = [ids[str(library.id_to_token(token))] for token in prefix_ids(library)]
    tokenizer.eos_ids = frozenset({tokenizer.end_of_text, *_eos_ids(folder)})
    return tokenizer


def _eos_ids(folder: Path) -> list[int]:
    """Return the `eos_token_id` of generation_config.json, or where it has none of config.json."""
    for path in (folder / "generation_config.json", folder / "config.json"):
        ids = read_object(path).get("eos_token_id") if path.exists() else None
        if ids is not None:
            return [token for token in (ids if isinstance(ids, list) else [ids]) if type(token) is int]
    return []


def _library(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
