"""Present the learning curve of pretraining."""

import csv
from collections.abc import Iterable
from typing import Any


def read_curve(lines: Iterable[str]) -> list[dict[str, float]]:
    r"""Read the lines of plots/pretrain/curve.tsv; a missing value is a missing key.

    >>> read_curve(["step\ttrain_loss\tval_loss", "10\t5.5\t"])
    [{'step': 10.0, 'train_loss': 5.5}]
    """
    rows = csv.DictReader(lines, delimiter="\t")
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def pictures(details: dict[str, Any]) -> dict[str, str]:
    """Return the picture of the learning curve, given its rows under `curve`."""
    from llm.report.plots import draw_curve

    return {"curve": draw_curve(details["curve"], "pretraining")}
