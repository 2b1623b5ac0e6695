"""The model beside its baselines on the same documents: what it needs less, and whether that is outside of chance.

    bits by document    model 10 30 20, baseline 12 33 25; bytes 5 10 10
    difference          (10 - 12 + 30 - 33 + 20 - 25) / (5 + 10 + 10) = -0.4 bits per byte
    its 95% interval    of the same ratio, over documents drawn with replacement (paired bootstrap)

A document that is hard for one is hard for the other: the difference varies much less over documents than either cost.
So its interval is narrower than those of the two figures, which may well overlap.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.core.tables import read_table
from llm.evaluate.bootstrap import Row, ratio_interval

Floats = NDArray[np.float64]

BETTER, WITHIN, WORSE = "better, outside of chance", "within chance", "worse, outside of chance"
NO_INTERVAL = "no interval, so nothing can be said of chance"
SEES_THE_FUTURE = "not valid, the model sees what it predicts"
LOSSY = "not valid, the tokens do not hold all of the text"


class Baselines(NamedTuple):
    """What the stage `baselines` measured of a split, and why the model cannot be compared with it, if it cannot."""

    bits_per_byte: Mapping[str, float]
    document_bits: Mapping[str, Floats]  # (D,), of the baselines that have them
    not_valid: str | None = None


def read_baselines(metrics: Path, document_bits: Path, not_valid: str | None) -> dict[str, Baselines]:
    """Read what the stage `baselines` wrote, by split."""
    totals: dict[str, dict[str, float]] = json.loads(metrics.read_text(encoding="utf-8"))
    table = read_table(document_bits)
    names = [name for name in table.column_names if name not in ("split", "doc_id")]
    split_of = np.array(table.column("split").to_pylist())
    bits = {name: table.column(name).to_numpy() for name in names}
    return {
        split: Baselines(of, {name: bits[name][split_of == split] for name in names}, not_valid)
        for split, of in totals.items()
    }


def reason_not_valid(sees_the_future: bool, is_lossless: bool) -> str | None:
    """Return why a model's bits per byte cannot be compared with those of others, None where they can."""
    if sees_the_future:
        return SEES_THE_FUTURE
    return None if is_lossless else LOSSY


def compare_with_baselines(
    bits: Floats, n_bytes: NDArray[np.int64], baselines: Baselines, rng: np.random.Generator
) -> list[Row]:
    """Compare the model's bits by document (D,) with those of each baseline, the best baseline first.

    A row has no interval where there is one document, or the baseline has no bits of documents.

    >>> alone = np.array([12.0, 33.0, 25.0])
    >>> baselines = Baselines({"bzip2": 3.0, "xz": 2.8}, {"xz": alone})
    >>> rows = compare_with_baselines(alone - [2, 3, 5], np.array([5, 10, 10]), baselines, np.random.default_rng(1))
    >>> rows[0]
    {'baseline': 'xz', 'bits_per_byte': 2.8, 'difference': -0.4, 'difference_low': -0.5, 'difference_high': -0.3}
    >>> rows[1]
    {'baseline': 'bzip2', 'bits_per_byte': 3.0, 'difference': -0.6}
    """
    own = float(bits.sum()) / int(n_bytes.sum())
    rows = []
    for name, total in sorted(baselines.bits_per_byte.items(), key=lambda item: item[1]):
        row: Row = {"baseline": name, "bits_per_byte": total, "difference": round(own - total, 5)}
        theirs = baselines.document_bits.get(name)
        interval = None if theirs is None else ratio_interval(bits - theirs, n_bytes, rng)
        if interval is not None:
            row |= {"difference_low": round(interval[0], 5), "difference_high": round(interval[1], 5)}
        rows.append(row)
    return rows


def verdict(row: Row) -> str:
    """Say in words whether a difference is outside of chance: whether its interval is all on one side of 0.

    >>> verdict({"difference": -0.1, "difference_low": -0.2, "difference_high": 0.0})
    'within chance'
    """
    if "difference_low" not in row:
        return NO_INTERVAL
    if row["difference_high"] < 0:
        return BETTER
    return WORSE if row["difference_low"] > 0 else WITHIN


def summarise_best(rows: list[Row], not_valid: str | None) -> Row:
    """Return the comparison with the best baseline for metrics/evaluate.json, or {} without a baseline.

    `not_valid` says why the model's figures cannot be compared, or is None.
    """
    if not rows:
        return {}
    best = rows[0]
    values = {key: value for key, value in best.items() if key.startswith("difference")}
    figures = {f"bits_per_byte_{key}": value for key, value in values.items()}
    return {"best_baseline": best["baseline"], **figures, "verdict": not_valid or verdict(best)}
