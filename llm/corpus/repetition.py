"""Does a text repeat itself? Gopher's rules (Rae et al. 2021, "Scaling Language Models", section A.1.1, table A1).

    "Buy now!⏎Buy now!⏎Buy now!⏎Bye." ──► two of four lines occurred before: 0.5 > 0.30 ──► "duplicate_lines"

A text breaks a rule when a share of it is larger than the rule's limit. The paper leaves some freedom. Here:

- A **line** ends at a newline, a **paragraph** at a blank line. White space around either does not count, and what is
  blank is neither.
- A **word** is what stands between white space. Case and punctuation make a difference. A script that writes no spaces
  has few words, and the rules on n-grams see little of it.
- A **character** is one that is not white space: in the share as in the whole, so that no share is above 1.
- A **duplicate** has occurred before in the text. The first occurrence is none: it is what would be left. So reads
  datatrove, too.
- The rules on n-grams look at words, and each character counts once, however many n-grams hold it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import count
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from llm.core.params import Section

Ints = NDArray[np.int64]

BLANK_LINE = re.compile(r"\n\s*\n")


class RepetitionParams(Section):
    """The largest shares of a document that may be repetition; the values are Gopher's (Rae et al. 2021, table A1)."""

    duplicate_lines: float = 0.30  # of the lines
    duplicate_paragraphs: float = 0.30  # of the paragraphs
    duplicate_line_chars: float = 0.20  # of the characters, as all that follow
    duplicate_paragraph_chars: float = 0.20
    top_ngram_chars: dict[str, float] = {"2": 0.20, "3": 0.18, "4": 0.16}  # of the commonest n-gram of words
    duplicate_ngram_chars: dict[str, float] = {"5": 0.15, "6": 0.14, "7": 0.13, "8": 0.12, "9": 0.11, "10": 0.10}

    @model_validator(mode="after")
    def _lengths_are_numbers(self) -> Self:
        for key in [*self.top_ngram_chars, *self.duplicate_ngram_chars]:
            if not re.fullmatch(r"[1-9]\d?", key):
                raise ValueError(f"wanted the length of an n-gram, 1 to 99, given {key}")
        return self


def repetition(text: str, limits: RepetitionParams) -> str | None:
    r"""The first rule that a text breaks, or None: lines, then paragraphs, then n-grams from short to long.

    A rule has the name of its field; one on n-grams has their length at its end.

    >>> repetition("Buy now!\nBuy now!\nBuy now!\nBye.", RepetitionParams())
    'duplicate_lines'
    >>> repetition("to be or not to be", RepetitionParams())  # "to be" twice: 8 of 13 characters
    'top_ngram_chars_2'
    >>> repetition("or not to be", RepetitionParams())
    """
    words = text.split()
    n_chars = sum(map(len, words))
    if not n_chars:
        return None
    line_share, line_chars = duplicates(text.split("\n"))
    if line_share > limits.duplicate_lines:
        return "duplicate_lines"
    if line_chars / n_chars > limits.duplicate_line_chars:
        return "duplicate_line_chars"
    paragraph_share, paragraph_chars = duplicates(BLANK_LINE.split(text))
    if paragraph_share > limits.duplicate_paragraphs:
        return "duplicate_paragraphs"
    if paragraph_chars / n_chars > limits.duplicate_paragraph_chars:
        return "duplicate_paragraph_chars"
    return _ngram_rule(words, n_chars, limits)


def duplicates(parts: list[str]) -> tuple[float, int]:
    """Of the parts that are not blank: the share that occurred before, and the characters of those.

    >>> duplicates(["a b", "cd", "  a b", "", "a b"])
    (0.5, 4)
    """
    times = Counter(filter(None, map(str.strip, parts)))
    n_duplicates = times.total() - len(times)
    n_chars = sum((n - 1) * sum(map(len, part.split())) for part, n in times.items() if n > 1)
    return n_duplicates / max(times.total(), 1), n_chars


def _ngram_rule(words: list[str], n_chars: int, limits: RepetitionParams) -> str | None:
    """The first rule on n-grams that the words break, or None."""
    top = {int(key): limit for key, limit in limits.top_ngram_chars.items()}
    duplicate = {int(key): limit for key, limit in limits.duplicate_ngram_chars.items()}
    chars = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    for n, starts, ngrams in repeated_ngrams(words, max([*top, *duplicate], default=0)):
        if n in top and _chars_within(chars, _commonest(n, starts, ngrams, chars), n) / n_chars > top[n]:
            return f"top_ngram_chars_{n}"
        if n in duplicate and _chars_within(chars, _later(starts, ngrams), n) / n_chars > duplicate[n]:
            return f"duplicate_ngram_chars_{n}"
    return None


def repeated_ngrams(words: list[str], longest: int) -> Iterator[tuple[int, Ints, Ints]]:
    """The n-grams of words that occur more than once: n, where they start (ascending), and which is which.

    For n = 1, 2, … while there are any, up to the longest asked for. Equal n-grams have equal numbers, from 0.

    >>> for n, starts, ngrams in repeated_ngrams("a b c a b d a".split(), longest=3):
    ...     print(n, starts.tolist(), ngrams.tolist())
    1 [0, 1, 3, 4, 6] [0, 1, 0, 1, 0]
    2 [0, 3] [0, 0]
    """
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    word_ids = np.fromiter(map(numbers.__getitem__, words), dtype=np.int64, count=len(words))
    starts, ngrams = np.arange(len(words)), word_ids
    for n in range(1, longest + 1):
        if n > 1:
            # An n-gram can only occur twice if its first n - 1 words do: few places are left after two or three steps.
            fits = starts + n <= len(words)
            starts = starts[fits]
            ngrams = ngrams[fits] * len(numbers) + word_ids[starts + n - 1]
        _, ngrams, times = np.unique(ngrams, return_inverse=True, return_counts=True)
        repeated = times[ngrams] > 1
        starts = starts[repeated]
        if not len(starts):
            return
        ngrams = (np.cumsum(times > 1) - 1)[ngrams[repeated]]
        yield n, starts, ngrams


def _commonest(n: int, starts: Ints, ngrams: Ints, chars: Ints) -> Ints:
    """Where the commonest n-gram starts; of several the one with the most characters, and of those the first."""
    times = np.bincount(ngrams)
    often = np.flatnonzero(times[ngrams] == times.max())
    ends = np.concatenate([[0], np.cumsum(chars)])
    length = ends[starts[often] + n] - ends[starts[often]]
    return starts[ngrams == ngrams[often[np.argmax(length)]]]


def _later(starts: Ints, ngrams: Ints) -> Ints:
    """Where an n-gram starts that has occurred before."""
    _, first = np.unique(ngrams, return_index=True)
    return np.delete(starts, first)


def _chars_within(chars: Ints, starts: Ints, n: int) -> int:
    """Characters of the words that the n-grams at these starts hold, each once."""
    change = np.zeros(len(chars) + 1, dtype=np.int64)
    change[starts] += 1
    change[starts + n] -= 1
    return int(chars[np.cumsum(change[:-1]) > 0].sum())
