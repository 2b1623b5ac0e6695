"""Excerpts for a terminal: the first lines of a text, wrapped and marked, without control characters."""

import unicodedata

from rich.console import Console
from rich.text import Text

WIDTH, LINES = 88, 12  # columns with the mark, and lines
ELLIPSIS = "…"
INVISIBLE = {"Cc", "Cs", "Zl", "Zp"}  # categories: controls, surrogates, separators of lines and paragraphs
BIDIRECTIONAL = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # they reorder the text after them


def excerpt(text: str, mark: str = "", ended: bool = True, lines: int = LINES) -> list[str]:
    r"""Return the first `lines` lines, each prefixed with `mark`; "…" marks a text that is truncated or unfinished.

    >>> excerpt("It rains.\n\nIt\x07 rains\non", "> ", lines=3)
    ['> It rains.', '>', '> It\\x07 rains …']
    """
    width = WIDTH - len(mark)
    start = text[: 4 * WIDTH * lines]  # more than is shown, unless most of it has no width
    console = Console(width=width)
    wrapped = [
        part.plain.rstrip()
        for line in visible(start).strip("\n").rstrip().split("\n")
        for part in Text(line).wrap(console, width, tab_size=4) or [Text()]
    ]
    shown = wrapped[:lines]
    if len(wrapped) > lines or len(start) < len(text) or not ended:
        last = Text(shown[-1])
        last.truncate(width - 2)
        shown[-1] = f"{last.plain.rstrip()} {ELLIPSIS}".lstrip()
    return [f"{mark}{line}".rstrip() for line in shown]


def visible(text: str) -> str:
    r"""Return a text with its control characters, other than tabs and line breaks, as escapes.

    >>> visible("a\x1b[2J\tb\u202e")
    'a\\x1b[2J\tb\\u202e'
    """
    return "".join(char if _is_safe(char) else char.encode("unicode_escape").decode() for char in text)


def _is_safe(char: str) -> bool:
    return char in "\n\t" or (
        unicodedata.category(char) not in INVISIBLE and unicodedata.bidirectional(char) not in BIDIRECTIONAL
    )
