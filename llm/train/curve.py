"""Record a learning curve: a row at every evaluation."""

import csv
from dataclasses import dataclass, field
from pathlib import Path

COLUMNS = ["step", "train_loss", "val_loss", "lr_factor"]


@dataclass
class Curve:
    """Rows of COLUMNS: losses in nats, the learning rate as a fraction of the full one."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def best(self) -> dict[str, float]:
        """Return the first row with the lowest validation loss, or the last row where nothing was validated."""
        return min((row for row in self.rows if "val_loss" in row), key=lambda r: r["val_loss"], default=self.rows[-1])

    def evals_since_best(self) -> int:
        """Return the number of evaluations after the best one."""
        return len(self.rows) - 1 - self.rows.index(self.best()) if self.rows else 0

    def write(self, path: Path) -> None:
        """Write tab-separated values with a header; missing ones stay empty."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
