"""Which part of the text is held out: whole documents by a hash of their text, or the end of each document.

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
    """The split of a document, from its id alone: adding a document moves no other one."""
    place = int(doc_id[:16], 16) / 16**16
    return "val" if place < val else "test" if place < val + test else "train"


def choose_method(
    n_bytes: NDArray[np.int64], val: float, test: float, share: float = 1.0
) -> Literal["document", "position"]:
    """Return "document" where whole documents of these lengths make a val and a test of about the shares asked for.

    What counts is the effective number of documents, (Σ n)² / Σ n²: one long and a hundred short ones are one.
    Of those, MIN_HELD_OUT are expected in the smaller of the two splits. `share` of the documents are kept.

    >>> choose_method(np.full(200, 9), val=0.05, test=0.1), choose_method(np.array([9] * 200 + [9999]), 0.05, 0.1)
    ('document', 'position')
    """
    held_out = min((part for part in (val, test) if part), default=1.0)
    effective = n_bytes.sum(dtype=float) ** 2 / max(np.square(n_bytes, dtype=float).sum(), 1.0)
    is_enough = share * effective * held_out >= MIN_HELD_OUT or not val + test
    return "document" if is_enough else "position"


def is_chosen(doc_id: str, share: float) -> bool:
    """Whether a document is among the `share` that is kept; independent of its split, as it is of all other ones.

    >>> is_chosen("ffffffffffffffff3000000000000000", share=0.25)
    True
    """
    return int(doc_id[16:], 16) / 16**16 < share


def cut(text: str, val: float, test: float) -> dict[str, str]:
    """Cut one text into up to three, in its order: the first part trains, the end is held out.

    The shares are of characters. A part that comes out empty is left out.
    """
    first = len(text) - round(len(text) * (val + test))
    second = len(text) - round(len(text) * test)
    parts = {"train": text[:first], "val": text[first:second], "test": text[second:]}
    return {split: part for split, part in parts.items() if part}
