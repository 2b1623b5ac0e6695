"""Random splits of rows by a seed: stratified by label, groups kept together."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# Names of splits in files that people share, in lower case.
NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing"),
}
FRACTIONS = {"test": 0.2, "val": 0.1}  # held out of a file without splits


def split_named(name: str) -> str | None:
    """Return the split that a name denotes, or None.

    >>> split_named(" Validation "), split_named("holdout")
    ('val', None)
    """
    return next((split for split, names in NAMES.items() if name.strip().lower() in names), None)


def draw_splits(
    n_rows: int,
    seed: int,
    labels: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    fractions: dict[str, float] = FRACTIONS,
) -> NDArray[np.object_]:
    """Return the split of each row: `fractions` of them, of each label if there are `labels`, the others are train.

    Train has every label. Rows of one of the `groups` have one split, and every split has a group if there are enough.
    """
    rng = np.random.default_rng(seed)
    # Equal values as equal numbers. As objects: in an array of text every value takes the memory of the longest.
    label_of, group_of = (
        pd.factorize(np.array(values or [""] * n_rows, dtype=object), sort=True)[0] for values in (labels, groups)
    )
    return _by_row(label_of, rng, fractions) if groups is None else _by_group(label_of, group_of, rng, fractions)


def _rows_of(number_of: Ints) -> list[Ints]:
    order = np.argsort(number_of, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number_of[order])) + 1)


def _by_row(label_of: Ints, rng: np.random.Generator, fractions: dict[str, float]) -> NDArray[np.object_]:
    splits = np.full(len(label_of), "train", dtype=object)
    taken = dict.fromkeys(fractions, 0)
    for rows in _rows_of(label_of):
        left = rng.permutation(rows)
        # Of a label with two rows, one is held out: for the split that is furthest below its fraction.
        for split in sorted(fractions, key=lambda split: taken[split] / fractions[split]):
            n = min(max(1, round(fractions[split] * len(rows))), len(left) - 1)
            splits[left[:n]] = split
            left = left[n:]
            taken[split] += n
    return splits


def _by_group(
    label_of: Ints, group_of: Ints, rng: np.random.Generator, fractions: dict[str, float]
) -> NDArray[np.object_]:
    """Assign each group to the split that lacks its labels most: iterative stratification (Sechidis et al. 2011)."""
    names = ["train", *fractions]
    n_rows = np.bincount(label_of)
    # In fractions of a label's rows, so that a rare label weighs as much as a common one; (splits, labels).
    target = np.array([1 - sum(fractions.values()), *fractions.values()])
    lacking = np.outer(target, np.ones(len(n_rows)))
    parts = []
    for rows in _rows_of(group_of):
        labels, counts = np.unique(label_of[rows], return_counts=True)
        parts.append((labels, counts / n_rows[labels]))
    # Large groups first; small ones even out the rest.
    sizes, order = np.array([part.sum() for _, part in parts]), rng.permutation(len(parts))
    order = order[np.argsort(-sizes[order], kind="stable")]
    split_of = np.zeros(len(parts), dtype=np.int64)
    for group in order:
        labels, part = parts[group]
        # The split for which the chi-square distance, the sum of lacking ** 2 / target, falls most.
        split_of[group] = np.argmax((lacking[:, labels] - part / 2) @ part / target)
        lacking[split_of[group], labels] -= part
    for split in range(1, len(names)):
        if not (split_of == split).any():
            _move_one(split, split_of, order[::-1], label_of, group_of)
    return np.array(names, dtype=object)[split_of[group_of]]


def _move_one(split: int, split_of: Ints, candidates: Ints, label_of: Ints, group_of: Ints) -> None:
    """Move to an empty split the first candidate whose split keeps another group, and train all of its labels."""
    for group in candidates:
        is_own = group_of == group
        rest = (split_of[group_of] == split_of[group]) & ~is_own
        if rest.any() and (split_of[group] != 0 or np.isin(label_of[is_own], label_of[rest]).all()):
            split_of[group] = split
            return
