"""Rows of unequal length in batches of nearly equal ones, so that little of the work is on padding."""

import numpy as np
import torch
from torch import Tensor


class RowBatches:
    """Which rows a step takes: each of an epoch once, by step number, a pure function of the seed.

    An epoch's shuffled rows are sorted by length within groups of 16 batches, and the batches are shuffled.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed = np.array(lengths), batch_size, seed
        self.per_epoch = -(-len(lengths) // batch_size)
        self._epoch = -1
        self._batches: list[list[int]] = []

    def at(self, step: int) -> list[int]:
        """The numbers of a step's rows."""
        epoch, within = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffle(epoch)
        return self._batches[within]

    def _shuffle(self, epoch: int) -> list[list[int]]:
        drawn = np.random.default_rng([self.seed, epoch])
        order = drawn.permutation(len(self.lengths))
        group = 16 * self.batch_size
        batches: list[list[int]] = []
        for at in range(0, len(order), group):
            rows = order[at : at + group]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += [
                rows[start : start + self.batch_size].tolist() for start in range(0, len(rows), self.batch_size)
            ]
        drawn.shuffle(batches)
        return batches


def in_order(lengths: list[int], batch_size: int) -> list[list[int]]:
    """All rows once, the short ones first: for scoring, where the order is of no account."""
    rows = sorted(range(len(lengths)), key=lambda row: lengths[row])
    return [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]


def pad(rows: list[list[int]], fill: int) -> Tensor:
    """Rows as one int64 tensor (B, longest), filled up on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])
