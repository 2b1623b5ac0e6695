"""Compare the model with its baselines on the same documents: a paired bootstrap.

    bits by document    model 10 30 20, baseline 12 33 25; bytes 5 10 10
    difference          (10 - 12 + 30 - 33 + 20 - 25) / (5 + 10 + 10) = -0.4 bits per byte

A document that is hard for one is hard for the other, so the interval of the difference is narrower than those of the
two figures, which may well overlap.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.core.tables import read_table
from llm.evaluate.bootstrap import Row, ratio_with_interval

Floats = NDArray[np.float64]

BETTER, WITHIN, WORSE = "better, outside of chance", "within chance", "worse, outside of chance"
NO_INTERVAL = "no interval, so chance cannot be excluded"
SEES_THE_FUTURE = "not valid, the model sees what it predicts"
LOSSY = "not valid, the tokens do not hold all of the text"


class Baselines(NamedTuple):
    """Bits per byte of a split by baseline, and bits of its documents (D,) where a baseline has them."""

    bits_per_byte: Mapping[str, float]
    document_bits: Mapping[str, Floats]


def read_baselines(metrics: Path, document_bits: Path) -> dict[str, Baselines]:
    """Read the outputs of the stage `baselines` by split."""
    by_split = json.loads(metrics.read_text(encoding="utf-8"))
    table = read_table(document_bits).to_pandas()
    return {
        split: Baselines(
            {name: of["bits_per_byte"] for name, of in systems.items()},
            {name: column.to_numpy() for name, column in table[table["split"] == split].iloc[:, 2:].items()},
        )
        for split, systems in by_split.items()
    }


def reason_not_valid(sees_the_future: bool, is_lossless: bool) -> str | None:
    """Return why a model's bits per byte cannot be compared with those of others, None where they can."""
    if sees_the_future:
        return SEES_THE_FUTURE
    return None if is_lossless else LOSSY


def compare_with_baselines(
    bits: Floats, n_bytes: NDArray[np.int64], baselines: Baselines, rng: np.random.Generator
) -> list[Row]:
    """Compare the model's bits of documents (D,) with those of each baseline, the best baseline first.

    A row has no interval where there is one document, or where the baseline has no bits of documents.

    >>> xz = np.array([12.0, 33.0, 25.0])
    >>> baselines = Baselines({"bzip2": 3.0, "xz": 2.8}, {"xz": xz})
    >>> rows = compare_with_baselines(xz - [2, 3, 5], np.array([5, 10, 10]), baselines, np.random.default_rng(1))
    >>> rows[0]
    {'baseline': 'xz', 'bits_per_byte': 2.8, 'difference': -0.4, 'difference_low': -0.5, 'difference_high': -0.3}
    >>> rows[1]
    {'baseline': 'bzip2', 'bits_per_byte': 3.0, 'difference': -0.6}
    """
    own = float(bits.sum()) / int(n_bytes.sum())
    rows = []
    for name, total in sorted(baselines.bits_per_byte.items(), key=lambda item: item[1]):
        row: Row = {"baseline": name, "bits_per_byte": total}
        if name in baselines.document_bits:
            row |= ratio_with_interval("difference", bits - baselines.document_bits[name], n_bytes, rng)
        rows.append(row | {"difference": round(own - total, 5)})  # of the totals, as the tables show them
    return rows


def verdict(row: Row) -> str:
    """Return whether a difference is outside of chance: whether its interval excludes 0.

    >>> verdict({"difference": -0.1, "difference_low": -0.2, "difference_high": 0.0})
    'within chance'
    """
    if "difference_low" not in row:
        return NO_INTERVAL
    if row["difference_high"] < 0:
        return BETTER
    return WORSE if row["difference_low"] > 0 else WITHIN


def summarise_best(rows: list[Row], not_valid: str | None) -> Row:
    """Return the comparison with the best baseline, {} without one; `not_valid` is that of `reason_not_valid`."""
    if not rows:
        return {}
    figures = {f"bits_per_byte_{key}": value for key, value in rows[0].items() if key.startswith("difference")}
    return {"best_baseline": rows[0]["baseline"], **figures, "verdict": not_valid or verdict(rows[0])}
