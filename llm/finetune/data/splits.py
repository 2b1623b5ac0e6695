"""Rows in, each one's split out: drawn by a seed, with every label in its share and relatives together."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# What splits are called in files that people share, in small letters.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}

# What is held out of a file that brings no splits.
SHARES = {"test": 0.2, "val": 0.1}


def split_named(name: str) -> str | None:
    """Return the split that a name stands for, or None.

    >>> split_named(" Validation "), split_named("holdout")
    ('val', None)
    """
    return SPLIT_NAMES.get(name.strip().lower())


def draw_splits(
    n_rows: int,
    seed: int,
    labels: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    shares: dict[str, float] = SHARES,
) -> NDArray[np.object_]:
    """The split of each row: `shares` of them, the rest is train.

    With `labels` every label has its share in each split, as far as its rows go round: train has the first one, then
    the splits of `shares`. Rows of one of the `groups` have one split, and each split has a group if there are enough.
    """
    rng = np.random.default_rng(seed)
    label_of = np.zeros(n_rows, dtype=np.int64) if labels is None else _number(labels)
    if groups is None:
        return _by_row(label_of, rng, shares)
    return _by_group(label_of, _number(groups), rng, shares)


def _number(values: Sequence[str]) -> NDArray[np.int64]:
    """Equal values as equal numbers from 0, in the order of the alphabet."""
    # As objects: an array of text would give each value the room of the longest one.
    return np.unique(np.array(values, dtype=object), return_inverse=True)[1].astype(np.int64)


def _rows_of(number_of: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each number."""
    order = np.argsort(number_of, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number_of[order])) + 1)


def _by_row(label_of: NDArray[np.int64], rng: np.random.Generator, shares: dict[str, float]) -> NDArray[np.object_]:
    splits = np.full(len(label_of), "train", dtype=object)
    taken = dict.fromkeys(shares, 0)
    for rows in _rows_of(label_of):
        left = rng.permutation(rows)
        # A label of two rows has one to hold out: the split that is furthest below its share gets it.
        for split in sorted(shares, key=lambda split: taken[split] / shares[split]):
            n = min(max(1, round(shares[split] * len(rows))), len(left) - 1)
            splits[left[:n]] = split
            left = left[n:]
            taken[split] += n
    return splits


def _by_group(
    label_of: NDArray[np.int64], group_of: NDArray[np.int64], rng: np.random.Generator, shares: dict[str, float]
) -> NDArray[np.object_]:
    """Each group goes where its labels are missing most, as in iterative stratification (Sechidis et al. 2011)."""
    names = ["train", *shares]
    n_rows = np.bincount(label_of)
    # What each split lacks of each label, in shares of the label's rows: a rare label weighs as much as a common one.
    wanted = np.array([1 - sum(shares.values()), *shares.values()])
    lacking = np.outer(wanted, np.ones(len(n_rows)))
    parts = []
    for rows in _rows_of(group_of):
        labels, counts = np.unique(label_of[rows], return_counts=True)
        parts.append((labels, counts / n_rows[labels]))
    # What is hard to place comes first, so that the small groups even it out.
    sizes = np.array([part.sum() for _, part in parts])
    order = rng.permutation(len(parts))
    order = order[np.argsort(-sizes[order], kind="stable")]
    split_of = np.zeros(len(parts), dtype=np.int64)
    for group in order:
        labels, part = parts[group]
        # The split for which the chi-square distance, the sum of lacking ** 2 / wanted, falls most.
        split_of[group] = np.argmax((lacking[:, labels] - part / 2) @ part / wanted)
        lacking[split_of[group], labels] -= part
    for split in range(1, len(names)):
        if not (split_of == split).any():
            _give_one(split, split_of, order[::-1], label_of, group_of)
    return np.array(names, dtype=object)[split_of[group_of]]


def _give_one(
    split: int,
    split_of: NDArray[np.int64],
    candidates: NDArray[np.int64],
    label_of: NDArray[np.int64],
    group_of: NDArray[np.int64],
) -> None:
    """Move the first candidate to a split without a group that train or another split can do without."""
    for group in candidates:
        labels = np.unique(label_of[group_of == group])
        rest = split_of[group_of] == split_of[group]
        rest &= group_of != group
        if rest.any() and (split_of[group] != 0 or np.isin(labels, label_of[rest]).all()):
            split_of[group] = split
            return
