"""Which part of the text is held out: whole documents by a hash of their text, or the end of each document.

>>> split_of("00000000000000000000000000000000", val=0.05, test=0.05)
'val'
>>> cut("abcdefghij", val=0.1, test=0.2)
{'train': 'abcdefg', 'val': 'h', 'test': 'ij'}
"""

import re
from collections.abc import Iterable, Iterator

PIECE_CHARS = 4096  # of what `sample_pieces` takes at a time


def split_of(doc_id: str, val: float, test: float) -> str:
    """The split of a document, from its id alone: adding a document moves no other one."""
    place = int(doc_id[:16], 16) / 16**16
    return "val" if place < val else "test" if place < val + test else "train"


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


def sample_pieces(texts: Iterable[str], n_bytes: int, max_bytes: int) -> Iterator[str]:
    """Yield pieces of texts, evenly spread over them, of at most `max_bytes` in all; `n_bytes` is what the texts have.

    A piece ends before whitespace where there is some, so that words and the spaces before them stay whole.

    >>> pieces = list(sample_pieces(["one two three " * 600], n_bytes=8400, max_bytes=840))
    >>> len(pieces), sum(map(len, pieces))
    (90, 840)
    """
    length = max(min(PIECE_CHARS, max_bytes // 64), 1)  # a character has up to four bytes: 16 pieces fit or more
    pattern = re.compile(rf"(?s).{{1,{length}}}(?!\S)|.{{1,{length}}}")
    seen = taken = 0
    for text in texts:
        for match in pattern.finditer(text):
            size = len(match[0].encode())
            seen += size
            if taken * n_bytes < seen * max_bytes and taken + size <= max_bytes:
                taken += size
                yield match[0]
