"""The mean of the weights over many steps: often better than the weights of any one of them.

    ema     weights count half as much after each half-life (Morales-Brotons et al. 2024, arXiv:2411.18704)
    tail    the plain mean over the last steps of the run (Izmailov et al. 2018, arXiv:1803.05407)

Both are one running mean. The share of it that the newest weights get is a pure function of the step, so a
resumed run needs the mean alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


def averaging_weight(step: int, n_steps: int, kind: Literal["ema", "tail"], part_of_run: float) -> float | None:
    """The share that the weights after a step have in the mean: 1 where it begins, None before that.

    `part_of_run` is of the steps: the half-life of `ema`, the length of `tail`. An EMA begins as the plain mean
    of all weights so far, until each gets as much as it will later: a fixed share would let the drawn first
    weights count for a long time.

    >>> [averaging_weight(step, 6, "tail", 0.5) for step in range(6)]
    [None, None, None, 1.0, 0.5, 0.3333333333333333]
    >>> [averaging_weight(step, 8, "ema", 0.125) for step in range(4)]
    [1.0, 0.5, 0.5, 0.5]
    """
    if kind == "ema":
        return max(1 / (step + 1), 1 - 0.5 ** (1 / (part_of_run * n_steps)))
    first = n_steps - max(1, round(part_of_run * n_steps))
    return 1 / (step - first + 1) if step >= first else None


@torch.no_grad()
def add_newest(mean: Weights | None, model: nn.Module, share: float | None) -> Weights | None:
    """The mean with the model's weights in it, which get this share; what it was is overwritten."""
    if share is None:
        return None
    if mean is None:
        assert share == 1, "the first weights are the whole mean"
        return {name: weight.clone() for name, weight in model.named_parameters()}
    for name, weight in model.named_parameters():
        mean[name].lerp_(weight, share)
    return mean


@contextmanager
def swapped_weights(model: nn.Module, mean: Weights | None) -> Iterator[None]:
    """Within it the model has the mean's weights, and the mean the model's; None changes nothing."""
    _exchange(model, mean)
    try:
        yield
    finally:
        _exchange(model, mean)


@torch.no_grad()
def _exchange(model: nn.Module, mean: Weights | None) -> None:
    if mean is None:
        return
    for name, weight in model.named_parameters():
        # Contents move and not the tensors: a compiled graph holds on to those.
        newest = weight.clone()
        weight.copy_(mean[name])
        mean[name].copy_(newest)
