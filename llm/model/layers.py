"""The small parts of a block: a linear map, norms and feed-forwards. All keep (..., D) shapes.

Modules start with weights of zeros or ones, or uninitialized: `GPT` draws all of them from one generator.
"""

import torch
from torch import Tensor, nn

from llm.model.functions import add_rms_norm, rms_norm, swiglu


class Linear(nn.Module):
    """y = x Wᵀ + b, the bias optional; weight (d_out, d_in) is uninitialized, bias (d_out,) is zero."""

    def __init__(self, d_in: int, d_out: int, bias: bool = False):
        super().__init__()
        self.weight: nn.Parameter = nn.Parameter(torch.empty(d_out, d_in))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) → (..., d_out)."""
        return nn.functional.linear(x, self.weight, self.bias)


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467), in float32 inside."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) → the same shape and dtype."""
        return rms_norm(x, self.weight, self.eps)

    def after_adding(self, x: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        """Return x + added (..., width), and its norm."""
        return add_rms_norm(x, added, self.weight, self.eps)


class LayerNorm(RMSNorm):
    """(x − mean(x)) / std(x) · weight + bias over the last axis (Ba et al. 2016, arXiv:1607.06450), in float32."""

    def __init__(self, width: int, eps: float):
        super().__init__(width, eps)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) → the same shape and dtype."""
        wide = x.float()
        centered = wide - wide.mean(dim=-1, keepdim=True)
        return (rms_norm(centered, self.weight, self.eps) + self.bias).to(x.dtype)

    def after_adding(self, x: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        """Return x + added (..., width), and its norm."""
        return (total := x + added), self(total)


class SwiGLU(nn.Module):
    """The feed-forward down(silu(gate(x)) · up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, d_model: int, d_ff: int, bias: bool = False):
        super().__init__()
        self.gate = Linear(d_model, d_ff, bias)
        self.up = Linear(d_model, d_ff, bias)
        self.down = Linear(d_ff, d_model, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) → the same shape."""
        return self.down(swiglu(self.gate(x), self.up(x)))


class GELU(nn.Module):
    """The feed-forward down(gelu(up(x))), with GPT-2's tanh formula (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""

    def __init__(self, d_model: int, d_ff: int, bias: bool = True):
        super().__init__()
        self.up = Linear(d_model, d_ff, bias)
        self.down = Linear(d_ff, d_model, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) → the same shape."""
        return self.down(nn.functional.gelu(self.up(x), approximate="tanh"))


NORMS = {"rms": RMSNorm, "layer": LayerNorm}
FEED_FORWARDS = {"swiglu": SwiGLU, "gelu": GELU}
