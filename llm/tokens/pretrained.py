"""Load a pretrained tokenizer with its own vocabulary and ids; this project's special tokens follow behind.

tokenizer.json, or a folder with one                         any model that `tokenizers` loads
x.tiktoken: "IQ== 0", a token in base64 and its rank         byte-level BPE, merges derived from the ranks
vocab.json and merges.txt, or encoder.json and vocab.bpe     GPT-2's byte-level BPE

vocabulary 0 … 50256  ──►  0 … 50256, 50257 <|pad|>, 50258 <|bos|>, …      <|endoftext|> was there
"""

import base64
import json
from pathlib import Path
from typing import Any, NoReturn

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from llm.core.errors import UserError
from llm.tokens.bpe import byte_level, from_bytes, parts_of, split_pattern
from llm.tokens.special import SPECIAL_TOKENS

_PAIRS = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}
_EXPECTED = "a tokenizer.json, a .tiktoken file, or a folder with a tokenizer.json or with vocab.json and merges.txt"


def path_under(folder: Path, given: str | None, key: str) -> Path | None:
    """Return a path from params.yaml, which must be in a folder that DVC tracks."""
    path = None if given is None else Path(given)
    if path and (".." in path.parts or not path.is_relative_to(folder)):
        raise UserError(f"{key}: expected a path under {folder}, got {path}")
    return path


def read_pretrained(path: Path, pattern: str) -> tokenizers.Tokenizer:
    """Read the tokenizer in a file or folder: every text has the ids that it has at its origin.

    The post-processor is removed: the token stream adds special tokens itself. Gaps in the ids get tokens that no text
    has. `pattern` splits the text for a .tiktoken file, which has none. UserError, with the file, where it is damaged.
    """
    ranks = list(path.glob("*.tiktoken"))
    candidates = [path / name for name in ("tokenizer.json", *_PAIRS)] + (ranks if len(ranks) == 1 else [])
    file = next((file for file in candidates if file.is_file()), path)
    if not file.is_file():
        raise UserError(f"{path}: expected {_EXPECTED}")
    if file.name in _PAIRS:
        return _completed(_read_pair(file), [], file)
    if file.suffix != ".json":
        return _completed(_read_tiktoken(file, pattern), [], file)
    try:
        text = file.read_text(encoding="utf-8")
        tokenizer, added = tokenizers.Tokenizer.from_str(text), json.loads(text).get("added_tokens") or []
    except Exception as error:  # the binding has no narrower class
        _refuse(file, "a tokenizer.json", error)
    return _completed(tokenizer, added, file)


def _read_pair(file: Path) -> tokenizers.Tokenizer:
    merges = file.with_name(_PAIRS[file.name])
    try:
        tokenizer = tokenizers.Tokenizer(models.BPE.from_file(str(file), str(merges)))
    except Exception as error:  # the binding has no narrower class
        _refuse(file, f"a vocabulary, with its merges in {merges.name}", error)
    # CLIP's files have these names too; it marks ends of words, and lower-cases them.
    missing = [token for token in pre_tokenizers.ByteLevel.alphabet() if tokenizer.token_to_id(token) is None]
    if missing or tokenizer.token_to_id("!</w>") is not None:
        got = f"{len(missing)} missing" if missing else "one that marks the ends of words by </w>"
        raise UserError(f"{file}: expected GPT-2's byte-level BPE with all 256 bytes, got {got}")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _read_tiktoken(file: Path, pattern: str) -> tokenizers.Tokenizer:
    expression, ranks = split_pattern(pattern), _read_ranks(file)
    merges = [parts_of(token, ranks) for token in sorted(ranks, key=ranks.__getitem__)]
    model = models.BPE(
        vocab={from_bytes(token): rank for token, rank in ranks.items()},
        # A token of more than two parts is found as a whole piece only, by `ignore_merges`.
        merges=[(from_bytes(parts[0]), from_bytes(parts[1])) for parts in merges if len(parts) == 2],
        ignore_merges=True,
    )
    return byte_level(model, expression)


def _read_ranks(file: Path) -> dict[bytes, int]:
    """Return the ranks by token; tiktoken's own reader would return a cached copy of a file that has changed."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            encoded, decimal = line.split()
            token, rank = base64.b64decode(encoded, validate=True), int(decimal)
        except ValueError:
            got = repr(line[:40].decode(errors="replace"))
            raise UserError(f"{file}: line {number}: expected a token in base64 and its rank, got {got}") from None
        if token in ranks or not 0 <= rank < 1 << 32:
            raise UserError(f"{file}: line {number}: expected each token once, with a rank below 2³², got {rank}")
        ranks[token] = rank
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise UserError(f"{file}: expected all 256 bytes; {len(missing)} are missing, first 0x{missing[0]:02X}")
    return ranks


def _completed(tokenizer: tokenizers.Tokenizer, added: list[dict[str, Any]], file: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer with all special tokens; `added` are its added tokens with their original ids."""
    ids = tokenizer.get_vocab() | {token["content"]: token["id"] for token in added}
    # A model has a row for an unused id too. No merge makes these names.
    unused = {f"<|unused_{token}|>": token for token in _gaps(ids, file)}
    content = json.loads(tokenizer.to_str())  # after `_gaps`: it goes through all ids up to the largest
    model = content["model"]
    if unused and model["type"] == "Unigram":
        raise UserError(f"{file}: expected ids without a gap behind a Unigram vocabulary, got {len(unused)} unused ids")
    if unused:
        model["vocab"] |= unused
    ids |= unused
    for name in SPECIAL_TOKENS:
        ids.setdefault(name, len(ids))
    content["added_tokens"] = _with_special_tokens(added, ids)
    content |= {"post_processor": None, "padding": None, "truncation": None}
    if "dropout" in model:
        model["dropout"] = None
    try:
        completed = tokenizers.Tokenizer.from_str(json.dumps(content))
        completed.encode("\U0010fffd")  # a model that lacks its unknown token fails at the first unknown character
    except Exception as error:  # the binding has no narrower class
        _refuse(file, "a tokenizer that encodes every text", error)
    if completed.get_vocab() != ids:
        raise UserError(f"{file}: expected added tokens with the ids that they have in the vocabulary, got other ids")
    return completed


def _gaps(ids: dict[str, int], file: Path) -> list[int]:
    """Return the unused ids below the largest."""
    largest = max(ids.values(), default=-1)
    if len(set(ids.values())) < len(ids):
        raise UserError(f"{file}: expected an id of its own for each token, got two tokens with one id")
    if largest >= 2 * len(ids):
        raise UserError(f"{file}: expected ids with few gaps, got {len(ids)} tokens and ids up to {largest}")
    return sorted(set(range(largest + 1)) - set(ids.values()))


def _with_special_tokens(added: list[dict[str, Any]], ids: dict[str, int]) -> list[dict[str, Any]]:
    """Return the added tokens in the order of ids, SPECIAL_TOKENS among them."""
    tokens = {token["content"]: token for token in added}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for name in SPECIAL_TOKENS:
        tokens[name] = plain | tokens.get(name, {}) | {"id": ids[name], "content": name, "special": True}
    return sorted(tokens.values(), key=lambda token: int(token["id"]))


def _refuse(file: Path, expected: str, error: Exception) -> NoReturn:
    raise UserError(f"{file}: expected {expected}, got: {' '.join(str(error).split())[:300]}") from None
