r"""Near duplicates: documents that share most of their n-grams of words, found without comparing every pair.

    text ──signature──► bytes ─┐
    text ──signature──► bytes ─┼─relatives──► [0, 0, 2, …]     document 1 is nearly document 0
    text ──signature──► bytes ─┘

A MinHash signature (Broder 1997) stands for a set of n-grams: the share of places in which two signatures agree
estimates the Jaccard similarity of the sets, with a standard error of at most sqrt(s * (1 - s) / permutations).
Two documents are compared only if a whole band of their signatures is equal. With r = permutations / bands places in a
band, that is so for a share 1 - (1 - s**r)**bands of the pairs of similarity s (locality-sensitive hashing;
Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3): an S-curve that is steepest
near (1 / bands)**(1 / r).

A word is a run of letters, digits, underscores and the marks on them, whatever its case: a copy in capitals is a copy.
In a script that writes no spaces between words (Chinese, Japanese, Thai, Khmer, …) each letter is a word.
"""

import re
from array import array
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
import regex  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pydantic import Field, model_validator

from llm.core.params import Count, Section

if TYPE_CHECKING:
    from rensa import RMinHash

# Unicode's classes of letters between which a line may break without a space: ideographs, kana, South-East Asian.
_UNSPACED = r"[\p{Line_Break=Ideographic}\p{Line_Break=Conditional_Japanese_Starter}\p{Line_Break=Complex_Context}]"
_LETTER, _MARK = r"[\p{L}\p{N}_]", r"[\p{M}\u200c\u200d]"  # the two joiners shape a word, and end none
_ANY_WORD = regex.compile(
    rf"(?V1)[{_LETTER}&&{_UNSPACED}]\p{{M}}*|[{_LETTER}--{_UNSPACED}][[{_LETTER}{_MARK}]--{_UNSPACED}]*"
)
# `re` is three times as fast, and finds the same words where none of these ranges occurs (combining marks, the
# scripts from Hebrew on, joiners): in Latin, Greek and Cyrillic text.
_PLAIN_WORD = re.compile(r"\w+")
_NOT_PLAIN = re.compile(r"[\u0300-\u036f\u0483-\u0489\u0590-\u1dff\u200c\u200d\u20d0-\u20ff\u2c80-\U0010ffff]")
SEED = 1  # of the permutations: signatures can be compared only if they share it


class NearDuplicateParams(Section):
    """When two documents count as one: MinHash signatures of their n-grams of words, compared by banding (LSH)."""

    action: Literal["drop", "group"]
    threshold: Annotated[float, Field(gt=0, le=1)]
    ngram: Count
    permutations: Annotated[int, Field(ge=16, le=1024)]
    bands: Count

    @model_validator(mode="after")
    def _bands_divide(self) -> Self:
        if self.permutations % self.bands:
            raise ValueError(f"wanted permutations divisible by bands, given {self.permutations} and {self.bands}")
        return self


def words_of(text: str) -> list[str]:
    """The words of a text, in any script, case folded.

    >>> words_of("Der Fluß, 雨が降る; हिन्दी")
    ['der', 'fluss', '雨', 'が', '降', 'る', 'हिन्दी']
    """
    folded = text.casefold()
    words: list[str] = (_ANY_WORD if _NOT_PLAIN.search(folded) else _PLAIN_WORD).findall(folded)
    return words


def signature(text: str, near: NearDuplicateParams) -> bytes:
    """The MinHash of a text's set of n-grams of words: some 3 to 5 bytes a permutation, the same in every process.

    A text of fewer words than n is one n-gram; one without words is an n-gram of its own.

    >>> near = NearDuplicateParams(action="drop", threshold=0.8, ngram=2, permutations=16, bands=4)
    >>> signature("The cat sat.", near) == signature("'The cat' SAT", near)
    True
    """
    from rensa import RMinHash

    words = words_of(text)
    n = min(near.ngram, len(words))
    # Joined as they are hashed: the n-grams of a large document take no memory of their own.
    shingles = map(" ".join, zip(*(islice(words, k, None) for k in range(n)), strict=False))
    sketch = RMinHash(near.permutations, SEED)
    sketch.update(shingles if words else [text])
    state: bytes = sketch.__getstate__()
    return state


def relatives(signatures: Iterable[bytes], near: NearDuplicateParams) -> NDArray[np.int64]:
    """For each document, in order, the number of the one that stands for it; its own number if none else does.

    Two documents are near if a band of their signatures is equal and the estimated Jaccard similarity is at least
    `near.threshold`. With action "drop" the earliest document that stayed and is near stands for this one, and what is
    dropped is compared with no longer. With "group" the smallest number does that a chain of near documents leads to.

    >>> near = NearDuplicateParams(action="drop", threshold=0.8, ngram=2, permutations=16, bands=4)
    >>> relatives([signature(text, near) for text in ["a b c", "d e f", "A, B, C!"]], near).tolist()
    [0, 1, 0]
    """
    from rensa import RMinHashLSH

    index = RMinHashLSH(near.threshold, near.permutations, near.bands)
    numbers: dict[bytes, int] = {}
    states: dict[int, bytes] = {}  # of the documents that later ones are compared with
    stands_for = array("q")
    for number, state in enumerate(signatures):
        copy_of = numbers.setdefault(state, number)
        stands_for.append(number if copy_of == number else stands_for[copy_of])
        if copy_of != number:
            continue  # what is near to it is near to the first: a thousand copies are not compared with one another
        sketch = _sketch(state, near)
        for candidate in sorted(index.query(sketch)):
            if _first(stands_for, candidate) == _first(stands_for, number):
                continue
            if sketch.jaccard(_sketch(states[candidate], near)) >= near.threshold:
                _join(stands_for, candidate, number)
                if near.action == "drop":
                    break
        if near.action == "group" or stands_for[number] == number:
            index.insert(number, sketch)
            states[number] = state
    return np.array([_first(stands_for, number) for number in range(len(stands_for))], dtype=np.int64)


def _sketch(state: bytes, near: NearDuplicateParams) -> "RMinHash":
    from rensa import RMinHash

    sketch = RMinHash(near.permutations, SEED)
    sketch.__setstate__(state)
    return sketch


def _first(stands_for: "array[int]", number: int) -> int:
    """The smallest number in a document's group: each document points to a smaller one, the smallest to itself."""
    while stands_for[number] != number:
        stands_for[number] = stands_for[stands_for[number]]  # halves the way for the next who asks
        number = stands_for[number]
    return number


def _join(stands_for: "array[int]", one: int, other: int) -> None:
    """Make one group of two documents' groups."""
    low, high = sorted((_first(stands_for, one), _first(stands_for, other)))
    stands_for[high] = low
