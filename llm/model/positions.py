"""Position encodings: without them, attention sees the past as a set.

Three schemes beside none: a table of sines is added to the embeddings; a learned table is added (`GPT.positions`); or
RoPE turns queries and keys by an angle that grows with the position, so that their product depends on the distance.
"""

import torch
from torch import Tensor


def sinusoidal_table(context_length: int, d_model: int) -> Tensor:
    """Compute sines and cosines of positions, (T, D) float32 (Vaswani et al. 2017, arXiv:1706.03762, section 3.5).

    Columns 2i and 2i + 1 are sin and cos of position / 10000^(2i/D): a clock with D / 2 hands of different speeds.

    >>> sinusoidal_table(2, 4).round(decimals=2)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8400, 0.5400, 0.0100, 1.0000]])
    """
    angle = _angles(context_length, d_model, 10000.0)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()


def rope_table(context_length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Compute cosines and sines of rotary positions, each (T, C) float32, for the half-split layout.

    Pair i of a head is turned by position · theta^(-2i/C) (Su et al. 2021, RoFormer, arXiv:2104.09864). The
    pairs are (i, i + C/2), as in Llama's and Qwen's published weights, not (2i, 2i + 1) as in the paper.
    """
    angle = _angles(context_length, head_dim, theta)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each head's pairs by their position's angle. x (..., T, C); cos and sin (T, C); same shape out."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


def segment_positions(segments: Tensor) -> Tensor:
    """Return the position (B, T) of each token in its own text, from a number for each text (B, T).

    >>> segment_positions(torch.tensor([[7, 7, 7, 8, 9, 9]]))
    tensor([[0, 1, 2, 0, 0, 1]])
    """
    position = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return position - position.where(begins, 0).cummax(dim=1).values


def _angles(context_length: int, width: int, theta: float) -> Tensor:
    """Compute (T, width / 2) float64: position · theta^(-2i/width)."""
    frequency = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.outer(torch.arange(context_length, dtype=torch.float64), frequency)
