"""Gopher's rules on repetition within a text (Rae et al. 2021, "Scaling Language Models", section A.1.1, table A1).

A text breaks a rule when a fraction of it is larger than the rule's limit. Where the paper leaves freedom:

- A **line** ends at a newline, a **paragraph** at a blank line; white space around either is ignored.
- A **word** is separated by white space, with its case and punctuation; the rules see little of unspaced scripts.
- A **character** is not white space, in a fraction's numerator and denominator.
- A **duplicate** has occurred before in the text; the first occurrence is not one (as in datatrove).
- The rules on n-grams of words count each character once, in however many n-grams it is.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Self

from pydantic import model_validator

from llm.core.params import Section

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
    """
    words = text.split()
    n_chars = sum(map(len, words))
    if not n_chars:
        return None
    for unit, parts in (("line", text.split("\n")), ("paragraph", BLANK_LINE.split(text))):
        times = Counter(filter(None, map(str.strip, parts)))
        if (times.total() - len(times)) / times.total() > getattr(limits, f"duplicate_{unit}s"):
            return f"duplicate_{unit}s"
        chars = sum((n - 1) * sum(map(len, part.split())) for part, n in times.items() if n > 1)
        if chars / n_chars > getattr(limits, f"duplicate_{unit}_chars"):
            return f"duplicate_{unit}_chars"
    return _ngram_rule(words, n_chars, limits)


def _ngram_rule(words: list[str], n_chars: int, limits: RepetitionParams) -> str | None:
    starts: Iterable[int] = range(len(words))
    for n in range(1, 1 + max(map(int, [*limits.top_ngram_chars, *limits.duplicate_ngram_chars]), default=0)):
        # An n-gram can only occur twice if its first n - 1 words do: few starts are left after two or three steps.
        starts = ngrams = _repeated(words, starts, n)
        for rule, chosen in (("top_ngram_chars", _top(ngrams)), ("duplicate_ngram_chars", _later(ngrams))):
            places = {place for start in chosen for place in range(start, start + n)}
            if sum(len(words[place]) for place in places) / n_chars > getattr(limits, rule).get(str(n), 1.0):
                return f"{rule}_{n}"
    return None


def _repeated(words: list[str], starts: Iterable[int], n: int) -> dict[int, tuple[str, ...]]:
    """Return the n-grams that occur more than once, by their starts."""
    ngrams = {start: tuple(words[start : start + n]) for start in starts if start + n <= len(words)}
    times = Counter(ngrams.values())
    return {start: ngram for start, ngram in ngrams.items() if times[ngram] > 1}


def _top(ngrams: dict[int, tuple[str, ...]]) -> list[int]:
    """Return the starts of the commonest n-gram; of several the first one with the most characters."""
    times = Counter(ngrams.values())
    top = max(times, key=lambda ngram: (times[ngram], len("".join(ngram))), default=())
    return [start for start, ngram in ngrams.items() if ngram == top]


def _later(ngrams: dict[int, tuple[str, ...]]) -> list[int]:
    """Return the starts of n-grams that occurred before."""
    first = {ngram: start for start, ngram in reversed(ngrams.items())}
    return [start for start, ngram in ngrams.items() if start != first[ngram]]
