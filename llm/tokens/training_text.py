"""Choose the text that a tokenizer is trained on."""

import re
from collections.abc import Iterable, Iterator

PIECE_CHARS = 4096  # of what `sample_pieces` takes at a time


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
