"""Tables, titles, code and templates: one renderer of Markdown for reports and cards, and of HTML for the page.

A template that ends in .html.jinja gets HTML for a `Table`, and escaped text; any other template gets Markdown.
"""

import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import escape

from llm.report.metrics import Score

ABSENT = "–"
MARKUP = "\\`*_[]<>|#"
NUMERIC = re.compile(r"[-+–−\d*]")  # how a cell of a column of numbers begins


class Title(NamedTuple):
    """A name for readers, with a sentence that explains it."""

    name: str
    note: str = ""


TITLES = {
    key: Title(*words)
    for key, words in tomllib.loads(Path(__file__).with_name("glossary.toml").read_text(encoding="utf-8")).items()
}


def title(name: str) -> Title:
    """Return what reports call a system or metric; an unknown name gets blanks for its underscores.

    >>> title("macro_f1").name, title("a_new_one").name
    ('macro-F1', 'a new one')
    """
    return TITLES.get(name) or Title(name.replace("_", " "))


class Code(NamedTuple):
    """Text that is shown as code on one line."""

    text: str

    def __str__(self) -> str:
        """Return it in Markdown, in more backticks than it has itself."""
        shown = " ".join(self.text.split())
        blank = " " if "`" in shown else ""
        return f"{_quotes(shown, 1)}{blank}{shown}{blank}{_quotes(shown, 1)}"

    def __html__(self) -> str:
        return f"<code>{escape(self.text)}</code>"


@dataclass(frozen=True)
class Table:
    """Rows under a head. A cell is text, a number, a `Score`, a `Title`, `Code`, or None where there is nothing.

    Attributes:
        own: The first cell of the row that is set off from the others.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    own: str = ""
    digits: int = 4

    def __str__(self) -> str:
        """Return the table in Markdown; columns of numbers are aligned to the right."""
        rows = [self.head, *([self._text(cell) for cell in row] for row in self.rows)]
        head, *body = ([" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in rows)
        rule = ["---:" if is_numeric else "---" for is_numeric in self._numeric()]
        return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))

    def __html__(self) -> str:
        kinds = [' class="n"' if is_numeric else "" for is_numeric in self._numeric()]
        head = "".join(f'<th scope="col"{kind}>{escape(of)}</th>' for kind, of in zip(kinds, self.head, strict=True))
        lines = ["<table>", f"<thead><tr>{head}</tr></thead>", "<tbody>"]
        for first, *others in self.rows:
            cells = "".join(f"<td{kind}>{self._html(cell)}</td>" for kind, cell in zip(kinds[1:], others, strict=True))
            mark = ' class="own"' if self.own and self._text(first) == self.own else ""
            lines.append(f'<tr{mark}><th scope="row">{self._html(first)}</th>{cells}</tr>')
        return "\n".join([*lines, "</tbody>", "</table>"])

    def _numeric(self) -> list[bool]:
        """Return whether each column has numbers alone; the first has names."""
        columns = [[row[at] for row in self.rows] for at in range(1, len(self.head))]
        is_number = [
            all(not isinstance(cell, Code) and NUMERIC.match(self._text(cell)) for cell in column) for column in columns
        ]
        return [False, *is_number]

    def _text(self, cell: Any) -> str:
        if cell is None:
            return ABSENT
        if isinstance(cell, bool):
            return "yes" if cell else "no"
        if isinstance(cell, Title):
            return cell.name
        score = Score(cell) if isinstance(cell, int | float) else cell
        return score.show(self.digits) if isinstance(score, Score) else str(cell)

    def _html(self, cell: Any) -> str:
        if isinstance(cell, Title) and cell.note:
            return f"{escape(cell.name)}<small>{escape(cell.note)}</small>"
        if isinstance(cell, Score) and cell.low is not None:
            value, _, interval = cell.show(self.digits).partition(" ")
            return f"{value}<small>{interval}</small>"
        return escape(cell if isinstance(cell, Code) else self._text(cell))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": Code, "fence": fence, "shell": shell_string, "python": repr, "plain": plain}
    environment.filters["sizes"] = sizes
    environment.globals["title"] = title
    return environment


def render(template: str, **values: Any) -> str:
    """Fill in a template of this folder; a name that it lacks is an error."""
    return _environment().get_template(template).render(values)


def sizes(rows: Mapping[str, int]) -> str:
    """Return how many rows each split has."""
    return ", ".join(f"{n:,} {split}" for split, n in rows.items())


def fence(code: str, language: str = "") -> str:
    """Return a block of code in Markdown; its fence is longer than any in the text."""
    return f"{_quotes(code, 3)}{language}\n{code}\n{_quotes(code, 3)}"


def _quotes(text: str, least: int) -> str:
    """Return more backticks than any run in a text has."""
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))


def plain(text: str) -> str:
    r"""Return a text on one line, with Markdown's signs escaped and without characters that cannot be printed.

    >>> plain("# *a*\n\x1b|")
    '\\# \\*a\\* \\|'
    """
    return "".join(f"\\{char}" if char in MARKUP else char for char in " ".join(text.split()) if char.isprintable())


def shell_string(text: str) -> str:
    r"""Return a text as one word of a shell on one line, quoted where it needs to be.

    A text with line breaks or control characters gets the quotes $'…', which bash, zsh and ksh read.

    >>> print(shell_string("it's"), shell_string("def f(x)\n\n"))
    'it'"'"'s' $'def f(x)\n\n'
    """
    if text.isprintable():
        return shlex.quote(text)
    escapes = {"\n": r"\n", "\t": r"\t", "\r": r"\r", "'": r"\'", "\\": r"\\"}
    word = "".join(escapes.get(char) or (char if char.isprintable() else rf"\U{ord(char):08x}") for char in text)
    return f"$'{word}'"
