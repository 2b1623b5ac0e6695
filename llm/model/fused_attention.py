"""Causal attention in few passes over the memory, for training and evaluation on a CPU.

It computes what the steps of `llm.model.attention.Attention` compute, from the projections to the merged heads. The G
query heads of a key head are neighboring rows (B·K, T·G, C) of one matrix product.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llm.model.kernels import run

MAX_HEAD_WIDTH = 512  # of the kernels' buffers
POSITIONS_AT_ONCE = 256  # queries of one product, which leaves out the keys after them


class FusedAttention(torch.autograd.Function):
    """q (B, T, H·C), k and v (B, T, K·C), all of one dtype → (B, T, H·C).

    Heads of queries and keys are RMS-normalized by weights (C,) and turned by cos and sin, (T, C) or (B, 1, T, C),
    where these are given. `hidden` (B, 1, T, T) is True at keys of other texts.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        query_weight: Tensor | None,
        key_weight: Tensor | None,
        cos: Tensor | None,
        sin: Tensor | None,
        hidden: Tensor | None,
        head_dim: int,
        eps: float,
    ) -> Tensor:
        heads = _Heads(q, k, head_dim, cos, sin, eps)
        query, query_scale = heads.split(q, query_weight, 1 / math.sqrt(head_dim))
        key, key_scale = heads.split(k, key_weight, 1.0)
        value, _ = heads.split(v, None, 1.0, turned=False)
        out, weights = torch.empty_like(query), []
        for rows, seen, mask in heads.blocks(hidden):
            weight = query[:, rows] @ key[:, seen].mT
            N, _, S = weight.shape
            T = weight.shape[1] // heads.G
            run("causal_softmax", weight, mask, weight, N, T, heads.G, S, heads.K)
            out[:, rows] = weight @ value[:, seen]
            weights.append(weight)
        ctx.heads, ctx.weights = heads, weights
        ctx.save_for_backward(q, k, query, key, value, query_weight, key_weight, query_scale, key_scale)
        return heads.merge(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        heads: _Heads = ctx.heads
        q, k, query, key, value, query_weight, key_weight, query_scale, key_scale = ctx.saved_tensors
        dout, _ = heads.split(dy.contiguous(), None, 1.0, turned=False)
        dquery, dkey, dvalue = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        for (rows, seen, _), weight in zip(heads.blocks(None), ctx.weights, strict=True):
            dscores = dout[:, rows] @ value[:, seen].mT
            N, _, S = dscores.shape
            run("causal_softmax_backward", weight, dscores, dscores, N, dscores.shape[1] // heads.G, heads.G, S)
            dquery[:, rows] = dscores @ key[:, seen]
            _accumulate(dkey, rows.start // heads.G, dscores.mT, query[:, rows])
            _accumulate(dvalue, rows.start // heads.G, weight.mT, dout[:, rows])
        dq, dquery_weight = heads.join(q, query_weight, query_scale, dquery, 1 / math.sqrt(heads.C))
        dk, dkey_weight = heads.join(k, key_weight, key_scale, dkey, 1.0)
        dv = heads.merge(dvalue)
        return dq, dk, dv, dquery_weight, dkey_weight, *[None] * 5


def _accumulate(total: Tensor, start: int, left: Tensor, right: Tensor) -> None:
    """Add left · right to the first rows of `total`, which are empty from `start` on."""
    torch.bmm(left[:, start:], right, out=total[:, start : left.shape[1]])
    if start:
        total[:, :start].baddbmm_(left[:, :start], right)


class _Heads:
    """The shapes of an attention, its rotation, and the kernels that split and merge the heads."""

    def __init__(self, q: Tensor, k: Tensor, head_dim: int, cos: Tensor | None, sin: Tensor | None, eps: float):
        self.B, self.T = q.shape[:2]
        self.K, self.C, self.G = k.shape[2] // head_dim, head_dim, q.shape[2] // k.shape[2]
        self.cos = None if cos is None else cos.contiguous()
        self.sin = None if sin is None else sin.contiguous()
        self.by_row = int(cos is not None and cos.ndim > 2)
        self.eps = eps

    def split(self, x: Tensor, weight: Tensor | None, factor: float, turned: bool = True) -> tuple[Tensor, Tensor]:
        """Return x (B, T, K·G·C) as rows of heads (B·K, T·G, C), and 1 / rms of each (B, T, K·G)."""
        G = x.shape[2] // (self.K * self.C)
        y, scale = x.new_empty(self.B * self.K, self.T * G, self.C), torch.empty(x.numel() // self.C)
        rotation = (self.cos, self.sin) if turned else (None, None)
        shape = (self.B, self.T, self.K, G, self.C)
        run("split_heads", x.contiguous(), weight, *rotation, self.by_row, y, scale, *shape, self.eps, factor)
        return y, scale

    def join(
        self, x: Tensor, weight: Tensor | None, scale: Tensor, dy: Tensor, factor: float
    ) -> tuple[Tensor, Tensor | None]:
        """Return the gradients of `split`."""
        G = x.shape[2] // (self.K * self.C)
        dx, dweight = torch.empty_like(x), None if weight is None else torch.empty_like(weight)
        given = (x.contiguous(), weight, self.cos, self.sin, self.by_row, scale, dy, dx, dweight)
        run("split_heads_backward", *given, self.B, self.T, self.K, G, self.C, factor)
        return dx, dweight

    def merge(self, x: Tensor) -> Tensor:
        """Return rows of heads (B·K, T·G, C) as (B, T, K·G·C)."""
        B, K, T, C = self.B, self.K, self.T, self.C
        return x.view(B, K, T, -1, C).transpose(1, 2).reshape(B, T, -1)

    def blocks(self, hidden: Tensor | None) -> Iterator[tuple[slice, slice, Tensor | None]]:
        """Yield the rows of some positions, the keys that they see, and the mask of these."""
        for start in range(0, self.T, POSITIONS_AT_ONCE):
            end = min(start + POSITIONS_AT_ONCE, self.T)
            mask = None if hidden is None else hidden[:, 0, start:end, :end].contiguous()
            yield slice(start * self.G, end * self.G), slice(end), mask
