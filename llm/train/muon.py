"""Muon for matrices of one shape (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

A matrix's momentum is replaced by the nearest orthogonal matrix, so that every direction of it learns, not only the few
that dominate the gradient.

    gradients ──nesterov──► directions (n, rows, columns) ──orthogonalize──► updates ──apply──► weights
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from llm.model.kernels import addresses, fit, run
from llm.train.parallel import local_shard

# Of the quintics that the Newton-Schulz steps apply to the singular values: each is the best one for what the step
# before leaves of [0.003, 1], all but the last shrunk by 1.01 against rounding (Amsel et al. 2025, The Polar Express,
# arXiv:2505.16932). Values above 0.003 end within 0.2 of 1.
COEFFICIENTS = (
    (8.3007, -24.0376, 17.4661),
    (4.0034, -2.9228, 0.5419),
    (3.4709, -2.5494, 0.5002),
    (2.4901, -1.8343, 0.4368),
)


def nesterov(
    gradients: Sequence[Tensor], average: Tensor, momentum: float, factor: float, dtype: torch.dtype
) -> Tensor:
    """Move `average` (n, …) towards the n gradients times `factor`; return its next value, of norm 1, in `dtype`."""
    n, size = len(average), average[0].numel()
    update = torch.empty_like(average, dtype=dtype)
    if all(map(fit, gradients)) and fit(average):
        given = [gradient.contiguous() for gradient in gradients]
        run("muon_momentum", update, average, addresses(given), n, size, momentum, factor)
        return update
    gradient = torch.stack(list(gradients)) * factor
    average.lerp_(gradient, 1 - momentum)
    update.copy_(gradient.lerp_(average, momentum))
    return update / (update.norm(dim=(-2, -1), keepdim=True) + 1e-7)


def orthogonalize(x: Tensor) -> Tensor:
    """Push the singular values of matrices (n, rows, columns), each of norm 1, towards 1."""
    is_tall = x.shape[-2] > x.shape[-1]
    for a, b, c in COEFFICIENTS:
        # x ← a x + b (x xᵀ) x + c (x xᵀ)² x, each sum inside its product; the square is of the smaller side.
        square = x.mT @ x if is_tall else x @ x.mT
        factor = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, x, factor, beta=a) if is_tall else torch.baddbmm(x, factor, x, beta=a)
    return x


def apply(weights: Sequence[Tensor], updates: Tensor, kept: Tensor, rates: Tensor) -> None:
    """Replace each of n weights by weight · kept - update · rate; kept and rates (n,) float32 on the CPU."""
    if all(map(fit, weights)):
        run("muon_apply", updates.contiguous(), addresses(weights), kept, rates, len(weights), weights[0].numel())
        return
    for weight, update, share, rate in zip(weights, updates, kept.tolist(), rates.tolist(), strict=True):
        weight.mul_(share).sub_(local_shard(update.to(weight.dtype), weight), alpha=rate)
