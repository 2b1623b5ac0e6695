"""The parts of a card in Markdown: the Hub's front matter, tables, fenced code."""

from collections.abc import Iterable
from io import StringIO
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
