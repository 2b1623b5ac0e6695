"""Choose the windows of each step: an epoch has each window as often as its weight says, in random order."""

from bisect import bisect_right

import numpy as np
import torch
from torch import Tensor

from llm.model.functions import IGNORED
from llm.tokens.windows import Windows, repeats

FINAL_FRACTION, FINAL_EPOCHS = 0.2, 1.3  # of the steps that read the segmentation without dropout, the last ones


class WindowBatches:
    """Batches of windows as a pure function of seed and step, so that a resumed run has the same ones.

    Epochs take the segmentations of the text in turn. The last windows of an epoch, where they do not fill a batch,
    are joined by the first ones of the next epoch.
    """

    def __init__(self, segmentations: list[Windows], context_length: int, batch_size: int, pad: int, seed: int):
        self.segmentations = segmentations
        self.context_length, self.batch_size, self.pad, self.seed = context_length, batch_size, pad, seed
        self._ends = [0]  # number of windows up to the end of each epoch
        self._orders: dict[int, Tensor] = {}

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Return input and target of a step, each (B, T) int64; the target is the input shifted by one token."""
        rows = []
        for index in range(step * self.batch_size, (step + 1) * self.batch_size):
            epoch = self._epoch_of(index)
            windows = self.segmentations[epoch % len(self.segmentations)]
            rows.append((windows, int(self._order(epoch)[index - self._ends[epoch]])))
        return take_windows(rows, self.context_length, self.pad)

    def epochs(self, n_steps: int) -> float:
        """Return the number of epochs in `n_steps`."""
        epoch = self._epoch_of(max(n_steps * self.batch_size - 1, 0))
        begin, end = self._ends[epoch : epoch + 2]
        return epoch + (n_steps * self.batch_size - begin) / (end - begin)

    def _epoch_of(self, index: int) -> int:
        while self._ends[-1] <= index:
            self._ends.append(self._ends[-1] + int(self._repeats(len(self._ends) - 1).sum()))
        return bisect_right(self._ends, index) - 1

    def _repeats(self, epoch: int) -> np.ndarray:
        return repeats(self.segmentations[epoch % len(self.segmentations)].weights, epoch)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            # Hashed from both numbers: seed 1, epoch 2 differs from seed 2, epoch 1.
            seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
            times = self._repeats(epoch)
            order = torch.randperm(int(times.sum()), generator=torch.Generator().manual_seed(seed))
            numbers = torch.from_numpy(np.repeat(np.arange(len(times)), times))[order]
            self._orders = {epoch: numbers} | {e: o for e, o in self._orders.items() if e == epoch - 1}
        return self._orders[epoch]


class SegmentedBatches:
    """Batches of the segmentations with dropped merges first, of the plain one in the last steps."""

    def __init__(self, plain: WindowBatches, dropout: WindowBatches | None, max_steps: int, final: float | None):
        """`final` is the fraction of the steps that read the plain one; None: a fifth, but about an epoch at most."""
        self.plain, self.dropout = plain, dropout or plain
        if final is None:
            # Without the plain segmentation a model is worse at it; much more than an epoch of it is memorized.
            n_windows = len(plain.segmentations[0].starts)
            final = min(FINAL_FRACTION, FINAL_EPOCHS * n_windows / (plain.batch_size * max_steps))
        self.n_dropout_steps = round(max_steps * (1 - final)) if dropout else 0

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Return input and target of a step, each (B, T)."""
        n_before = self.n_dropout_steps
        return self.dropout.at(step) if step < n_before else self.plain.at(step - n_before)

    def epochs(self, n_steps: int) -> float:
        """Return the number of epochs in the first `n_steps`."""
        n_dropout = min(n_steps, self.n_dropout_steps)
        return self.dropout.epochs(n_dropout) + self.plain.epochs(n_steps - n_dropout)


def take_windows(rows: list[tuple[Windows, int]], context_length: int, pad: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, each (len(rows), context_length) int64, of windows given by number.

    A shorter window is padded with `pad` in the input and IGNORED in the target.
    """
    ids = np.full((len(rows), context_length), pad, dtype=np.int64)
    targets = np.full((len(rows), context_length), IGNORED, dtype=np.int64)
    for row, (windows, number) in enumerate(rows):
        start, length = int(windows.starts[number]), int(windows.lengths[number])
        ids[row, :length] = windows.stream[start : start + length]
        targets[row, :length] = windows.stream[start + 1 : start + length + 1]
    return torch.from_numpy(ids), torch.from_numpy(targets)


def validation_batches(
    windows: Windows, context_length: int, batch_size: int, pad: int, max_windows: int
) -> list[tuple[Tensor, Tensor]]:
    """Return batches of up to `max_windows` windows, evenly spaced over the text; none for an empty text.

    Windows that do not fill a batch are left out, unless there are too few for one: then it is smaller.
    """
    n_windows = len(windows.starts)
    size = min(batch_size, max_windows, n_windows)
    if not size:
        return []
    count = min(max_windows, n_windows) // size * size
    chosen = [(windows, number * n_windows // count) for number in range(count)]
    return [take_windows(chosen[at : at + size], context_length, pad) for at in range(0, count, size)]
