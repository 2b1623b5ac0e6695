"""Average the weights over many steps: the mean is often better than the weights of any one step.

    ema     exponential moving average (Morales-Brotons et al. 2024, arXiv:2411.18704)
    tail    plain mean over the last steps of the run (Izmailov et al. 2018, arXiv:1803.05407)

Both are one running mean. The weight of its newest term is a pure function of the step, so that a resumed run needs
the mean alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


def averaging_weight(step: int, n_steps: int, kind: Literal["ema", "tail"], fraction: float) -> float | None:
    """Return the share of the newest weights in the mean: 1 at its first step, None before.

    `fraction` is of the steps: the half-life of `ema`, the length of `tail`.

    >>> [averaging_weight(step, 6, "tail", 0.5) for step in range(6)]
    [None, None, None, 1.0, 0.5, 0.3333333333333333]
    >>> [averaging_weight(step, 8, "ema", 0.125) for step in range(4)]
    [1.0, 0.5, 0.5, 0.5]
    """
    if kind == "ema":
        # A plain mean at first: with a constant share the random initial weights would count for a long time.
        return max(1 / (step + 1), 1 - 0.5 ** (1 / (fraction * n_steps)))
    first = n_steps - max(1, round(fraction * n_steps))
    return 1 / (step - first + 1) if step >= first else None


@torch.no_grad()
def update_mean(mean: Weights | None, model: nn.Module, share: float | None) -> Weights | None:
    """Add the model's weights to the mean, in place; a share of None leaves no mean."""
    if share is None:
        return None
    if mean is None:
        assert share == 1, "the first weights are all of the mean"
        return {name: weight.clone() for name, weight in model.named_parameters()}
    for name, weight in model.named_parameters():
        mean[name].lerp_(weight, share)
    return mean


@contextmanager
def swapped_weights(model: nn.Module, mean: Weights | None) -> Iterator[None]:
    """Exchange the weights of the model and the mean inside the block; None changes nothing."""
    weights = dict(model.named_parameters())

    @torch.no_grad()
    def swap() -> None:
        for name, average in (mean or {}).items():
            # Contents are copied and the tensors stay: a compiled graph refers to those.
            newest = weights[name].clone()
            weights[name].copy_(average)
            average.copy_(newest)

    swap()
    try:
        yield
    finally:
        swap()
