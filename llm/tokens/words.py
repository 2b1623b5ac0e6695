r"""Vocabularies of whole words, and of single characters: the commonest get an id, the others are `<|unk|>`.

    "I can't,  Bob" ──► "I" " " "can" "'" "t" "," "  " "Bob"      whitespace kept
    "I can't,  Bob" ──► "I" "can" "'" "t" "," "Bob"               whitespace dropped
    "I can't"       ──► "I" " " "c" "a" "n" "'" "t"               characters

What byte pair encoding is to be compared with: a word that was never seen has no id of its own here.
"""

from collections.abc import Iterable

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from llm.core.errors import UserError
from llm.tokens.special import SPECIAL_TOKENS, UNKNOWN

# A word; a run of one and the same whitespace character; any other character. "\n\n        " is two tokens, the
# line's end and the indentation: runs of mixed whitespace would be many words, each too seldom to get an id.
_WORDS_AND_WHITESPACE = r"\w+|(\s)\1*|[^\w\s]"
_WORDS = r"\w+|[^\w\s]"
_CHARACTERS = r"[\s\S]"


def train_words(
    texts: Iterable[str], vocab_size: int, min_frequency: int, keep_whitespace: bool
) -> tokenizers.Tokenizer:
    r"""A vocabulary of words and punctuation marks that stand `min_frequency` times or more, the commonest first.

    At most `vocab_size` tokens, special ones included; of two that are as common the lower in code points goes
    first. Kept whitespace has tokens of its own and comes back in decoding; dropped, words are joined by a space.

    >>> trained = train_words(["a rose is a rose, is it?"], 100, 2, keep_whitespace=False)
    >>> trained.encode("a  rose, is a flower").tokens
    ['a', 'rose', '<|unk|>', 'is', 'a', '<|unk|>']
    >>> kept = train_words(["a rose is a rose"], 100, 1, keep_whitespace=True)
    >>> kept.encode("rose a\n").tokens
    ['rose', ' ', 'a', '<|unk|>']

    Raises UserError where `vocab_size` leaves no room for a word.
    """
    if keep_whitespace:
        return _train(texts, vocab_size, min_frequency, _isolated(_WORDS_AND_WHITESPACE), decoders.Fuse())
    # Without a decoder the library puts a space between tokens.
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    return _train(texts, vocab_size, min_frequency, words, None)


def train_chars(texts: Iterable[str], vocab_size: int, min_frequency: int) -> tokenizers.Tokenizer:
    """A vocabulary of the code points that stand `min_frequency` times or more, in the order of `train_words`.

    >>> train_chars(["noon"], 100, 1).encode("no!").tokens
    ['n', 'o', '<|unk|>']

    Raises UserError where `vocab_size` leaves no room for a character.
    """
    return _train(texts, vocab_size, min_frequency, _isolated(_CHARACTERS), decoders.Fuse())


def _isolated(expression: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(expression), behavior="isolated")


def _train(
    texts: Iterable[str],
    vocab_size: int,
    min_frequency: int,
    splitter: pre_tokenizers.PreTokenizer,
    decoder: decoders.Decoder | None,
) -> tokenizers.Tokenizer:
    special = [*SPECIAL_TOKENS, UNKNOWN]
    if vocab_size <= len(special):
        raise UserError(f"vocab_size: wanted more than the {len(special)} special tokens, given {vocab_size}")
    tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = splitter
    if decoder is not None:
        tokenizer.decoder = decoder
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
