"""Gopher's rules on repetition within a text (Rae et al. 2021, "Scaling Language Models", section A.1.1, table A1).

    "Buy now!⏎Buy now!⏎Buy now!⏎Bye." ──► two of four lines occurred before: 0.5 > 0.30 ──► "duplicate_lines"

A text breaks a rule when a fraction of it is larger than the rule's limit. Where the paper leaves freedom:

- A **line** ends at a newline, a **paragraph** at a blank line; white space around either is ignored.
- A **word** is separated by white space, with its case and punctuation; the rules see little of unspaced scripts.
- A **character** is not white space, in a fraction's numerator and denominator.
- A **duplicate** has occurred before in the text; the first occurrence is not one (as in datatrove).
- The rules on n-grams of words count each character once, in however many n-grams it is.
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
    """The largest fractions of a document that may be repetition; the defaults are Gopher's."""

    duplicate_lines: float = 0.30  # of the lines
    duplicate_paragraphs: float = 0.30  # of the paragraphs
    duplicate_line_chars: float = 0.20  # of the characters, as all that follow
    duplicate_paragraph_chars: float = 0.20
    top_ngram_chars: dict[str, float] = {"2": 0.20, "3": 0.18, "4": 0.16}  # of the commonest n-gram of words
    duplicate_ngram_chars: dict[str, float] = {"5": 0.15, "6": 0.14, "7": 0.13, "8": 0.12, "9": 0.11, "10": 0.10}

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        for key in [*self.top_ngram_chars, *self.duplicate_ngram_chars]:
            if not re.fullmatch(r"[1-9]\d?", key):
                raise ValueError(f"expected the length of an n-gram, 1 to 99, got {key}")
        return self


def repetition(text: str, limits: RepetitionParams) -> str | None:
    r"""Return the first rule that a text breaks, or None: lines, then paragraphs, then n-grams from short to long.

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
    for unit, parts in (("line", text.split("\n")), ("paragraph", BLANK_LINE.split(text))):
        fraction, chars = duplicates(parts)
        if fraction > getattr(limits, f"duplicate_{unit}s"):
            return f"duplicate_{unit}s"
        if chars / n_chars > getattr(limits, f"duplicate_{unit}_chars"):
            return f"duplicate_{unit}_chars"
    return _ngram_rule(words, n_chars, limits)


def duplicates(parts: list[str]) -> tuple[float, int]:
    """Return the fraction of the parts that occurred before, and their characters; blank parts are ignored.

    >>> duplicates(["a b", "cd", "  a b", "", "a b"])
    (0.5, 4)
    """
    times = Counter(filter(None, map(str.strip, parts)))
    n_duplicates = times.total() - len(times)
    n_chars = sum((n - 1) * sum(map(len, part.split())) for part, n in times.items() if n > 1)
    return n_duplicates / max(times.total(), 1), n_chars


def _ngram_rule(words: list[str], n_chars: int, limits: RepetitionParams) -> str | None:
    top = {int(key): limit for key, limit in limits.top_ngram_chars.items()}
    duplicate = {int(key): limit for key, limit in limits.duplicate_ngram_chars.items()}
    chars = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    for n, starts, ngrams in repeated_ngrams(words, max([*top, *duplicate], default=0)):
        if n in top and _chars_within(chars, _commonest(n, starts, ngrams, chars), n) / n_chars > top[n]:
            return f"top_ngram_chars_{n}"
        later = np.delete(starts, np.unique(ngrams, return_index=True)[1])
        if n in duplicate and _chars_within(chars, later, n) / n_chars > duplicate[n]:
            return f"duplicate_ngram_chars_{n}"
    return None


def repeated_ngrams(words: list[str], longest: int) -> Iterator[tuple[int, Ints, Ints]]:
    """Yield the n-grams of words that occur more than once: n, their starts (ascending), and a number for each n-gram.

    For n = 1, 2, … while there are any, up to the longest. Equal n-grams have equal numbers, from 0.

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
            # An n-gram can only occur twice if its first n - 1 words do: few starts are left after two or three steps.
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
    """Return the starts of the commonest n-gram; of several the first one with the most characters."""
    times = np.bincount(ngrams)
    often = np.flatnonzero(times[ngrams] == times.max())
    ends = np.concatenate([[0], np.cumsum(chars)])
    length = ends[starts[often] + n] - ends[starts[often]]
    return starts[ngrams == ngrams[often[np.argmax(length)]]]


def _chars_within(chars: Ints, starts: Ints, n: int) -> int:
    """Count the characters of the words in the n-grams at these starts, each once."""
    change = np.zeros(len(chars) + 1, dtype=np.int64)
    change[starts] += 1
    change[starts + n] -= 1
    return int(chars[np.cumsum(change[:-1]) > 0].sum())
