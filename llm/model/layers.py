"""The small parts of a block: a linear map, RMSNorm and the SwiGLU feed-forward. All keep (..., D) shapes."""

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """y = x Wᵀ without a bias; weight (d_out, d_in). Left empty: `GPT` draws all weights from one generator."""

    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        self.weight: nn.Parameter = nn.Parameter(torch.empty(d_out, d_in))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) → (..., d_out)."""
        return nn.functional.linear(x, self.weight)


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467), in float32 inside."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) → the same shape and dtype."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight).to(x.dtype)


class SwiGLU(nn.Module):
    """The feed-forward down(silu(gate(x)) · up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, d_model: int, d_ff: int):
        super().__init__()
        self.gate = Linear(d_model, d_ff)
        self.up = Linear(d_model, d_ff)
        self.down = Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) → the same shape."""
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))
