"""Which windows a step learns from: every window of an epoch once, or as often as its weight says, in a drawn order."""

import numpy as np
import torch
from torch import Tensor

from llm.tokens.windows import Windows, repeats

IGNORED = -100  # a target that does not count


class WindowBatches:
    """Batches of windows by step number: a pure function of the seed, so that a resumed run sees the same ones.

    Epochs take the segmentations of the text in turn; mostly there is one. An epoch's last windows that fill no
    batch are joined by the first ones of the next epoch.
    """

    def __init__(self, segmentations: list[Windows], context_length: int, batch_size: int, pad: int, seed: int):
        self.segmentations = segmentations
        self.context_length, self.batch_size, self.pad, self.seed = context_length, batch_size, pad, seed
        self._ends = [0]  # the number of windows up to the end of each epoch
        self._orders: dict[int, Tensor] = {}

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Input and target of a step, each (B, T) int64; the target is the input moved by one token."""
        rows = []
        for place in range(step * self.batch_size, (step + 1) * self.batch_size):
            epoch = self._epoch_of(place)
            windows = self.segmentations[epoch % len(self.segmentations)]
            rows.append((windows, int(self._order(epoch)[place - self._ends[epoch]])))
        return take_windows(rows, self.context_length, self.pad)

    def epochs(self, n_steps: int) -> float:
        """How often `n_steps` go through the windows."""
        epoch = self._epoch_of(max(n_steps * self.batch_size - 1, 0))
        begin, end = self._ends[epoch : epoch + 2]
        return epoch + (n_steps * self.batch_size - begin) / (end - begin)

    def _epoch_of(self, place: int) -> int:
        while self._ends[-1] <= place:
            self._ends.append(self._ends[-1] + int(self._repeats(len(self._ends) - 1).sum()))
        return int(np.searchsorted(self._ends, place, side="right")) - 1

    def _repeats(self, epoch: int) -> np.ndarray:
        return repeats(self.segmentations[epoch % len(self.segmentations)].weights, epoch)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            # The seed of an epoch is drawn from both numbers: seed 1, epoch 2 is not seed 2, epoch 1.
            drawn = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
            times = self._repeats(epoch)
            order = torch.randperm(int(times.sum()), generator=torch.Generator().manual_seed(drawn))
            numbers = torch.from_numpy(np.repeat(np.arange(len(times)), times))[order]
            self._orders = {epoch: numbers} | {e: o for e, o in self._orders.items() if e == epoch - 1}
        return self._orders[epoch]


def take_windows(rows: list[tuple[Windows, int]], context_length: int, pad: int) -> tuple[Tensor, Tensor]:
    """Cut windows, by number, out of their streams: inputs and targets, each (len(rows), context_length) int64.

    A window that is shorter is filled with `pad`, and with targets that do not count.
    """
    ids = np.full((len(rows), context_length), pad, dtype=np.int64)
    targets = np.full((len(rows), context_length), IGNORED, dtype=np.int64)
    for row, (windows, number) in enumerate(rows):
        start, length = int(windows.starts[number]), int(windows.lengths[number])
        ids[row, :length] = windows.stream[start : start + length]
        targets[row, :length] = windows.stream[start + 1 : start + length + 1]
    return torch.from_numpy(ids), torch.from_numpy(targets)
