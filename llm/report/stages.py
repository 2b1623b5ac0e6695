"""The reports of prepare, tokenize, sample, pretrain and memorise: their details in, Markdown out."""

import csv
from collections.abc import Iterable
from typing import Any

from llm.report.tables import Code, Table, render, title

Details = dict[str, Any]
SHORT, LONG = 25, 50  # tokens of a verbatim continuation
MAX_CHARS = 80  # of a text in a table
VERDICTS = {
    True: "**The model copies**: more of train than of test is reproduced verbatim, beyond chance.",
    False: "**No sign that the model copies**: train is not reproduced more often than test, beyond chance.",
    None: "Test has no document that is long enough, so memorized text cannot be distinguished from predictable text.",
}
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
    for name, heading in TOKENS.items():
        found = [
            [row["id"], Code(repr(row["token"]).replace(" ", "␣")), row["bytes"], row["count"]] for row in details[name]
        ]
        parts += [f"## {heading}", str(Table(["id", "token", "bytes", "times in the text"], found))]
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


def memorization(details: Details) -> str:
    """Return prefixes that were continued verbatim, and the longest run in train of every sample."""
    recalled = [[f"{of['tokens']}{'+' * (of['tokens'] == LONG)}", *_place(of)] for of in details["recalled"]]
    samples = []
    for of in details["samples"]:
        run = [of["run"]["tokens"], *_place(of["run"])] if of["run"] else [0, None, None]
        samples.append([f"{_short(of['prompt'])}, {of['method']}", of["tokens"], *run])
    return render(
        "memorise.md.jinja",
        details=details,
        verdict=VERDICTS[details["copies"]],
        prefixes=prefixes(details),
        recalled=Table(["tokens", "document", "text"], recalled),
        samples=Table(["sample", "tokens", "longest run in train", "document", "text"], samples),
        short=SHORT,
        long=LONG,
    )


def prefixes(metrics: Details) -> Table:
    """Return the fractions of the prefixes that are continued verbatim, by split."""
    splits = {split: metrics[split]["model"] for split in ("train", "test")}
    names = ("prefixes", f"verbatim_{SHORT}", f"verbatim_{LONG}", "mean_verbatim_tokens")
    return Table(["", *splits], [[title(name), *(of.get(name) for of in splits.values())] for name in names])


def _place(of: Details) -> list[Code]:
    return [_short(of["document"]), _short(of["text"])]


def _short(text: str) -> Code:
    """Return a text on one line, with control characters as escapes, truncated to a table's width."""
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return Code(shown if len(shown) <= MAX_CHARS else f"{shown[: MAX_CHARS - 1]}…")
