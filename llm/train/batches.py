"""Which windows a step learns from: every window of an epoch once, in an order drawn from the seed."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class WindowBatches:
    """Batches of windows by step number: a pure function of the seed, so that a resumed run sees the same ones.

    An epoch's last windows that fill no batch are joined by the first ones of the next epoch.
    """

    def __init__(
        self, stream: NDArray[np.integer], starts: NDArray[np.int64], context_length: int, batch_size: int, seed: int
    ):
        self.stream, self.starts = stream, starts
        self.context_length, self.batch_size, self.seed = context_length, batch_size, seed
        self._orders: dict[int, Tensor] = {}

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Input and target of a step, each (B, T) int64; the target is the input moved by one token."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        return take_windows(self.stream, [self._start(place) for place in places], self.context_length)

    def epochs(self, n_steps: int) -> float:
        """How often `n_steps` go through the windows."""
        return n_steps * self.batch_size / len(self.starts)

    def _start(self, place: int) -> int:
        epoch, within = divmod(place, len(self.starts))
        if epoch not in self._orders:
            # The seed of an epoch is drawn from both numbers: seed 1, epoch 2 is not seed 2, epoch 1.
            drawn = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
            generator = torch.Generator().manual_seed(drawn)
            self._orders = {epoch: torch.randperm(len(self.starts), generator=generator)} | (
                {epoch - 1: self._orders[epoch - 1]} if epoch - 1 in self._orders else {}
            )
        return int(self.starts[self._orders[epoch][within]])


def take_windows(stream: NDArray[np.integer], starts: list[int], context_length: int) -> tuple[Tensor, Tensor]:
    """Cut windows out of a stream: inputs and targets, each (len(starts), context_length) int64."""
    rows = np.stack([stream[start : start + context_length + 1] for start in starts]).astype(np.int64)
    windows = torch.from_numpy(rows)
    return windows[:, :-1], windows[:, 1:]
