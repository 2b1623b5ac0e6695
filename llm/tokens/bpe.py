r"""Byte pair encoding over the bytes of a text: how text is split, how merges are learnt, how they are dropped.

    "it's low" ──split pattern──► "it" "'s" " low" ──UTF-8──► bytes ──merges, lowest rank first──► tokens

A word that was never seen breaks into subwords that were, down to single bytes: every text has tokens. Which
question this answers: why byte pair encoding?
"""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from llm.core.errors import UserError
from llm.core.threads import map_in_threads
from llm.tokens.special import SPECIAL_TOKENS

_CONTRACTION, _WORD, _SIGNS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"[^\r\n\p{L}\p{N}]?\p{L}+", r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_WHITESPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"

# In words that Oniguruma (`tokenizers`), fancy-regex (`tiktoken`) and `regex` read alike. OpenAI's own spellings
# are not among them: Oniguruma takes {1,3}+ for a repetition of the repetition, and $ for the end of any line.
PATTERNS = {
    # Words keep the space before them, digits stand alone; llama.cpp knows it by this name.
    "qwen2": rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SIGNS}|{_WHITESPACE}",
    # Digits stand together, and keep the space before them too.
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # GPT-4's: up to three digits together, and all the whitespace at the end of a text.
    "cl100k": rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|\s++(?![\s\S])|{_WHITESPACE}",
    # Llama 3's: as GPT-4's but for the end of a text.
    "llama3": rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_WHITESPACE}",
}
PATTERN = PATTERNS["qwen2"]

# Bounds of training only: a merge costs the trainer the square of a piece's length (huggingface/tokenizers#497), and
# DNA, unpunctuated Chinese or a line of "^" is one piece. Ordinary text is below both, and has the merges it had.
MAX_PIECE_CHARS = 1024
MAX_TOKEN_BYTES = 256


def split_pattern(pattern: str) -> str:
    r"""The regular expression of a name in PATTERNS, or the one that is given; text between its matches is kept.

    >>> split_pattern(r"\d+") == r"\d+", split_pattern("gpt2") == PATTERNS["gpt2"]
    (True, True)

    Raises UserError for one that Oniguruma, whose syntax it has, cannot read.
    """
    expression = PATTERNS.get(pattern, pattern)
    try:
        Regex(expression)
    except Exception as error:  # the binding has no narrower class
        names = ", ".join(PATTERNS)
        raise UserError(f"pattern: wanted {names} or a regular expression, given {pattern}: {error}") from None
    return expression


def byte_level(model: models.BPE, expression: str) -> tokenizers.Tokenizer:
    """A tokenizer that splits by `expression` and gives each piece's bytes to the model.

    >>> pieces = byte_level(models.BPE(), PATTERNS["gpt2"]).pre_tokenizer.pre_tokenize_str("déjà vu")
    >>> [piece for piece, place in pieces]
    ['dÃ©jÃł', 'Ġvu']
    """
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_bpe(texts: Iterable[str], vocab_size: int, pattern: str) -> tokenizers.Tokenizer:
    """Learn merges until there are `vocab_size` tokens, special tokens and the 256 bytes included.

    A small corpus may run out of pairs before: the caller compares `get_vocab_size()`. `pattern` is as in
    `split_pattern`. Longer pieces are cut to MAX_PIECE_CHARS to learn from, and never to encode. Sennrich et al. 2016
    (arXiv:1508.07909), on bytes.

    >>> trained = train_bpe(["low lower lowest"], 6 + 256 + 3, "qwen2")
    >>> trained.encode("lower").tokens, trained.encode("<|endoftext|>").ids
    (['low', 'e', 'r'], [0])
    """
    expression = split_pattern(pattern)
    tokenizer = byte_level(models.BPE(), expression)
    plain = tokenizer.pre_tokenizer
    tokenizer.pre_tokenizer = _bounded(expression)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        max_token_length=MAX_TOKEN_BYTES,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    map_in_threads(lambda pieces: tokenizer.train_from_iterator(pieces, trainer), [_without_special_tokens(texts)], 1)
    tokenizer.pre_tokenizer = plain
    return tokenizer


def _bounded(expression: str) -> pre_tokenizers.PreTokenizer:
    """Split as `expression` does, with no piece longer than about MAX_PIECE_CHARS.

    A named pattern is bounded in its quantifiers, which costs no time; another one is followed by a second split.
    """
    if expression in PATTERNS.values():
        bounded = re.sub(r"\+\+?", f"{{1,{MAX_PIECE_CHARS}}}", expression).replace("*", f"{{0,{MAX_PIECE_CHARS}}}")
        return byte_level(models.BPE(), bounded).pre_tokenizer
    cut = pre_tokenizers.Split(Regex(rf"(?m).{{{MAX_PIECE_CHARS}}}"), behavior="isolated")
    split, to_bytes = byte_level(models.BPE(), expression).pre_tokenizer
    return pre_tokenizers.Sequence([split, cut, to_bytes])


# The patterns with a name cut there anyway.
_INSIDE_SPECIAL = re.compile("|".join(rf"(?<=<\|)(?={re.escape(token[2:])})" for token in SPECIAL_TOKENS))


def _without_special_tokens(texts: Iterable[str]) -> Iterator[str]:
    """The texts, cut inside "<|endoftext|>" and the like: merges must not make of letters what has an id already."""
    for text in texts:
        yield from _INSIDE_SPECIAL.split(text) if "<|" in text else (text,)


def _byte_alphabet() -> dict[str, int]:
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


# The printable character by which byte-level BPE writes each byte, as GPT-2 chose it.
ALPHABET = _byte_alphabet()
_CHARACTER = {byte: character for character, byte in ALPHABET.items()}


def to_bytes(token: str) -> bytes:
    r"""The bytes of a token as a tokenizer.json writes it; KeyError where a character stands for none.

    >>> to_bytes("Ġdé")
    b' d\xe9'
    """
    return bytes(ALPHABET[character] for character in token)


def from_bytes(token: bytes) -> str:
    r"""How a tokenizer.json writes a token's bytes.

    >>> from_bytes(b" d\xe9")
    'Ġdé'
    """
    return "".join(_CHARACTER[byte] for byte in token)


def parts_of(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens that a token is merged from, told from the ranks alone; more where no merge makes it.

    >>> parts_of(b"lower", {b"lo": 256, b"er": 257, b"low": 258, b"lower": 259})
    [b'low', b'er']
    """
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        merged = [first + second for first, second in pairwise(parts)]
        known = [(ranks[name], place) for place, name in enumerate(merged) if name in ranks]
        if not known:
            break
        _, place = min(known)
        parts[place : place + 2] = [merged[place]]
    return parts


def merge_with_dropout(
    ids: list[int], merges: dict[tuple[int, int], int], rate: float, draw: Callable[[], float]
) -> list[int]:
    """The ids of one piece's bytes, merged: `merges` holds what two ids become, and the lowest of those goes first.

    At each step every possible merge is left out with probability `rate`; `draw` gives numbers from [0, 1). When
    all are left out, or none is possible, that is it: BPE-dropout, Provilkov et al. 2020 (arXiv:1910.13267),
    algorithm 1. `tokenizers` has it too, but draws from a generator that nobody can seed.

    >>> merge_with_dropout([1, 2, 3], {(1, 2): 4, (4, 3): 5}, 0.5, iter([0.9, 0.1]).__next__)
    [4, 3]
    """
    while True:
        possible = [
            (merges[pair], place) for place, pair in enumerate(pairwise(ids)) if pair in merges and draw() >= rate
        ]
        if not possible:
            return ids
        merged, place = min(possible)
        ids = [*ids[:place], merged, *ids[place + 2 :]]
