"""Present the learning curve of pretraining."""

import csv
from pathlib import Path
from typing import Any

from llm.report.plots import draw_curve


def read_curve(path: Path) -> list[dict[str, float]]:
    """Read plots/pretrain/curve.tsv; a missing value is a missing key."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file, delimiter="\t")
        ]


def pictures(details: dict[str, Any]) -> dict[str, str]:
    """Return the picture of the learning curve, given its rows under `curve`."""
    return {"curve": draw_curve(details["curve"], "pretraining")}
