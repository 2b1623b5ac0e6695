"""A learning curve: one row at every evaluation, in memory and as a table."""

import csv
from dataclasses import dataclass, field
from pathlib import Path

COLUMNS = ["step", "train_loss", "val_loss", "lr_factor"]


@dataclass
class Curve:
    """The rows of a learning curve: losses in nats, the rate as a share of the full one."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def best(self) -> dict[str, float]:
        """The row with the lowest validation loss; the last row where there was nothing to validate on."""
        scored = [row for row in self.rows if "val_loss" in row]
        return min(scored, key=lambda row: row["val_loss"]) if scored else self.rows[-1]

    def evals_since_best(self) -> int:
        """How many evaluations in a row were no better than the best one before them."""
        return len(self.rows) - 1 - self.rows.index(self.best()) if self.rows else 0


def write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    """Write the rows as tab-separated values under a line of names; what a row lacks stays empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def append_row(path: Path, row: dict[str, float]) -> None:
    """Add one row to a table that `write_curve` began; whoever follows the file sees it at once."""
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n").writerow(row)
