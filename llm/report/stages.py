"""The reports of prepare, tokenize, sample and pretrain: their details in, Markdown and pictures out."""

import csv
from collections.abc import Iterable
from typing import Any

from llm.report.tables import Code, Table, render

Details = dict[str, Any]
TOKENS = {"longest": "Longest tokens", "most_frequent": "Most frequent tokens"}


def documents(details: Details) -> str:
    """Return the report of prepare; text of documents and names of files cannot add Markdown of their own."""
    sources, splits, dropped = (details[part].items() for part in ("sources", "splits", "dropped"))
    found = [[name, of["found"], of["documents"], of["bytes"]] for name, of in sources]
    by_rule = [[rule.replace("_", " "), of["documents"], of["bytes"]] for rule, of in dropped]
    return render(
        "prepare.md.jinja",
        details=details,
        sources=Table(["source", "documents found", "documents kept", "bytes kept"], found),
        splits=Table(["split", "documents", "bytes"], [[split, of["documents"], of["bytes"]] for split, of in splits]),
        dropped=Table(["dropped by", "documents", "bytes"], by_rule),
    )


def vocabulary(details: Details) -> str:
    """Return tables of the longest and the most frequent tokens; a space in a token is shown as ␣."""
    parts = ["# The vocabulary"]
    for name, title in TOKENS.items():
        found = [
            [row["id"], Code(repr(row["token"]).replace(" ", "␣")), row["bytes"], row["count"]] for row in details[name]
        ]
        parts += [f"## {title}", str(Table(["id", "token", "bytes", "times in the text"], found))]
    return "\n\n".join(parts) + "\n"


def contamination(details: Details) -> str:
    """Return fractions of held-out n-grams that train has too, and the documents with the largest ones."""
    splits = details["splits"]
    rows = [[split, of["ngrams"], f"{of['fraction']:.2%}"] for split, of in splits.items()]
    parts = [
        "# Contamination",
        f"The fraction of n-grams of {details['ngram']} tokens of a held-out split that occur anywhere in train.",
        str(Table(["split", "n-grams looked up", "in train"], rows)),
    ]
    for split, of in splits.items():
        found = [[Code(row["document"]), row["ngrams"], f"{row['fraction']:.1%}"] for row in of["documents"]]
        table = str(Table(["document", "n-grams", "in train"], found)) if found else "None."
        parts += [f"## {split}: documents with the largest fractions", table]
    return "\n\n".join(parts) + "\n"


def read_curve(lines: Iterable[str]) -> list[dict[str, float]]:
    r"""Read the lines of plots/pretrain/curve.tsv; a missing value is a missing key.

    >>> read_curve(["step\ttrain_loss\tval_loss", "10\t5.5\t"])
    [{'step': 10.0, 'train_loss': 5.5}]
    """
    rows = csv.DictReader(lines, delimiter="\t")
    return [{name: float(value) for name, value in row.items() if value} for row in rows]
