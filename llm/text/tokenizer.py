"""The byte-level BPE tokenizer: trained by `tokenizers`, kept as tokenizer.json, encoding through `tiktoken`.

    text ──split pattern──► pieces ──UTF-8──► bytes ──merges──► token ids

Every text has ids and every id has bytes, so there is no `<|unk|>`. Which question this answers: why byte pair
encoding? It breaks a word that it has never seen into subwords that it has, down to single bytes.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tiktoken
import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from llm.errors import UserError

# Qwen2's pattern, which llama.cpp knows as "qwen2": words keep the space before them, digits stand alone.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

END_OF_TEXT, PAD, BOS, EOS = "<|endoftext|>", "<|pad|>", "<|bos|>", "<|eos|>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"

# Reserved when the tokenizer is trained, so that finetuning never has to grow the vocabulary, and each with an
# id of its own: a pad that is also the end of text teaches a model never to stop. Their ids are 0, 1, 2, …
SPECIAL_TOKENS = (END_OF_TEXT, PAD, BOS, EOS, IM_START, IM_END)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Learn merges until there are `vocab_size` tokens, special tokens and the 256 bytes included.

    A small corpus may run out of pairs before: the caller compares `get_vocab_size()`.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class Tokenizer:
    """Text to ids and back, from a tokenizer.json; special tokens inside a text are ordinary text.

    >>> ranks = {b"h": 0, b"i": 1, b"hi": 2}
    >>> encoding = tiktoken.Encoding("small", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    >>> Tokenizer(encoding, {}).encode("hihhi")
    [2, 0, 2]
    >>> Tokenizer(encoding, {}).decode([2, 0, 2])
    'hihhi'
    """

    def __init__(self, encoding: tiktoken.Encoding, special: dict[str, int]):
        self._encoding = encoding
        self.special = special
        self.vocab_size = encoding.n_vocab

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a tokenizer.json of the kind that `train_tokenizer` makes; UserError where it is none."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            special = {token["content"]: token["id"] for token in content["added_tokens"]}
            vocabulary = content["model"]["vocab"]
            pattern = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        except FileNotFoundError:
            raise UserError(f"{path}: wanted a tokenizer.json, there is none") from None
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, IndexError) as error:
            raise UserError(
                f"{path}: wanted a byte-level BPE tokenizer.json, given one with a problem at {error}"
            ) from None
        if missing := [name for name in SPECIAL_TOKENS if name not in special]:
            raise UserError(f"{path}: wanted the special tokens {', '.join(SPECIAL_TOKENS)}; {missing[0]} is missing")
        # The rank of a merge is the id of the token that it makes: `tokenizers` hands ids out in that order.
        ranks = {_to_bytes(token): rank for token, rank in vocabulary.items() if token not in special}
        if len(ranks) + len(special) != len(vocabulary) or max(vocabulary.values()) != len(vocabulary) - 1:
            raise UserError(f"{path}: wanted ids from 0 up without a gap, and every special token in the vocabulary")
        return cls(
            tiktoken.Encoding("groundup", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special), special
        )

    @property
    def end_of_text(self) -> int:
        """The id that stands between documents."""
        return self.special[END_OF_TEXT]

    @property
    def pad(self) -> int:
        """The id that fills a row up to its batch's length."""
        return self.special[PAD]

    def encode(self, text: str) -> list[int]:
        """The ids of a text. `<|endoftext|>` in it is eleven ordinary characters or so, not the special token."""
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: list[str], n_threads: int) -> list[list[int]]:
        """The ids of many texts, on several threads."""
        return self._encoding.encode_ordinary_batch(texts, num_threads=n_threads)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are half a character become U+FFFD."""
        return self._encoding.decode(list(ids), errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for."""
        return self._encoding.decode_single_token_bytes(token)


def _byte_alphabet() -> dict[str, int]:
    """The printable character by which byte-level BPE writes each byte, as GPT-2 chose it."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _to_bytes(token: str) -> bytes:
    return bytes(_ALPHABET[character] for character in token)


def batched_texts(rows: Iterable[dict[str, Any]], batch_bytes: int) -> Iterator[list[dict[str, Any]]]:
    """Rows with an `n_bytes`, in order, in batches of about `batch_bytes` bytes of text."""
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += row["n_bytes"]
        if size >= batch_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
