"""Dropout: in training, some of what a layer passes on is left out, so that nothing can lean on one detail alone.

    draw_noise(shape) → ones and zeros, once → noise_at(noise, seed, step) → block_masks → dropout(x, rate, mask)

No random state is read where elements are dropped: a resumed run drops the same ones, compiled or not. To draw a bit
for each element at each step would cost as much as attention does. So there is one row of bits, and a step reads it
from a place of its own, each sequence at each place of the model from a little further on.
"""

import numpy as np
import torch
from torch import Tensor

from llm.model.config import ModelConfig

PLACES = 2**20  # where a step may begin to read
SHIFT = 37  # bits from one sequence's mask to the next one's
ROOM = 2**22  # bits for all the shifts: 113,000 masks of a sequence
MASKS_PER_BLOCK = 3  # of the attention weights, of what attention adds, of what the feed-forward adds


def draw_noise(config: ModelConfig) -> Tensor:
    """Ones, and a share `dropout` of zeros, to read masks from: the same for every model of a shape.

    bfloat16 holds both exactly; to multiply by them is faster than to choose by booleans.
    """
    longest = config.context_length * max(config.d_model, config.n_query_heads * config.context_length)
    drawn = torch.rand(PLACES + ROOM + longest, generator=torch.Generator().manual_seed(0))
    return (drawn >= config.dropout).bfloat16()


def noise_at(noise: Tensor, seed: int, step: int) -> Tensor:
    """The part of the noise that a step reads, a view: a pure function of seed and step.

    >>> noise_at(torch.arange(2**20 + 9), 1, 2).shape
    torch.Size([9])
    """
    place = int(np.random.default_rng([seed, step]).integers(PLACES))
    return noise[place : place + len(noise) - PLACES]


def block_masks(noise: Tensor | None, layer: int, n_sequences: int) -> list[Tensor | None]:
    """A block's three masks, of a step's noise; no masks without noise."""
    first = layer * MASKS_PER_BLOCK
    starts = [(first + number) * n_sequences * SHIFT for number in range(MASKS_PER_BLOCK)]
    return [None if noise is None else noise[start:] for start in starts]


def dropout(x: Tensor, rate: float, mask: Tensor | None) -> Tensor:
    """Zero x (B, ...) where the mask does, scale the rest by 1 / (1 − rate) (Srivastava et al. 2014, JMLR 15).

    The mask is a row of bits: sequence b reads it from bit b · SHIFT on. Without a mask x stays as it is.

    >>> dropout(torch.ones(2, 3), 0.5, torch.tensor([1, 0, 1] + 34 * [9] + [0, 1, 0]))
    tensor([[2., 0., 2.],
            [0., 2., 0.]])
    """
    if mask is None:
        return x
    bits = mask.unfold(0, x[0].numel(), SHIFT)[: len(x)]
    return x * bits.view(x.shape) * (1 / (1 - rate))
