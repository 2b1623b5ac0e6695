"""Batches of rows of unequal length: sorted by length or packed, a pure function of the seed and the step."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GROUP_BATCHES = 16  # whose rows are sorted by length


class RowBatches:
    """The rows of each training step, of similar lengths: every row once per epoch, shuffled by seed and epoch.

    With `room` a step has packs: lists of rows with at most `room` tokens together. Every epoch has the same number.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int, room: int | None = None):
        self.lengths, self.batch_size, self.seed, self.room = np.array(lengths), batch_size, seed, room
        self._epoch, self._batches = 0, self._draw(0)
        self.per_epoch = len(self._batches)

    def at(self, step: int) -> Any:
        """Return the rows of a step."""
        epoch, within = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._draw(epoch)
        return self._batches[within]

    def _draw(self, epoch: int) -> list[Any]:
        rng = np.random.default_rng([self.seed, epoch])
        order, batches = rng.permutation(len(self.lengths)), []
        if self.room is not None:
            packs = first_fit(self.lengths, order[np.argsort(-self.lengths[order], kind="stable")], self.room)
            rng.shuffle(packs)
            return _chunks(packs, self.batch_size)
        for group in _chunks(order, GROUP_BATCHES * self.batch_size):
            rows = group[np.argsort(self.lengths[group], kind="stable")]
            batches += [batch.tolist() for batch in _chunks(rows, self.batch_size)]
        rng.shuffle(batches)
        return batches


def first_fit(lengths: NDArray[np.int64], order: NDArray[np.int64], room: int) -> list[list[int]]:
    """Return rows, taken in `order`, each in the first pack that has room for it.

    With decreasing lengths there are at most 11/9 of the fewest packs, and 6/9 of one (Dósa 2007, ESCAPE).

    >>> first_fit(np.array([5, 3, 2, 4, 6]), np.array([4, 0, 3, 1, 2]), 8)
    [[4, 2], [0, 1], [3]]
    """
    packs: list[list[int]] = []
    free = np.full(len(lengths), room)
    for row in order.tolist():
        pack = int(np.argmax(free[: len(packs) + 1] >= lengths[row]))
        if pack == len(packs):
            packs.append([])
        packs[pack].append(row)
        free[pack] -= lengths[row]
    return packs


def by_length(lengths: list[int], batch_size: int) -> list[list[int]]:
    """Return batches of all rows once, short ones first: for scoring, where the order does not matter."""
    return _chunks(sorted(range(len(lengths)), key=lengths.__getitem__), batch_size)


def _chunks(rows: Any, size: int) -> list[Any]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def pad(rows: list[list[int]], fill: int) -> Tensor:
    """Return rows as one int64 tensor (B, longest), padded on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])
