"""Near duplicates: documents that share most of their n-grams of words, found without comparing every pair.

The fraction of places in which two MinHash signatures agree estimates the Jaccard similarity s of two sets of n-grams
(Broder 1997). Only documents with a whole band of r = permutations / bands places in common are compared: a fraction
1 - (1 - s**r)**bands of the pairs (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3).
"""

import re
from array import array
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Literal, Self
from zlib import crc32

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
# A text repeats earlier ones if more than this fraction of its word n-grams occurs in them. Short texts are not
# compared: "Return the result." is common wording and not a copy.
REPEATED_FRACTION, NGRAM, MIN_WORDS = 0.8, 5, 20
SEED = 1  # of the permutations: signatures of different seeds cannot be compared


class NearDuplicateParams(Section):
    """When two documents are near duplicates: MinHash signatures of n-grams of words, compared by banding (LSH)."""

    action: Literal["drop", "group"]
    threshold: Annotated[float, Field(gt=0, le=1)]
    ngram: Count
    permutations: Annotated[int, Field(ge=16, le=1024)]
    bands: Count

    @model_validator(mode="after")
    def _bands_divide(self) -> Self:
        if self.permutations % self.bands:
            raise ValueError(f"expected permutations divisible by bands, got {self.permutations} and {self.bands}")
        return self


def words_of(text: str) -> list[str]:
    """Return the case-folded words of a text; of a script without spaces between words (Chinese, Thai) its letters.

    >>> words_of("Der Fluß, 雨が降る; हिन्दी")
    ['der', 'fluss', '雨', 'が', '降', 'る', 'हिन्दी']
    """
    folded = text.casefold()
    words: list[str] = (_ANY_WORD if _NOT_PLAIN.search(folded) else _PLAIN_WORD).findall(folded)
    return words


def signature(text: str, near: NearDuplicateParams) -> bytes:
    """Return the MinHash of a text's set of n-grams of words, the same in every process.

    A text of fewer words than n is one n-gram; a text without words is an n-gram of its own.
    """
    from rensa import RMinHash

    words = words_of(text)
    n = min(near.ngram, len(words))
    # Joined as they are hashed: the n-grams of a large document take no memory of their own.
    ngrams = map(" ".join, zip(*(islice(words, k, None) for k in range(n)), strict=False))
    sketch = RMinHash(near.permutations, SEED)
    sketch.update(ngrams if words else [text])
    return bytes(sketch.__getstate__())


def _sketch(state: bytes, near: NearDuplicateParams) -> "RMinHash":
    from rensa import RMinHash

    sketch = RMinHash(near.permutations, SEED)
    sketch.__setstate__(state)
    return sketch


def representatives(signatures: Iterable[bytes], near: NearDuplicateParams) -> NDArray[np.int64]:
    """Return, for each document in order, the number of its representative, which is its own if it has no duplicate.

    Two documents are near if a band of their signatures is equal and the estimated Jaccard similarity is at least
    `near.threshold`. With action "drop" the representative is the earliest near document that stayed; dropped
    documents are compared no further. With "group" it is the first document of a chain of near documents.

    >>> near = NearDuplicateParams(action="drop", threshold=0.8, ngram=2, permutations=16, bands=4)
    >>> representatives([signature(text, near) for text in ["a b c", "d e f", "A, B, C!"]], near).tolist()
    [0, 1, 0]
    """
    from rensa import RMinHashLSH

    index = RMinHashLSH(near.threshold, near.permutations, near.bands)
    numbers: dict[bytes, int] = {}
    states: dict[int, bytes] = {}  # of the documents that later ones are compared with
    parents = array("q")
    for number, state in enumerate(signatures):
        copy_of = numbers.setdefault(state, number)
        parents.append(copy_of)
        if copy_of != number:
            continue  # near to the same documents as the first copy: a thousand copies are not compared
        sketch = _sketch(state, near)
        for candidate in sorted(index.query(sketch)):
            low, high = sorted((_root(parents, candidate), _root(parents, number)))
            if low != high and sketch.jaccard(_sketch(states[candidate], near)) >= near.threshold:
                parents[high] = low
                if near.action == "drop":
                    break
        if near.action == "group" or parents[number] == number:
            index.insert(number, sketch)
            states[number] = state
    return np.array([_root(parents, number) for number in range(len(parents))], dtype=np.int64)


def _root(parents: "array[int]", number: int) -> int:
    """Return the smallest number of a document's group (union-find with path halving)."""
    while parents[number] != number:
        parents[number] = number = parents[parents[number]]
    return number


class RepeatFilter:
    """Find texts that repeat the texts before them: copies in the test split would measure memorization."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def is_repeated(self, text: str) -> bool:
        """Return whether the text repeats earlier ones, and remember it."""
        words = words_of(text)
        if len(words) < MIN_WORDS:
            return False
        joined = [" ".join(words[at : at + NGRAM]).encode() for at in range(len(words) - NGRAM + 1)]
        ngrams = {crc32(ngram) << 32 | crc32(ngram[::-1]) for ngram in joined}  # the same in every process
        is_repeated = len(ngrams & self._seen) > REPEATED_FRACTION * len(ngrams)
        self._seen |= ngrams
        return is_repeated
