"""Docstrings that repeat earlier ones: which entries of which modules are copies.

Series    "… whose axis labels are all of the index …"    kept
DataFrame "… whose axis labels are all of the index …"    80% of its 5-grams of words stand above ──► left out
"""

from zlib import crc32

from llm.text.docstrings import BETWEEN_ENTRIES
from llm.text.duplicates import words_of

# An entry repeats earlier ones where so much of its n-grams of words stands in them. Short ones are no copies: there
# are few ways to say "Return the result.".
REPEATED_SHARE, NGRAM, MIN_WORDS = 0.8, 5, 20


class RepeatFilter:
    """Leave out entries that repeat earlier ones, in this module or in another.

    Packages write the same paragraphs for a class and its sibling (`Series` and `DataFrame`, `hermite` and `laguerre`).
    Such a copy teaches little, and in test it measures memory. What is left depends on the order of the modules.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def apply(self, text: str) -> tuple[str, int]:
        """Return a module's text without its repeated entries, and how many those are."""
        parts = text.split(BETWEEN_ENTRIES)
        kept = [part for part in parts if not self._is_repeated(part)]
        return BETWEEN_ENTRIES.join(kept), len(parts) - len(kept)

    def _is_repeated(self, entry: str) -> bool:
        words = words_of(entry.partition("\n\n")[2])
        if len(words) < MIN_WORDS:
            return False
        # CRC-32 of two halves: a hash that is the same in every process, with few collisions.
        ngrams = {_hash(words[at : at + NGRAM]) for at in range(len(words) - NGRAM + 1)}
        is_repeated = len(ngrams & self._seen) > REPEATED_SHARE * len(ngrams)
        self._seen |= ngrams
        return is_repeated


def _hash(words: list[str]) -> int:
    joined = " ".join(words).encode()
    return crc32(joined) << 32 | crc32(joined[::-1])
