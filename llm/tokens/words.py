r"""Train vocabularies of whole words or single characters: the most frequent get an id, the others are `<|unk|>`.

    "I can't,  Bob" ──► "I" " " "can" "'" "t" "," "  " "Bob"      whitespace kept
    "I can't,  Bob" ──► "I" "can" "'" "t" "," "Bob"               whitespace dropped
    "I can't"       ──► "I" " " "c" "a" "n" "'" "t"               characters

For comparison with byte pair encoding: here an unseen word has no id.
"""

from collections.abc import Iterable

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from llm.core.errors import UserError
from llm.tokens.special import SPECIAL_TOKENS, UNKNOWN

# A word; a run of one and the same whitespace character; any other character. "\n\n        " is two tokens: runs of
# mixed whitespace would be many words, each too rare to get an id.
_WORDS_AND_WHITESPACE = r"\w+|(\s)\1*|[^\w\s]"
_WORDS = r"\w+|[^\w\s]"
_CHARACTERS = r"[\s\S]"


def train_words(
    texts: Iterable[str], vocab_size: int, min_frequency: int, keep_whitespace: bool
) -> tokenizers.Tokenizer:
    r"""Make a vocabulary of the words and punctuation marks that occur `min_frequency` times or more.

    The most frequent come first, ties in the order of code points, up to `vocab_size` tokens, special ones included;
    UserError where that leaves no room. Decoding joins words by a space where whitespace was not kept.

    >>> trained = train_words(["a rose is a rose, is it?"], 100, 2, keep_whitespace=False)
    >>> trained.encode("a  rose, is a flower").tokens
    ['a', 'rose', '<|unk|>', 'is', 'a', '<|unk|>']
    """
    if keep_whitespace:
        return _train(texts, vocab_size, min_frequency, _WORDS_AND_WHITESPACE, "isolated")
    return _train(texts, vocab_size, min_frequency, _WORDS, "removed")


def train_chars(texts: Iterable[str], vocab_size: int, min_frequency: int) -> tokenizers.Tokenizer:
    """Make a vocabulary of code points, as `train_words`."""
    return _train(texts, vocab_size, min_frequency, _CHARACTERS, "isolated")


def _train(
    texts: Iterable[str], vocab_size: int, min_frequency: int, expression: str, behavior: str
) -> tokenizers.Tokenizer:
    special = [*SPECIAL_TOKENS, UNKNOWN]
    if vocab_size <= len(special):
        raise UserError(f"vocab_size: expected more than the {len(special)} special tokens, got {vocab_size}")
    tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    removed = behavior == "removed"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(expression), behavior=behavior, invert=removed)
    if not removed:  # without a decoder the library puts a space between tokens
        tokenizer.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
