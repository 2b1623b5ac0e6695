"""Present the details of the stage tokenize: the longest and most frequent tokens, counts by rank, lengths."""

from typing import Any

from llm.report.plots import draw_vocabulary
from llm.report.tables import Code, Table

TITLES = {"longest": "Longest tokens", "most_frequent": "Most frequent tokens"}


def markdown(details: dict[str, Any]) -> str:
    """Return two tables of tokens; a space in a token is shown as ␣."""
    parts = ["# The vocabulary"]
    for name, title in TITLES.items():
        rows = [
            [row["id"], Code(repr(row["token"]).replace(" ", "␣")), row["bytes"], f"{row['count']:,}"]
            for row in details[name]
        ]
        parts += [f"## {title}", str(Table(["id", "token", "bytes", "times in the text"], rows))]
    return "\n\n".join(parts) + "\n"


def pictures(details: dict[str, Any]) -> dict[str, str]:
    """Return the picture of counts by rank and of token lengths."""
    return {"vocabulary": draw_vocabulary(details["counts"], details["lengths"])}
