"""Texts for a terminal: their first lines, wrapped, behind a mark; nothing in them moves the cursor."""

import unicodedata

from rich.console import Console
from rich.text import Text

WIDTH, LINES = 88, 12  # columns with the mark, and lines, of an excerpt at most
CUT = "…"
INVISIBLE = {"Cc", "Cs", "Zl", "Zp"}  # categories: controls, halves of a pair, separators of lines and paragraphs
BIDIRECTIONAL = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # reorder what comes after them


def excerpt(text: str, mark: str = "", ended: bool = True, lines: int = LINES) -> list[str]:
    r"""Return the first `lines` lines, each prefixed with `mark`; "…" marks a text that is truncated or unfinished.

    >>> excerpt("It rains.\n\nIt\x07 rains\non", "> ", lines=3)
    ['> It rains.', '>', '> It\\x07 rains …']
    """
    width = WIDTH - len(mark)
    looked_at = text[: 4 * WIDTH * lines]  # more than is shown, unless most of it has no width
    console = Console(width=width)
    wrapped = [
        part.plain.rstrip()
        for line in visible(looked_at).strip("\n").rstrip().split("\n")
        for part in Text(line).wrap(console, width, tab_size=4) or [Text()]
    ]
    shown = wrapped[:lines]
    if len(wrapped) > lines or len(looked_at) < len(text) or not ended:
        last = Text(f"{shown[-1]} {CUT}".strip())
        if last.cell_len > width:
            last = Text(shown[-1])
            last.truncate(width - 2)
            last.append(f" {CUT}")
        shown[-1] = last.plain
    return [f"{mark}{line}".rstrip() for line in shown]


def visible(text: str) -> str:
    r"""Return a text with its control characters, other than tabs and line breaks, written as escapes.

    >>> visible("a\x1b[2J\tb\u202e")
    'a\\x1b[2J\tb\\u202e'
    """
    return "".join(char if _is_safe(char) else char.encode("unicode_escape").decode() for char in text)


def _is_safe(char: str) -> bool:
    if char in "\n\t":
        return True
    return unicodedata.category(char) not in INVISIBLE and unicodedata.bidirectional(char) not in BIDIRECTIONAL
