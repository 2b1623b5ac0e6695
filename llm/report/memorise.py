"""The report of memorization: text of train that the model reproduces, and the control on test."""

from collections.abc import Mapping
from typing import Any

from llm.report.tables import Code, Table, render, title

SHORT, LONG = 25, 50  # tokens of a verbatim continuation
MAX_CHARS = 80  # of a text in a table
VERDICTS = {
    True: "**The model copies**: more of train than of test is reproduced verbatim, beyond chance.",
    False: "**No sign that the model copies**: train is not reproduced more often than test, beyond chance.",
    None: "Test has no document that is long enough, so memorized text cannot be distinguished from predictable text.",
}


def markdown(details: Mapping[str, Any]) -> str:
    """Return the report: prefixes that were continued verbatim, and the longest run in train of every sample."""
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


def prefixes(metrics: Mapping[str, Any]) -> Table:
    """Return the fractions of the prefixes that are continued verbatim, by split."""
    splits = {split: metrics[split]["model"] for split in ("train", "test")}
    names = ("prefixes", f"verbatim_{SHORT}", f"verbatim_{LONG}", "mean_verbatim_tokens")
    return Table(["", *splits], [[title(name), *(of.get(name) for of in splits.values())] for name in names])


def _place(of: Mapping[str, Any]) -> list[Code]:
    return [_short(of["document"]), _short(of["text"])]


def _short(text: str) -> Code:
    """Return a text on one line, with control characters as escapes, truncated to a table's width."""
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return Code(shown if len(shown) <= MAX_CHARS else f"{shown[: MAX_CHARS - 1]}…")
