r"""Train byte pair encoding on the bytes of a text, and drop merges at random.

    "it's low" ──split pattern──► "it" "'s" " low" ──UTF-8──► bytes ──merges, lowest rank first──► tokens

An unseen word breaks into known subwords, down to single bytes: every text has tokens. Which question this answers:
why byte pair encoding?
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

# Written so that Oniguruma (`tokenizers`), fancy-regex (`tiktoken`) and `regex` agree. OpenAI's own spellings do not:
# Oniguruma reads {1,3}+ as a repeated repetition, and $ as the end of any line.
PATTERNS = {
    "qwen2": rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SIGNS}|{_WHITESPACE}",  # words keep their space; single digits
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # numbers keep it too
    # GPT-4's: up to three digits together, and all the whitespace at the end of a text.
    "cl100k": rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|\s++(?![\s\S])|{_WHITESPACE}",
    "llama3": rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_WHITESPACE}",
}
PATTERN = PATTERNS["qwen2"]

# Bounds of training only: a merge costs the square of a piece's length (huggingface/tokenizers#497), and DNA,
# unpunctuated Chinese or a line of "^" is one piece. Ordinary text is below both, so its merges do not change.
MAX_PIECE_CHARS = 1024
MAX_TOKEN_BYTES = 256


def split_pattern(pattern: str) -> str:
    """Return the regular expression of a name in PATTERNS, or a given one; UserError where Oniguruma cannot read it."""
    expression = PATTERNS.get(pattern, pattern)
    try:
        Regex(expression)
    except Exception as error:  # the binding has no narrower class
        names = ", ".join(PATTERNS)
        raise UserError(f"pattern: expected {names} or a regular expression, got {pattern}: {error}") from None
    return expression


def byte_level(model: models.BPE, expression: str) -> tokenizers.Tokenizer:
    """Return a tokenizer that splits by `expression`, loses nothing between matches, and gives bytes to the model."""
    tokenizer = tokenizers.Tokenizer(model)
    split = pre_tokenizers.Split(Regex(expression), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_bpe(texts: Iterable[str], vocab_size: int, pattern: str = "qwen2") -> tokenizers.Tokenizer:
    """Learn merges until there are `vocab_size` tokens, special tokens and the 256 bytes included.

    A small corpus may run out of pairs before. Pieces are cut to MAX_PIECE_CHARS in training, never in encoding.
    Sennrich et al. 2016 (arXiv:1508.07909), on bytes.

    >>> trained = train_bpe(["low lower lowest"], 6 + 256 + 3)
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
    """Return a splitter into the pieces of `expression`, of at most about MAX_PIECE_CHARS."""
    if expression in PATTERNS.values():  # in its quantifiers, which costs no time
        bounded = re.sub(r"\+\+?", f"{{1,{MAX_PIECE_CHARS}}}", expression).replace("*", f"{{0,{MAX_PIECE_CHARS}}}")
        return byte_level(models.BPE(), bounded).pre_tokenizer
    cut = pre_tokenizers.Split(Regex(rf"(?m).{{{MAX_PIECE_CHARS}}}"), behavior="isolated")
    split, to_bytes = byte_level(models.BPE(), expression).pre_tokenizer
    return pre_tokenizers.Sequence([split, cut, to_bytes])


def _without_special_tokens(texts: Iterable[str]) -> Iterator[str]:
    """Cut texts between "<|" and "endoftext|>", so that no merge makes from characters what has an id already."""
    inside = re.compile("|".join(rf"(?<=<\|)(?={re.escape(token[2:])})" for token in SPECIAL_TOKENS))
    for text in texts:
        yield from inside.split(text) if "<|" in text else (text,)


_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
# The printable character of each byte, as GPT-2 chose it.
_CHARACTER = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + n) for n, byte in enumerate(_OTHERS)}
ALPHABET = {character: byte for byte, character in _CHARACTER.items()}


def to_bytes(token: str) -> bytes:
    r"""Return the bytes of a token in a tokenizer.json; KeyError for a character outside of ALPHABET.

    >>> to_bytes("Ġdé")
    b' d\xe9'
    """
    return bytes(ALPHABET[character] for character in token)


def from_bytes(token: bytes) -> str:
    """Return a token's bytes as a tokenizer.json has them."""
    return "".join(_CHARACTER[byte] for byte in token)


def parts_of(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """Return the two tokens that a token is merged from, by the ranks alone; more where no merge makes it.

    >>> parts_of(b"lower", {b"lo": 256, b"er": 257, b"low": 258, b"lower": 259})
    [b'low', b'er']
    """
    parts = [token[at : at + 1] for at in range(len(token))]
    while len(parts) > 2:
        merged = [first + second for first, second in pairwise(parts)]
        ranked = [(ranks[name], at) for at, name in enumerate(merged) if name in ranks]
        if not ranked:
            break
        _, at = min(ranked)
        parts[at : at + 2] = [merged[at]]
    return parts


def merge_with_dropout(
    ids: list[int], merges: dict[tuple[int, int], int], dropout_p: float, draw: Callable[[], float]
) -> list[int]:
    """Merge the ids of one piece's bytes: `merges` maps pairs to ids, and the lowest id goes first.

    At each step every possible merge is left out with probability `dropout_p`; `draw` gives numbers from [0, 1).
    BPE-dropout, Provilkov et al. 2020 (arXiv:1910.13267), algorithm 1; that of `tokenizers` cannot be seeded.

    >>> merge_with_dropout([1, 2, 3], {(1, 2): 4, (4, 3): 5}, 0.5, iter([0.9, 0.1]).__next__)
    [4, 3]
    """
    while True:
        possible = [
            (merges[pair], at) for at, pair in enumerate(pairwise(ids)) if pair in merges and draw() >= dropout_p
        ]
        if not possible:
            return ids
        merged, at = min(possible)
        ids = [*ids[:at], merged, *ids[at + 2 :]]
