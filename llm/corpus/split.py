"""Hold out text: whole documents by a hash of their text, or the end of each document.

>>> split_of("00000000000000000000000000000000", val=0.05, test=0.05)
'val'
>>> cut("abcdefghij", val=0.1, test=0.2)
{'train': 'abcdefg', 'val': 'h', 'test': 'ij'}
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

MIN_HELD_OUT = 5  # documents of equal weight that a split is expected to have


def split_of(doc_id: str, val: float, test: float) -> str:
    """Return the split of a document, which depends on its id alone: adding a document moves no other one."""
    place = int(doc_id[:16], 16) / 16**16
    return "val" if place < val else "test" if place < val + test else "train"


def is_in_subset(doc_id: str, fraction: float) -> bool:
    """Return whether a document is in a subset, independently of its split.

    >>> is_in_subset("ffffffffffffffff3000000000000000", fraction=0.25)
    True
    """
    return int(doc_id[16:], 16) / 16**16 < fraction


def choose_method(
    n_bytes: NDArray[np.int64], val: float, test: float, subset_fraction: float = 1.0
) -> Literal["document", "position"]:
    """Return "document" where whole documents of these lengths make a val and a test of about these fractions.

    What counts is the effective number of documents, (Σ n)² / Σ n²: one long and a hundred short ones are one.
    Of those, MIN_HELD_OUT are expected in the smaller of the two splits.

    >>> choose_method(np.full(200, 9), val=0.05, test=0.1), choose_method(np.array([9] * 200 + [9999]), 0.05, 0.1)
    ('document', 'position')
    """
    held_out = min((part for part in (val, test) if part), default=1.0)
    effective = n_bytes.sum(dtype=float) ** 2 / max(np.square(n_bytes, dtype=float).sum(), 1.0)
    is_enough = subset_fraction * effective * held_out >= MIN_HELD_OUT or not val + test
    return "document" if is_enough else "position"


def cut(text: str, val: float, test: float) -> dict[str, str]:
    """Cut one text into up to three parts in its order, by fractions of its characters; empty parts are left out."""
    first = len(text) - round(len(text) * (val + test))
    second = len(text) - round(len(text) * test)
    parts = {"train": text[:first], "val": text[first:second], "test": text[second:]}
    return {split: part for split, part in parts.items() if part}
