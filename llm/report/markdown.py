"""The parts of a card in Markdown: front matter of the Hub, tables, code and strings in it, the weights it is about."""

import hashlib
import re
import shlex
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML


def front_matter(content: dict[str, Any]) -> list[str]:
    """Lines of YAML between two rules, as the Hub reads them: https://huggingface.co/docs/hub/model-cards.

    >>> front_matter({"license": "unknown", "tags": ["gguf"]})
    ['---', 'license: unknown', 'tags:', '- gguf', '---']
    """
    text = StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(content, text)
    return ["---", *text.getvalue().splitlines(), "---"]


def table(head: list[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """Lines of a Markdown table; a bar or a line break in a cell is no part of the table."""
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    cells = ([" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in rows)
    return lines + [f"| {' | '.join(row)} |" for row in cells]


def fence(language: str, code: str) -> list[str]:
    """Lines of a block of code."""
    return [f"```{language}", *code.strip().splitlines(), "```"]


def shell_string(text: str) -> str:
    r"""Return a text as one word of a shell on one line, quoted where it needs to be.

    A text with line breaks or control characters takes the quotes $'…', which bash, zsh and ksh read.

    >>> print(shell_string("it's"), shell_string("def f(x)\n\n"))
    'it'"'"'s' $'def f(x)\n\n'
    """
    return shlex.quote(text) if text.isprintable() else f"$'{_escaped(text, chr(39))}'"


def python_string(text: str) -> str:
    r"""Return a text as a string of Python on one line.

    >>> print(python_string('say "déjà vu"\n'))
    "say \"déjà vu\"\n"
    """
    return f'"{_escaped(text, chr(34))}"'


def _escaped(text: str, quote: str) -> str:
    return "".join(
        f"\\{char}" if char in (quote, "\\") else char if char.isprintable() else _escape(char) for char in text
    )


def _escape(char: str) -> str:
    """A character's escape, which Python and a shell read alike."""
    short = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return short.get(char) or (f"\\u{ord(char):04x}" if ord(char) < 1 << 16 else f"\\U{ord(char):08x}")


def weights_line(path: Path) -> str:
    """Return the line that names a file of weights by its sha256, which the Hub shows as well."""
    with path.open("rb") as file:
        return f"sha256 of `{path.name}`: `{hashlib.file_digest(file, 'sha256').hexdigest()}`"


def named_weights(card: str) -> str | None:
    """Return the line of a card that names its weights, or None where it has none."""
    found = re.search(r"^sha256 of `[^`]+`: `[0-9a-f]{64}`$", card, re.MULTILINE)
    return found[0] if found else None
