"""Find docstrings that repeat earlier docstrings, in the same module or in another one.

DataFrame "… whose axis labels are all of the index …"    kept
Series    "… whose axis labels are all of the index …"    over 80% of its word 5-grams occur above ──► dropped
"""

from zlib import crc32

from llm.corpus.docstrings import BETWEEN_ENTRIES
from llm.corpus.duplicates import words_of

# An entry is a repeat if more than this fraction of its word n-grams occurs in earlier entries. Short docstrings are
# kept: "Return the result." is common wording and not a copy.
REPEATED_SHARE, NGRAM, MIN_WORDS = 0.8, 5, 20


class RepeatFilter:
    """Drop entries that repeat earlier entries of this module or of another one.

    Packages copy paragraphs between related classes (`DataFrame` and `Series`, `hermite` and `laguerre`). Copies in the
    test split would measure memorization. The result depends on the order of the modules.
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
        # CRC-32 of the bytes in both orders: 64 bits that are the same in every process.
        ngrams = {_hash(words[at : at + NGRAM]) for at in range(len(words) - NGRAM + 1)}
        is_repeated = len(ngrams & self._seen) > REPEATED_SHARE * len(ngrams)
        self._seen |= ngrams
        return is_repeated


def _hash(words: list[str]) -> int:
    joined = " ".join(words).encode()
    return crc32(joined) << 32 | crc32(joined[::-1])
