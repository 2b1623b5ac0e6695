"""A tokenizer that is brought along: its own vocabulary and ids, with the special tokens of this project behind them.

tokenizer.json, or a folder with one                         any model that `tokenizers` loads
x.tiktoken: "IQ== 0", a token in base64 and its rank         byte-level BPE, merges told from the ranks
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
_WANTED = "a tokenizer.json, a .tiktoken file, or a folder with a tokenizer.json or with vocab.json and merges.txt"


def read_pretrained(path: Path, pattern: str) -> tokenizers.Tokenizer:
    """The tokenizer in a file or folder: every text has the ids that it has where the tokenizer comes from.

    What would put tokens around a text is taken away, for the token stream places its own. Those of SPECIAL_TOKENS
    that are lacking come behind the vocabulary; ids that no token has get a token that no text has. `pattern`
    splits the text for a .tiktoken file, which has none of its own: see `split_pattern`.

    Raises UserError in one line that names the file where something is missing or broken.

    >>> import tempfile
    >>> from llm.tokens.bpe import train_bpe
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     train_bpe(["hi hi"], 263, "gpt2").save(f"{folder}/tokenizer.json")
    ...     read_pretrained(Path(folder), "gpt2").encode("hi!").ids
    [262, 6]
    """
    file = _file_in(path) if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path}: wanted {_WANTED}, there is none")
    if file.name in _PAIRS:
        return _finished(_read_pair(file), [], file)
    if file.suffix == ".json":
        return _finished(*_read_json(file), file)
    return _finished(_read_tiktoken(file, pattern), [], file)


def _file_in(folder: Path) -> Path:
    for name in ("tokenizer.json", *_PAIRS):
        if (folder / name).is_file():
            return folder / name
    ranks = list(folder.glob("*.tiktoken"))
    if len(ranks) != 1:
        raise UserError(f"{folder}: wanted {_WANTED}, given a folder without")
    return ranks[0]


def _read_json(file: Path) -> tuple[tokenizers.Tokenizer, list[dict[str, Any]]]:
    """The tokenizer, and its added tokens with the ids as they are written."""
    try:
        text = file.read_text(encoding="utf-8")
        return tokenizers.Tokenizer.from_str(text), json.loads(text).get("added_tokens") or []
    except Exception as error:  # the binding has no narrower class
        _refuse(file, "a tokenizer.json", error)


def _read_pair(file: Path) -> tokenizers.Tokenizer:
    merges = file.with_name(_PAIRS[file.name])
    if not merges.is_file():
        raise UserError(f"{merges}: wanted the merges that belong to {file.name}, there are none")
    try:
        tokenizer = tokenizers.Tokenizer(models.BPE.from_file(str(file), str(merges)))
    except Exception as error:  # the binding has no narrower class
        _refuse(file, f"a vocabulary, with its merges in {merges.name}", error)
    # CLIP's files have these names too; it marks where words end, and lower-cases them first.
    if missing := [token for token in pre_tokenizers.ByteLevel.alphabet() if tokenizer.token_to_id(token) is None]:
        raise UserError(f"{file}: wanted all 256 bytes, as GPT-2 writes them; {len(missing)} are missing")
    if tokenizer.token_to_id("!</w>") is not None:
        raise UserError(f"{file}: wanted GPT-2's byte-level BPE, given one that marks the ends of words by </w>")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _read_tiktoken(file: Path, pattern: str) -> tokenizers.Tokenizer:
    expression, ranks = split_pattern(pattern), _read_ranks(file)
    merges = [parts_of(token, ranks) for token in sorted(ranks, key=ranks.__getitem__)]
    model = models.BPE(
        vocab={from_bytes(token): rank for token, rank in ranks.items()},
        # One that comes down to more than two parts is found as a whole piece only, which `ignore_merges` means.
        merges=[(from_bytes(parts[0]), from_bytes(parts[1])) for parts in merges if len(parts) == 2],
        ignore_merges=True,
    )
    return byte_level(model, expression)


def _read_ranks(file: Path) -> dict[bytes, int]:
    """A .tiktoken file's ranks by token. tiktoken's own reader would give its first copy of a file that changed."""
    ranks: dict[bytes, int] = {}
    lines: dict[int, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            encoded, number_of = line.split()
            token, rank = base64.b64decode(encoded, validate=True), int(number_of)
            if not 0 <= rank < 1 << 32:
                raise ValueError
        except ValueError:
            shown = line[:40].decode(errors="replace")
            raise UserError(
                f"{file}: line {number}: wanted a token in base64, a space and its rank, given {shown!r}"
            ) from None
        if token in ranks or rank in lines:
            raise UserError(
                f"{file}: line {number}: wanted each token and each rank once, given one of line "
                f"{lines[ranks.get(token, rank)]} again"
            )
        ranks[token], lines[rank] = rank, number
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise UserError(f"{file}: wanted all 256 bytes as tokens; {len(missing)} are missing, first 0x{missing[0]:02X}")
    return ranks


def _finished(tokenizer: tokenizers.Tokenizer, added: list[dict[str, Any]], file: Path) -> tokenizers.Tokenizer:
    """The tokenizer as this project wants it; `added` are its added tokens with the ids that they are to have."""
    ids = tokenizer.get_vocab() | {token["content"]: token["id"] for token in added}
    gaps = _gaps(ids, file)
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    if gaps and model["type"] == "Unigram":
        raise UserError(f"{file}: wanted ids without a gap behind a Unigram vocabulary, {gaps[0]} is missing")
    if gaps:
        # A model has a row for such an id all the same. No merge makes these names.
        unused = {f"<|unused_{token}|>": token for token in gaps}
        model["vocab"] |= unused
        ids |= unused
    for name in SPECIAL_TOKENS:
        ids.setdefault(name, len(ids))
    content["added_tokens"] = _with_special_tokens(added, ids)
    content |= {"post_processor": None, "padding": None, "truncation": None}
    if "dropout" in model:
        model["dropout"] = None
    try:
        finished = tokenizers.Tokenizer.from_str(json.dumps(content))
        finished.encode("\U0010fffd")  # a model that wants a token for the unknown and has none fails at the first one
    except Exception as error:  # the binding has no narrower class
        _refuse(file, "a tokenizer that encodes every text", error)
    if finished.get_vocab() != ids:
        raise UserError(f"{file}: wanted added tokens with the ids that the vocabulary gives them, given other ids")
    return finished


def _gaps(ids: dict[str, int], file: Path) -> list[int]:
    """The ids below the largest that no token has."""
    largest = max(ids.values(), default=-1)
    if len(set(ids.values())) < len(ids):
        raise UserError(f"{file}: wanted an id of its own for each token, given two tokens with one")
    if largest >= 2 * len(ids):
        raise UserError(f"{file}: wanted ids with few gaps, given {len(ids)} tokens and ids up to {largest}")
    return sorted(set(range(largest + 1)) - set(ids.values()))


def _with_special_tokens(added: list[dict[str, Any]], ids: dict[str, int]) -> list[dict[str, Any]]:
    """The added tokens in the order of ids, SPECIAL_TOKENS among them."""
    tokens = {token["content"]: token for token in added}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for name in SPECIAL_TOKENS:
        tokens[name] = plain | tokens.get(name, {}) | {"id": ids[name], "content": name, "special": True}
    return sorted(tokens.values(), key=lambda token: int(token["id"]))


def _refuse(file: Path, wanted: str, error: Exception) -> NoReturn:
    problem = " ".join(str(error).split())[:300]
    raise UserError(f"{file}: wanted {wanted}, given one with a problem: {problem}") from None
