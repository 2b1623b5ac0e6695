"""Dropout: in training, random elements of what a layer passes on are zeroed (Srivastava et al. 2014, JMLR 15).

    draw_noise(config) → ones and zeros, once → noise_at(noise, seed, step) → block_masks → dropout(x, dropout_p, mask)

No random state is read where elements are dropped: a resumed run drops the same ones, compiled or not. A fresh bit for
each element and step would cost as much as attention, so there is one row of bits; each step reads it from an offset
of its own, and each sequence at each site of the model from a little further on.
"""

import numpy as np
import torch
from torch import Tensor

from llm.model.config import ModelConfig

N_OFFSETS = 2**20  # at which a step may begin to read
SHIFT = 37  # bits from one sequence's mask to the next one's
SHIFT_ROOM = 2**22  # bits for all the shifts: 113,000 masks of a sequence
MASKS_PER_BLOCK = 3  # of the attention weights, of what attention adds, of what the feed-forward adds


def draw_noise(config: ModelConfig) -> Tensor:
    """Draw ones, and a fraction `dropout` of zeros: the same row for every model of a shape."""
    longest = config.context_length * max(config.d_model, config.n_query_heads * config.context_length)
    drawn = torch.rand(N_OFFSETS + SHIFT_ROOM + longest, generator=torch.Generator().manual_seed(0))
    return (drawn >= config.dropout).bfloat16()  # exact, and a product is faster than a choice by booleans


def noise_at(noise: Tensor, seed: int, step: int) -> Tensor:
    """Return the part of the noise that a step reads, as a view: a pure function of seed and step.

    >>> noise_at(torch.arange(2**20 + 9), 1, 2).shape
    torch.Size([9])
    """
    offset = int(np.random.default_rng([seed, step]).integers(N_OFFSETS))
    return noise[offset : offset + len(noise) - N_OFFSETS]


def block_masks(noise: Tensor | None, layer: int, n_sequences: int) -> list[Tensor | None]:
    """Return a block's three masks from a step's noise; None each without noise."""
    first = layer * MASKS_PER_BLOCK
    starts = [(first + number) * n_sequences * SHIFT for number in range(MASKS_PER_BLOCK)]
    return [None if noise is None else noise[start:] for start in starts]


def dropout(x: Tensor, dropout_p: float, mask: Tensor | None) -> Tensor:
    """Zero x (B, ...) where the mask does and scale the rest by 1 / (1 − dropout_p); without a mask return x.

    The mask is a row of bits: sequence b reads it from bit b · SHIFT on.

    >>> dropout(torch.ones(2, 3), 0.5, torch.tensor([1, 0, 1] + 34 * [9] + [0, 1, 0]))
    tensor([[2., 0., 2.],
            [0., 2., 0.]])
    """
    if mask is None:
        return x
    bits = mask.unfold(0, x[0].numel(), SHIFT)[: len(x)]
    return x * bits.view(x.shape) * (1 / (1 - dropout_p))
