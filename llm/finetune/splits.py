"""Rows in, each one's split out: drawn by a seed, with every label in its share and relatives together."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from llm.errors import UserError

# What is held out of a file that brings no splits.
SHARES = {"test": 0.2, "val": 0.1}
N_FOLDS = 10


def draw_splits(
    n_rows: int,
    seed: int,
    labels: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    shares: dict[str, float] = SHARES,
) -> NDArray[np.object_]:
    """The split of each row: `shares` of them, the rest is train.

    With `labels` every label has its share in each split, as far as its rows go round: train has the first one, then
    the splits of `shares`. Rows of one of the `groups` have one split.
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        groups = [str(number) for number in range(n_rows)]
        if labels is not None:
            return _by_label(np.array(labels), rng, shares)
    if labels is None:
        return _by_group(np.array(groups), rng, shares)
    return _by_label_and_group(np.array(labels), np.array(groups), seed, shares)


def _by_label(labels: NDArray[np.str_], rng: np.random.Generator, shares: dict[str, float]) -> NDArray[np.object_]:
    splits = np.full(len(labels), "train", dtype=object)
    for label in np.unique(labels):
        left = rng.permutation(np.flatnonzero(labels == label))
        n_rows = len(left)
        for split, share in shares.items():
            n = min(max(1, round(share * n_rows)), len(left) - 1)
            splits[left[:n]] = split
            left = left[n:]
    return splits


def _by_group(groups: NDArray[np.str_], rng: np.random.Generator, shares: dict[str, float]) -> NDArray[np.object_]:
    names, of_row = np.unique(groups, return_inverse=True)
    order = rng.permutation(len(names))
    sizes = np.bincount(of_row)[order]
    # A group is in the split that its middle row falls into.
    middle = (np.cumsum(sizes) - sizes / 2) / len(groups)
    split_of = np.full(len(names), "train", dtype=object)
    start = 0.0
    for split, share in shares.items():
        split_of[order[(middle >= start) & (middle < start + share)]] = split
        start += share
    return split_of[of_row]


def _by_label_and_group(
    labels: NDArray[np.str_], groups: NDArray[np.str_], seed: int, shares: dict[str, float]
) -> NDArray[np.object_]:
    n_folds = min(N_FOLDS, len(np.unique(groups)), int(np.unique(labels, return_counts=True)[1].max()))
    if n_folds <= len(shares):
        raise UserError(f"group_column: wanted more than {len(shares)} groups to split, given {len(np.unique(groups))}")
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed % 2**32)
    parts = [held_out for _, held_out in _quiet(folds, labels, groups)]
    splits = np.full(len(labels), "train", dtype=object)
    for split, share in shares.items():
        for _ in range(max(1, round(share * n_folds))):
            splits[parts.pop()] = split
    return splits


def _quiet(
    folds: StratifiedGroupKFold, labels: NDArray[np.str_], groups: NDArray[np.str_]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    with warnings.catch_warnings():
        # A label of fewer rows than folds is in some of them only, as it has to be.
        warnings.filterwarnings("ignore", "The least populated class")
        return list(folds.split(np.zeros(len(labels)), labels, groups))
