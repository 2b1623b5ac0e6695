"""Encode text to token ids and decode it, with any tokenizer.json.

    tokenizer.json ──Tokenizer.load──► byte-level BPE with a pattern from PATTERNS    TiktokenTokenizer, the fastest
                                       byte-level BPE with another pattern            BytePairTokenizer, with dropout
                                       words, characters, anything else               Tokenizer, over `tokenizers`

Special tokens inside a text are ordinary text: only the token stream and the chat format add special tokens.
"""

import json
import random
import re
from collections.abc import Callable, Iterable
from itertools import takewhile
from pathlib import Path

import numpy as np
import regex  # type: ignore[import-untyped]
import tiktoken
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, pre_tokenizers

from llm.core.errors import UserError
from llm.core.threads import map_in_threads
from llm.tokens.bpe import ALPHABET, MAX_TOKEN_BYTES, PATTERNS, merge_with_dropout, to_bytes
from llm.tokens.special import END_OF_TEXT, PAD, SPECIAL_TOKENS
from llm.tokens.tokenizer_json import (
    components,
    is_byte_level,
    merges_in_order,
    special_ids,
    split_expression,
    token_ranks,
)

DROPOUT_PART_BYTES = 64  # of a piece longer than MAX_TOKEN_BYTES: each merge with dropout looks at all of its part
LONG_WHITESPACE = 500_000  # fancy-regex, which tiktoken splits with, fails at a run of a million characters


class Tokenizer:
    """Any tokenizer, over `tokenizers`. Ids go from 0 up without a gap.

    >>> from llm.tokens.words import train_words
    >>> words = Tokenizer(train_words(["My name is Ripesh"], 100, 1, keep_whitespace=False))
    >>> words.encode("My name is Ripesh Ghimire"), words.unk_id
    ([7, 10, 9, 8, 6], 6)
    >>> words.decode([7, 10, 9, 8, 6])
    'My name is Ripesh <|unk|>'
    """

    special: dict[str, int]  # every special token and its id; SPECIAL_TOKENS are among them
    vocab_size: int
    unk_id: int | None
    lossless: bool  # whether decode(encode(text)) is certain to be text for every text
    prefix_ids: list[int]  # of the file's post-processor, before a text to continue; else `end_of_text`
    eos_ids: frozenset[int]  # the ids at which generation ends
    encode_chat: Callable[[list[tuple[str, str]]], list[int]] | None = None  # where messages are not ChatML

    def __init__(self, library: tokenizers.Tokenizer):
        self._content = content = json.loads(library.to_str())
        self._library = library
        library.encode_special_tokens = True
        library.no_truncation()
        library.no_padding()
        self.special = special_ids(content)
        self.vocab_size = library.get_vocab_size()
        unknown = content["model"].get("unk_token")
        self.unk_id = content["model"].get("unk_id") if unknown is None else library.token_to_id(unknown)
        self.lossless = is_byte_level(content)
        between_documents = [self.end_of_text] if END_OF_TEXT in self.special else []
        self.prefix_ids = prefix_ids(library) or between_documents
        self.eos_ids = frozenset(between_documents)
        self._reserved = {token: name for name, token in self.special.items() if token != self.unk_id}

    @staticmethod
    def load(path: Path) -> "Tokenizer":
        """Read a tokenizer.json; UserError where it is not valid, or lacks one of SPECIAL_TOKENS."""
        library = read_library(path)
        special = special_ids(json.loads(library.to_str()))
        if missing := [name for name in SPECIAL_TOKENS if name not in special]:
            raise UserError(f"{path}: expected the special tokens {', '.join(SPECIAL_TOKENS)}; {missing[0]} is missing")
        return Tokenizer.of(library)

    @staticmethod
    def of(library: tokenizers.Tokenizer) -> "Tokenizer":
        """Return the fastest class that gives the ids of a library's tokenizer."""
        content = json.loads(library.to_str())
        expression = split_expression(content) if is_byte_level(content) and merges_in_order(content) else None
        if expression is None:
            return Tokenizer(library)
        return (TiktokenTokenizer if expression in PATTERNS.values() else BytePairTokenizer)(library, expression)

    @property
    def end_of_text(self) -> int:
        """Return the id between documents."""
        return self.special[END_OF_TEXT]

    @property
    def pad(self) -> int:
        """Return the id of padding."""
        return self.special[PAD]

    @property
    def bos_token(self) -> str:
        """Return the token before each text in training: the file's own, else <|endoftext|>."""
        return next((name for name, token in self.special.items() if [token] == self.prefix_ids), END_OF_TEXT)

    @property
    def bos_id(self) -> int:
        """Return the id of `bos_token`."""
        return self.special[self.bos_token]

    def prompt(self, text: str) -> list[int]:
        """Return the ids that continue a text, as other clients make them; at least one."""
        return [*self.prefix_ids, *self.encode(text)] or [self.bos_id]

    def normalize(self, text: str) -> str:
        """Return the text as the file's normalizer makes it."""
        return self._library.normalizer.normalize_str(text) if self._library.normalizer else text

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text. The library's `encode` would block other threads."""
        return self._ordinary(self._library.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def encode_batch(self, texts: list[str], n_threads: int) -> list[NDArray[np.uint32]]:
        """Return the ids of texts; here on the library's own threads, as RAYON_NUM_THREADS says."""

        def encode(texts: list[str]) -> list[tokenizers.Encoding]:
            return self._library.encode_batch_fast(texts, add_special_tokens=False)

        (encodings,) = map_in_threads(encode, [texts], 1)
        return [np.array(self._ordinary(encoding.ids), dtype=np.uint32) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, special tokens by their names; incomplete characters become U+FFFD."""
        return self._library.decode(list(ids), skip_special_tokens=False)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one id: SentencePiece's "▁" is a space, WordPiece's "##" is none."""
        name = self._library.id_to_token(token)
        if name is None:
            raise KeyError(token)
        decoders = {part["type"]: part for part in components(self._content["decoder"])}
        if token in self.special.values():
            return name.encode()
        if "ByteLevel" in decoders and ALPHABET.keys() >= set(name):
            return to_bytes(name)
        if "ByteFallback" in decoders and re.fullmatch("<0x[0-9A-F]{2}>", name):
            return bytes.fromhex(name[3:5])
        if decoders.keys() & {"Metaspace", "Replace"}:
            name = name.replace("▁", " ")
        if "WordPiece" in decoders:
            name = name.removeprefix(decoders["WordPiece"]["prefix"])
        return name.encode()

    def encode_with_dropout(self, text: str, dropout_p: float, rng: random.Random) -> list[int]:
        """Raise UserError: only a BytePairTokenizer can leave merges out."""
        kind = self._content["model"]["type"]
        raise UserError(f"dropout: expected a byte-level BPE with merges in the order of their ids, got a {kind}")

    def _ordinary(self, ids: list[int]) -> list[int]:
        """Replace special tokens by their characters: Unigram models find "</s>" as a piece in a line of HTML."""
        if self._reserved.keys().isdisjoint(ids):
            return ids
        return [piece for token in ids for piece in (self._spelled(token) if token in self._reserved else [token])]

    def _spelled(self, token: int) -> list[int]:
        pieces = (piece.id for letter in self._reserved[token] for piece in self._library.model.tokenize(letter))
        return [piece for piece in pieces if piece not in self._reserved]


class BytePairTokenizer(Tokenizer):
    """Byte-level BPE whose merges are in the order of the ids that they make, so that they can be dropped."""

    def __init__(self, library: tokenizers.Tokenizer, expression: str):
        super().__init__(library)
        self._ranks = token_ranks(self._content)
        self._bytes = {token: name for name, token in self._ranks.items()}
        ids, merges = (self._content["model"][key] for key in ("vocab", "merges"))
        self._merges = {(ids[first], ids[second]): ids[first + second] for first, second in merges}
        self._splitter = pre_tokenizers.Split(Regex(expression), behavior="isolated")

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one id."""
        return self._bytes[token] if token in self._bytes else super().token_bytes(token)

    def encode_with_dropout(self, text: str, dropout_p: float, rng: random.Random) -> list[int]:
        """Return the ids of a text with each merge left out with probability `dropout_p` (`merge_with_dropout`).

        The same state of `rng` gives the same ids; 0 is `encode`, 1 leaves bytes.
        """
        if dropout_p == 0:
            return self.encode(text)
        ids: list[int] = []
        for piece in self._pieces(text):
            letters = [self._ranks[bytes([byte])] for byte in piece.encode()]
            size = len(letters) if len(letters) <= MAX_TOKEN_BYTES else DROPOUT_PART_BYTES
            for start in range(0, len(letters), max(size, 1)):
                ids += merge_with_dropout(letters[start : start + size], self._merges, dropout_p, rng.random)
        return ids

    def _pieces(self, text: str) -> list[str]:
        return [text[start:end] for _, (start, end) in self._splitter.pre_tokenize_str(text)]


class TiktokenTokenizer(BytePairTokenizer):
    """Byte-level BPE over `tiktoken`, for patterns that all libraries read alike."""

    def __init__(self, library: tokenizers.Tokenizer, expression: str):
        super().__init__(library, expression)
        self._expression = regex.compile(expression)
        self._encoding = tiktoken.Encoding(
            "groundup", pat_str=expression, mergeable_ranks=self._ranks, special_tokens=self.special
        )

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return self._encoding.encode_ordinary(text) if _is_splittable(text) else super().encode(text)

    def encode_batch(self, texts: list[str], n_threads: int) -> list[NDArray[np.uint32]]:
        """Return the ids of texts, on `n_threads` threads."""
        return map_in_threads(self._encode_to_numpy, texts, n_threads)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids."""
        return self._encoding.decode(list(ids), errors="replace")

    def _encode_to_numpy(self, text: str) -> NDArray[np.uint32]:
        if not _is_splittable(text):
            return np.array(self.encode(text), dtype=np.uint32)
        return self._encoding.encode_to_numpy(text, disallowed_special=())

    def _pieces(self, text: str) -> list[str]:
        return self._expression.findall(text)


def read_library(path: Path) -> tokenizers.Tokenizer:
    """Read a tokenizer.json with the ids as they are written; UserError in one line where it is not valid."""
    try:
        text = path.read_text(encoding="utf-8")
        library = tokenizers.Tokenizer.from_str(text)
        added = {token["content"]: token["id"] for token in json.loads(text).get("added_tokens") or []}
    except Exception as error:  # the binding has no narrower class
        raise UserError(f"{path}: expected a tokenizer.json, got: {' '.join(str(error).split())}") from None
    # The library gives other ids than the written ones where those have a gap.
    ids = library.get_vocab()
    if any(ids[name] != token for name, token in added.items()) or sorted(ids.values()) != list(range(len(ids))):
        raise UserError(f"{path}: expected ids from 0 up, each once and without a gap, special tokens included")
    return library


def prefix_ids(library: tokenizers.Tokenizer) -> list[int]:
    """Return the ids that a tokenizer's post-processor puts before a text."""
    encoding = library.encode("a")
    pairs = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
    return [token for token, _ in takewhile(lambda pair: pair[1] == 1, pairs)]


def _is_splittable(text: str) -> bool:
    return len(text) < LONG_WHITESPACE or max(map(len, re.findall(r"\s+", text)), default=0) < LONG_WHITESPACE
