"""The attention ladder: five rungs, each adding one idea to the one before.

    simplified  →  trainable  →  causal  →  multi-head  →  grouped
    dot products   weights       mask       many heads     shared keys

Hidden states (B, T, D) in, the same shape out. The mathematics is free functions, to be read from the top; the modules
at the end own the weights. Shapes: B sequences, T query positions, S key positions (the queries are the last T of the
S), D model width, H query heads, K key/value heads, G = H / K query heads to a key head, C head width.
"""

import math

import torch
from torch import Tensor, nn

from llm.model.config import ModelConfig
from llm.model.dropout import dropout
from llm.model.kv_cache import LayerCache
from llm.model.layers import NORMS, Linear
from llm.model.positions import rotate

Rotation = tuple[Tensor, Tensor]
Mask = Tensor | None


def simplified_attention(x: Tensor) -> Tensor:
    """Average all positions, weighted by the softmax of their dot products. x (..., T, D) → the same shape.

    A dot product of D terms grows with D, so it is divided by √D (Vaswani et al. 2017, arXiv:1706.03762).
    """
    return _softmax(_scores(x, x), x.dtype) @ x


def self_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Apply scaled dot-product attention to learned query, key and value projections of one text.

    q (..., T, C), k and v (..., S, C) → (..., T, C). With q = k = v it is the rung below. It is not causal yet.
    """
    return _softmax(_scores(q, k), v.dtype) @ v


def causal_attention(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, dropout_mask: Mask = None, segment_mask: Mask = None
) -> Tensor:
    """Attend to the own and earlier positions only; a masked score is -∞, so its weight is exactly 0.

    q (..., T, C), k and v (..., S, C) → (..., T, C). Training drops a fraction `dropout_p` of the attention weights by
    `dropout_mask`; `segment_mask` (..., T, S) is True at keys of other texts, which are masked too.
    """
    weights = _softmax(_mask_future(_scores(q, k), segment_mask), v.dtype)
    return dropout(weights, dropout_p, dropout_mask) @ v


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """Give each head its own slice of the width: (B, T, H · C) → (B, H, T, C)."""
    B, T, width = x.shape
    return x.view(B, T, n_heads, width // n_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Put the heads' slices side by side again: (B, H, T, C) → (B, T, H · C)."""
    B, H, T, C = x.shape
    return x.transpose(1, 2).reshape(B, T, H * C)


def multi_head_attention(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, dropout_mask: Mask = None, segment_mask: Mask = None
) -> Tensor:
    """Run H causal attentions at once, each on its own slice of the width.

    q (B, H, T, C), k and v (B, H, S, C) → (B, H, T, C). The head axis is a batch axis to the mathematics, so the code
    is that of one head; what is new is `split_heads` and `merge_heads`.
    """
    assert q.shape[1] == k.shape[1] == v.shape[1]
    return causal_attention(q, k, v, dropout_p, dropout_mask, segment_mask)


def grouped_query_attention(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, dropout_mask: Mask = None, segment_mask: Mask = None
) -> Tensor:
    """Let query head h read key/value head h // G, for a smaller KV cache (Ainslie et al. 2023, arXiv:2305.13245).

    q (B, H, T, C), k and v (B, K, S, C) → (B, H, T, C); `segment_mask` (B, 1, T, S). The same function serves training
    (T = S) and reading behind a KV cache (T < S).
    """
    B, H, T, C = q.shape
    K, S = k.shape[1], k.shape[2]
    # The G query heads of a key head become rows of one product: no copy of k or v is made.
    scores = _scores(q.reshape(B, K, H // K * T, C), k).view(B, K, H // K, T, S)
    segment_mask = None if segment_mask is None else segment_mask[:, None]  # (B, 1, 1, T, S): the same for all heads
    weights = dropout(_softmax(_mask_future(scores, segment_mask), v.dtype), dropout_p, dropout_mask)
    return (weights.view(B, K, H // K * T, S) @ v).view(B, H, T, C)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    # Divide the queries, not the scores: there are S scores to a query, and passes over them dominate the time.
    return (q / math.sqrt(q.shape[-1])) @ k.mT


def _mask_future(scores: Tensor, segment_mask: Mask = None) -> Tensor:
    """Return scores (..., T, S) with -∞ at keys after the query, or in another segment."""
    T, S = scores.shape[-2:]
    if T == 1:  # the last position has no future
        return scores
    future = torch.ones(T, S, dtype=torch.bool, device=scores.device).triu(S - T + 1)
    return scores.masked_fill(future if segment_mask is None else future | segment_mask, float("-inf"))


def _softmax(scores: Tensor, dtype: torch.dtype) -> Tensor:
    # torch sums bfloat16 scores in float32: 8 bits are too few to add up many small weights.
    return scores.softmax(dim=-1).to(dtype)


CAUSAL = {"causal": causal_attention, "multi_head": multi_head_attention, "grouped": grouped_query_attention}


class Attention(nn.Module):
    """Project hidden states to queries, keys and values, apply one rung, and project back.

    The family decides on biases and on RMS-normalized queries and keys (Henry et al. 2020, arXiv:2010.04245).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.rung, self.dropout_p, bias = config.attention, config.dropout, config.parts.qkv_bias
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_query_heads, config.n_key_heads, config.head_dim
        self.query = Linear(config.d_model, self.n_heads * self.head_dim, bias)
        self.key = Linear(config.d_model, self.n_kv_heads * self.head_dim, bias)
        self.value = Linear(config.d_model, self.n_kv_heads * self.head_dim, bias)
        self.out = Linear(self.n_heads * self.head_dim, config.d_model, config.parts.bias)
        norm = NORMS[config.parts.norm]
        self.query_norm = norm(self.head_dim, config.norm_eps) if config.parts.qk_norm else nn.Identity()
        self.key_norm = norm(self.head_dim, config.norm_eps) if config.parts.qk_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        cache: LayerCache | None = None,
        start: int = 0,
        dropout_mask: Mask = None,
        segment_mask: Mask = None,
    ) -> Tensor:
        """(B, T, D) → (B, T, D); `rotation` are RoPE's cos and sin (T, C), `cache` has the `start` positions before."""
        B, T, _ = x.shape
        q = self.query_norm(self.query(x).view(B, T, self.n_heads, self.head_dim)).transpose(1, 2)
        k = self.key_norm(self.key(x).view(B, T, self.n_kv_heads, self.head_dim)).transpose(1, 2)
        v = self.value(x).view(B, T, self.n_kv_heads, self.head_dim).transpose(1, 2)
        if rotation is not None:
            q, k = rotate(q, *rotation).to(v.dtype), rotate(k, *rotation).to(v.dtype)
        if cache is not None:
            k, v = cache.extend(start, k, v)
        if self.rung == "trainable":
            return self.out(merge_heads(self_attention(q, k, v)))
        return self.out(merge_heads(CAUSAL[self.rung](q, k, v, self.dropout_p, dropout_mask, segment_mask)))


class SimplifiedAttention(nn.Module):
    """The first rung as a module: it has no weights, and nothing to cache."""

    def forward(self, x: Tensor, *_: object) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        return simplified_attention(x)
