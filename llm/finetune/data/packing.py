"""Rows of unequal length, several to a pack, so that hardly any of the work is on padding.

lengths 5 3 2 4 6, room 8   →   packs [4, 2] [0, 1] [3], which are 8, 8 and 4 long
"""

import numpy as np
from numpy.typing import NDArray


def first_fit(lengths: NDArray[np.int64], order: NDArray[np.int64], room: int) -> list[list[int]]:
    """The rows, taken in `order`, each put into the first pack that still has room for it.

    With the long ones first there are at most 11/9 of the fewest packs, and 6/9 of one (Dósa 2007, ESCAPE).

    >>> first_fit(np.array([5, 3, 2, 4, 6]), np.array([4, 0, 3, 1, 2]), 8)
    [[4, 2], [0, 1], [3]]
    """
    assert lengths.max() <= room, "a row that fits no pack"
    packs: list[list[int]] = []
    free = np.full(len(lengths), room)
    for row in order.tolist():
        place = int(np.argmax(free[: len(packs) + 1] >= lengths[row]))
        if place == len(packs):
            packs.append([])
        packs[place].append(row)
        free[place] -= lengths[row]
    return packs


class PackedBatches:
    """Which packs of rows a step takes: each row of an epoch once, by step number, a pure function of the seed.

    An epoch's shuffled rows are sorted by length and packed, and the packs are shuffled. Every epoch has as many packs.
    """

    def __init__(self, lengths: list[int], room: int, batch_size: int, seed: int):
        self.lengths, self.room, self.batch_size, self.seed = np.array(lengths), room, batch_size, seed
        self._epoch, self._packs = 0, self._pack(0)
        self.per_epoch = -(-len(self._packs) // batch_size)

    def at(self, step: int) -> list[list[int]]:
        """The packs of a step, each as the numbers of its rows."""
        epoch, within = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._packs = epoch, self._pack(epoch)
        return self._packs[within * self.batch_size : (within + 1) * self.batch_size]

    def _pack(self, epoch: int) -> list[list[int]]:
        drawn = np.random.default_rng([self.seed, epoch])
        order = drawn.permutation(len(self.lengths))
        order = order[np.argsort(-self.lengths[order], kind="stable")]
        packs = first_fit(self.lengths, order, self.room)
        drawn.shuffle(packs)
        return packs
