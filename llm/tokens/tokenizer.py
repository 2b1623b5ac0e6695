"""Text to token ids and back, from any tokenizer.json: one interface, whatever kind of tokenizer it is.

    tokenizer.json ──Tokenizer.load──► byte-level BPE, a pattern from PATTERNS    tiktoken, the fastest
                                       byte-level BPE, a pattern of its own       `tokenizers`, with dropout
                                       words, characters, anything else           `tokenizers`

Special tokens inside a text are ordinary text for all of them: only the token stream and the chat format place them.
"""

import json
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import regex  # type: ignore[import-untyped]
import tiktoken
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, pre_tokenizers

from llm.core.errors import UserError
from llm.core.threads import map_in_threads
from llm.tokens.bpe import (
    ALPHABET,
    MAX_TOKEN_BYTES,
    PATTERNS,
    merge_with_dropout,
    parts_of,
    to_bytes,
    train_bpe,
)
from llm.tokens.special import END_OF_TEXT, PAD, SPECIAL_TOKENS


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """The project's own kind: byte-level BPE with Qwen2's split pattern; as `train_bpe`.

    >>> train_tokenizer(["hihi"], 6 + 256 + 1).encode("hi!").tokens
    ['hi', '!']
    """
    return train_bpe(texts, vocab_size, "qwen2")


class Tokenizer(ABC):
    """Text to ids and back. Ids go from 0 up without a gap; special tokens inside a text are ordinary text."""

    special: dict[str, int]  # every reserved token and its id; SPECIAL_TOKENS are among them
    vocab_size: int
    unk_id: int | None  # the id of what has none, or None
    lossless: bool  # decode(encode(text)) is text for every text; False too where that is not certain
    prefix_ids: list[int]  # of the file's post-processor, before a text to continue; else `end_of_text`
    eos_ids: frozenset[int]  # the ids at which a text that is generated ends
    encode_chat: Callable[[list[tuple[str, str]]], list[int]] | None  # where messages are not written as ChatML

    @staticmethod
    def load(path: Path) -> "Tokenizer":
        """Read a tokenizer.json of any kind; UserError where it is none, or lacks one of SPECIAL_TOKENS."""
        library = read_library(path)
        special = _special(json.loads(library.to_str()))
        if missing := [name for name in SPECIAL_TOKENS if name not in special]:
            raise UserError(f"{path}: wanted the special tokens {', '.join(SPECIAL_TOKENS)}; {missing[0]} is missing")
        return Tokenizer.of(library)

    @staticmethod
    def of(library: tokenizers.Tokenizer) -> "Tokenizer":
        """Return the fastest class that gives the ids of a library's tokenizer, which has SPECIAL_TOKENS."""
        content = json.loads(library.to_str())
        if not _is_byte_level(content) or (expression := _split_of(content)) is None or not _in_order(content):
            return LibraryTokenizer(library)
        return (TiktokenTokenizer if expression in PATTERNS.values() else BytePairTokenizer)(library, expression)

    @property
    def end_of_text(self) -> int:
        """The id that stands between documents."""
        return self.special[END_OF_TEXT]

    @property
    def pad(self) -> int:
        """The id that fills a row up to its batch's length."""
        return self.special[PAD]

    @property
    def bos_id(self) -> int:
        """The id before each text in training: the file's own where it has one, else the one between documents."""
        return self.special[self.bos_token]

    @property
    def bos_token(self) -> str:
        """The name of `bos_id`."""
        return next((name for name, token in self.special.items() if [token] == self.prefix_ids), END_OF_TEXT)

    def prompt(self, text: str) -> list[int]:
        """Return the ids that continue a text, as other clients of the same tokenizer.json make them; never none."""
        return [*self.prefix_ids, *self.encode(text)] or [self.bos_id]

    def normalize(self, text: str) -> str:
        """Return the text as it is split: composed characters, say, where the file has such a normalizer."""
        return text

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text. `<|endoftext|>` in it is ordinary characters, not the special token."""

    @abstractmethod
    def encode_batch(self, texts: list[str], n_threads: int) -> list[NDArray[np.uint32]]:
        """The ids of many texts, an array a text, on several threads."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens by their names; bytes that are half a character become U+FFFD."""

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for."""

    @abstractmethod
    def encode_with_dropout(self, text: str, rate: float, rng: random.Random) -> list[int]:
        """The ids of a text with each merge left out with probability `rate`: other ones each time, the same text.

        UserError for every tokenizer but a byte-level BPE whose merges are in the order of the ids that they make.
        """


class LibraryTokenizer(Tokenizer):
    """Any tokenizer, over `tokenizers`.

    >>> from llm.tokens.words import train_words
    >>> words = LibraryTokenizer(train_words(["My name is Ripesh"], 100, 1, keep_whitespace=False))
    >>> words.encode("My name is Ripesh Ghimire"), words.unk_id
    ([7, 10, 9, 8, 6], 6)
    >>> words.decode([7, 10, 9, 8, 6])
    'My name is Ripesh <|unk|>'
    """

    def __init__(self, library: tokenizers.Tokenizer):
        self._content = content = json.loads(library.to_str())
        self._library = library
        self._library.encode_special_tokens = True
        self._library.no_truncation()
        self._library.no_padding()
        self.special = _special(content)
        self.vocab_size = library.get_vocab_size()
        self.unk_id = _unknown(content, library)
        self.lossless = _is_byte_level(content)
        between = [self.end_of_text] if END_OF_TEXT in self.special else []
        self.prefix_ids = prefix_ids(library) or between
        self.eos_ids = frozenset(between)
        self.encode_chat = None
        self._reserved = {token: name for name, token in self.special.items() if token != self.unk_id}

    def normalize(self, text: str) -> str:
        """Return the text as the normalizer makes it."""
        return self._library.normalizer.normalize_str(text) if self._library.normalizer else text

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Other threads go on meanwhile: the library's `encode` would hold them up."""
        return self._ordinary(self._library.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def encode_batch(self, texts: list[str], n_threads: int) -> list[NDArray[np.uint32]]:
        """The ids of many texts. The library's own threads do it, as many as RAYON_NUM_THREADS or the machine has."""

        def encode(texts: list[str]) -> list[tokenizers.Encoding]:
            return self._library.encode_batch_fast(texts, add_special_tokens=False)

        (encoded,) = map_in_threads(encode, [texts], 1)
        return [np.array(self._ordinary(text.ids), dtype=np.uint32) for text in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        return self._library.decode(list(ids), skip_special_tokens=False)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for: a SentencePiece "▁" is a space, WordPiece's "##" stands for nothing."""
        name = self._library.id_to_token(token)
        if name is None:
            raise KeyError(token)
        decoders = {part["type"]: part for part in _parts(self._content["decoder"])}
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

    def encode_with_dropout(self, text: str, rate: float, rng: random.Random) -> list[int]:
        """UserError: there are no merges here to leave out."""
        kind = self._content["model"]["type"]
        raise UserError(f"dropout: wanted a byte-level BPE with merges in the order of their ids, given a {kind}")

    def _ordinary(self, ids: list[int]) -> list[int]:
        """The ids, with the characters' in place of a special token's.

        The library leaves special tokens in a text alone, but a model may hold their names as ordinary pieces:
        Unigram finds "</s>" in a line of HTML.
        """
        if self._reserved.keys().isdisjoint(ids):
            return ids
        return [piece for token in ids for piece in (self._spelt(token) if token in self._reserved else [token])]

    def _spelt(self, token: int) -> list[int]:
        pieces = (piece.id for letter in self._reserved[token] for piece in self._library.model.tokenize(letter))
        return [piece for piece in pieces if piece not in self._reserved]


class BytePairTokenizer(LibraryTokenizer):
    r"""Byte-level BPE whose merges are known and in the order of the ids that they make: they can be dropped.

    >>> from llm.tokens.bpe import train_bpe
    >>> pairs = BytePairTokenizer(train_bpe(["hi hi"], 263, r"\S+|\s+"), r"\S+|\s+")
    >>> pairs.encode("hi!"), pairs.token_bytes(262)
    ([262, 6], b'hi')
    >>> pairs.encode_with_dropout("hi!", 0.99, random.Random(0)) == [*pairs.encode("h"), *pairs.encode("i"), 6]
    True
    """

    def __init__(self, library: tokenizers.Tokenizer, expression: str):
        super().__init__(library)
        model = self._content["model"]
        self._ranks = _ranks(self._content)
        self._bytes = {token: name for name, token in self._ranks.items()}
        self._byte_ids = [self._ranks[bytes([byte])] for byte in range(256)]
        ids = model["vocab"]
        self._merges = {(ids[first], ids[second]): ids[first + second] for first, second in model["merges"]}
        self._splitter = pre_tokenizers.Split(Regex(expression), behavior="isolated")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for."""
        return self._bytes[token] if token in self._bytes else super().token_bytes(token)

    def encode_with_dropout(self, text: str, rate: float, rng: random.Random) -> list[int]:
        """The ids of a text with each merge left out with probability `rate` at each step (`merge_with_dropout`).

        The same `rng` state gives the same ids. Rate 0 is `encode`; rate 1 leaves bytes. A piece longer than
        MAX_TOKEN_BYTES is merged in parts, for each step looks at all of it.
        """
        if rate == 0:
            return self.encode(text)
        ids: list[int] = []
        for piece in self._pieces(text):
            letters = [self._byte_ids[byte] for byte in piece.encode()]
            size = len(letters) if len(letters) <= MAX_TOKEN_BYTES else _DROPOUT_BYTES
            for start in range(0, len(letters), max(size, 1)):
                ids += merge_with_dropout(letters[start : start + size], self._merges, rate, rng.random)
        return ids

    def _pieces(self, text: str) -> list[str]:
        return [text[start:end] for _, (start, end) in self._splitter.pre_tokenize_str(text)]


_DROPOUT_BYTES = 64  # of a part of a long piece

# fancy-regex, which tiktoken splits with, gives up on a run of whitespace of a million characters.
_LONG_WHITESPACE = 500_000


class TiktokenTokenizer(BytePairTokenizer):
    """The same where the split pattern is one that the libraries are known to read alike: over `tiktoken`.

    >>> fast = TiktokenTokenizer(train_tokenizer(["hi hi"], 263), PATTERNS["qwen2"])
    >>> fast.encode_batch(["hi!", "hihi"], n_threads=2)
    [array([262,   6], dtype=uint32), array([262, 262], dtype=uint32)]
    """

    def __init__(self, library: tokenizers.Tokenizer, expression: str):
        super().__init__(library, expression)
        self._expression = regex.compile(expression)
        self._encoding = tiktoken.Encoding(
            "groundup", pat_str=expression, mergeable_ranks=self._ranks, special_tokens=self.special
        )

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return self._encoding.encode_ordinary(text) if _is_splittable(text) else super().encode(text)

    def encode_batch(self, texts: list[str], n_threads: int) -> list[NDArray[np.uint32]]:
        """The ids of many texts, on `n_threads` threads."""
        return map_in_threads(self._encode_to_numpy, texts, n_threads)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        return self._encoding.decode(list(ids), errors="replace")

    def _encode_to_numpy(self, text: str) -> NDArray[np.uint32]:
        if not _is_splittable(text):
            return np.array(self.encode(text), dtype=np.uint32)
        return self._encoding.encode_to_numpy(text, disallowed_special=())

    def _pieces(self, text: str) -> list[str]:
        return self._expression.findall(text)


def read_library(path: Path) -> tokenizers.Tokenizer:
    """A tokenizer.json as the library reads it, its ids as they are written; UserError in one line where it is none."""
    try:
        text = path.read_text(encoding="utf-8")
        library = tokenizers.Tokenizer.from_str(text)
        added = {token["content"]: token["id"] for token in json.loads(text).get("added_tokens") or []}
    except FileNotFoundError:
        raise UserError(f"{path}: wanted a tokenizer.json, there is none") from None
    except Exception as error:  # the binding has no narrower class
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: wanted a tokenizer.json, given one with a problem: {problem}") from None
    # The library hands out other ids than the written ones where those leave a gap.
    ids = library.get_vocab()
    if any(ids[name] != token for name, token in added.items()) or sorted(ids.values()) != list(range(len(ids))):
        raise UserError(f"{path}: wanted ids from 0 up, each once and without a gap, special tokens included")
    return library


def _special(content: dict[str, Any]) -> dict[str, int]:
    return {token["content"]: token["id"] for token in content["added_tokens"] if token["special"]}


def _unknown(content: dict[str, Any], library: tokenizers.Tokenizer) -> int | None:
    model = content["model"]
    name = model.get("unk_token")
    return model.get("unk_id") if name is None else library.token_to_id(name)


def prefix_ids(library: tokenizers.Tokenizer) -> list[int]:
    """Return the ids that a tokenizer's post-processor puts before a text."""
    encoding = library.encode("a")
    pairs = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
    return [token for token, _ in takewhile(lambda pair: pair[1] == 1, pairs)]


def _parts(component: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What a normalizer, pre-tokenizer or decoder in a tokenizer.json is made of: a Sequence's parts, or itself."""
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [component]
    inside = next(value for key, value in component.items() if key != "type")
    return [part for nested in inside for part in _parts(nested)]


def _is_byte_level(content: dict[str, Any]) -> bool:
    """Whether each text is split without loss, and its pieces' bytes are all that the model sees.

    An added token that is not special may swallow the whitespace beside it, so that counts as a loss.
    """
    splits = _parts(content["pre_tokenizer"])
    return (
        content["model"]["type"] == "BPE"
        and ALPHABET.keys() <= content["model"]["vocab"].keys()
        and not any(content["model"][key] for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        and not _parts(content["normalizer"])
        and {part["type"] for part in splits} <= {"ByteLevel", "Split", "Digits"}
        and not any(part.get("add_prefix_space") or part.get("behavior") == "Removed" for part in splits)
        and [part["type"] for part in splits].count("ByteLevel") == 1
        and [part["type"] for part in _parts(content["decoder"])] == ["ByteLevel"]
        and all(token["special"] for token in content["added_tokens"])
    )


def _split_of(content: dict[str, Any]) -> str | None:
    """The one regular expression by which a text is split, or None where it is split otherwise."""
    match _parts(content["pre_tokenizer"]):
        case [{"type": "ByteLevel", "use_regex": True}]:
            return PATTERNS["gpt2"]
        case [
            {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "use_regex": False},
        ]:
            return expression
    return None


def _ranks(content: dict[str, Any]) -> dict[bytes, int]:
    """The id of each token's bytes."""
    special = _special(content)
    return {to_bytes(name): token for name, token in content["model"]["vocab"].items() if name not in special}


def _in_order(content: dict[str, Any]) -> bool:
    """Whether merging the pair that makes the lowest id, as tiktoken does, is merging the pair that is listed first.

    So it is when merges are listed in the order of what they make, and the two `parts_of` each token are a listed
    pair. Two neighbours in any text have come to be as they would have come to be with nothing around them, so
    no other pair that makes the token ever stands there. A token that comes down to more than two parts is found
    only as a whole piece: that is `ignore_merges`, which tiktoken always does.
    """
    model = content["model"]
    try:
        ranks = _ranks(content)
        made = [model["vocab"][first + second] for first, second in model["merges"]]
        listed = {(to_bytes(first), to_bytes(second)) for first, second in model["merges"]}
    except KeyError:
        return False
    if made != sorted(made) or not set(made) <= set(ranks.values()):
        return False
    for token in ranks:
        parts = parts_of(token, ranks)
        if len(parts) == 2 and (parts[0], parts[1]) not in listed:
            return False
        if len(parts) > 2 and not model["ignore_merges"]:
            return False
    return True


def _is_splittable(text: str) -> bool:
    return len(text) < _LONG_WHITESPACE or max(map(len, re.findall(r"\s+", text)), default=0) < _LONG_WHITESPACE
