"""The attention ladder: five rungs, each adding one idea to the one before.

    simplified  →  trainable  →  causal  →  multi-head  →  grouped
    dot products   weights       mask       many heads     shared keys

Hidden states (B, T, D) in, the same shape out. The mathematics is free functions, to be read from the top; the modules
at the end own the weights. Shapes: B sequences, T query positions, S key positions (the queries are the last T of the
S), D model width, H query heads, K key/value heads, G = H / K query heads to a key head, C head width.
"""

import math

from torch import Tensor, nn

from llm.model.config import ModelConfig
from llm.model.dropout import dropout
from llm.model.functions import causal_softmax
from llm.model.fused_attention import MAX_HEAD_WIDTH, FusedAttention
from llm.model.kernels import fit
from llm.model.kv_cache import LayerCache
from llm.model.layers import NORMS, Linear
from llm.model.positions import rotate

Rotation = tuple[Tensor, Tensor]
Mask = Tensor | None


def simplified_attention(x: Tensor) -> Tensor:
    """Average all positions, weighted by the softmax of their dot products. x (..., T, D) → the same shape.

    A dot product of D terms grows with D, so it is divided by √D (Vaswani et al. 2017, arXiv:1706.03762).
    """
    return _scores(x, x).softmax(dim=-1).to(x.dtype) @ x


def self_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Apply scaled dot-product attention to learned query, key and value projections of one text.

    q (..., T, C), k and v (..., S, C) → (..., T, C). With q = k = v it is the rung below. It is not causal yet.
    """
    return _scores(q, k).softmax(dim=-1).to(v.dtype) @ v


def causal_attention(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, dropout_mask: Mask = None, segment_mask: Mask = None
) -> Tensor:
    """Attend to the own and earlier positions only; a masked score is -∞, so its weight is exactly 0.

    q (..., T, C), k and v (..., S, C) → (..., T, C). Training drops a fraction `dropout_p` of the attention weights by
    `dropout_mask`; `segment_mask` (..., T, S) is True at keys of other texts, which are masked too.
    """
    weights = causal_softmax(_scores(q, k), segment_mask).to(v.dtype)
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
    weights = dropout(causal_softmax(scores, segment_mask).to(v.dtype), dropout_p, dropout_mask)
    return (weights.view(B, K, H // K * T, S) @ v).view(B, H, T, C)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    # Divide the queries, not the scores: there are S scores to a query, and passes over them dominate the time.
    return (q / math.sqrt(q.shape[-1])) @ k.mT


CAUSAL = {"causal": causal_attention, "multi_head": multi_head_attention, "grouped": grouped_query_attention}


class Attention(nn.Module):
    """Project hidden states to queries, keys and values, apply one rung, and project back.

    The family decides on biases and on RMS-normalized queries and keys (Henry et al. 2020, arXiv:2010.04245).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.rung, self.dropout_p, self.norm_eps = config.attention, config.dropout, config.norm_eps
        bias = config.parts.qkv_bias
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
        q, k, v = self.query(x), self.key(x), self.value(x)
        if self._is_fused(q, cache, dropout_mask):
            norms = getattr(self.query_norm, "weight", None), getattr(self.key_norm, "weight", None)
            given = (*norms, *(rotation or (None, None)), segment_mask, self.head_dim, self.norm_eps)
            return self.out(FusedAttention.apply(q, k, v, *given))
        q = self.query_norm(split_heads(q, self.n_heads))
        k, v = self.key_norm(split_heads(k, self.n_kv_heads)), split_heads(v, self.n_kv_heads)
        if rotation is not None:
            q, k = rotate(q, *rotation).to(v.dtype), rotate(k, *rotation).to(v.dtype)
        if cache is not None:
            k, v = cache.extend(start, k, v)
        if self.rung == "trainable":
            return self.out(merge_heads(self_attention(q, k, v)))
        return self.out(merge_heads(CAUSAL[self.rung](q, k, v, self.dropout_p, dropout_mask, segment_mask)))

    def _is_fused(self, q: Tensor, cache: LayerCache | None, dropout_mask: Mask) -> bool:
        plain = cache is None and dropout_mask is None and self.rung in CAUSAL
        return plain and self.head_dim <= MAX_HEAD_WIDTH and fit(q)


class SimplifiedAttention(nn.Module):
    """The first rung as a module: it has no weights, and nothing to cache."""

    def forward(self, x: Tensor, *_: object) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        return simplified_attention(x)
