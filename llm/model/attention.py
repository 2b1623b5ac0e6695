"""Attention: every position gathers what it needs from the others. A ladder of five rungs, each one idea more.

    simplified  →  trainable  →  causal  →  multi-head  →  grouped
    dot products   weights       no future   several views   shared keys

In: hidden states (B, T, D). Out: the same shape. The mathematics stands in free functions, to be read from the top;
the modules at the end own the weights and nothing else. Scores are dot products, attention weights are their
softmax. "Self" says that queries, keys and values are all made from the same text.

Letters in names and comments: B sequences, T positions that ask, S positions that are asked (the T are the last of
the S), D model width, H query heads, K key/value heads, G = H / K query heads that share one, C head width.
"""

import math

import torch
from torch import Tensor, nn

from llm.model.config import ModelConfig
from llm.model.dropout import dropout
from llm.model.layers import NORMS, Linear
from llm.model.positions import rotate

Rotation = tuple[Tensor, Tensor]
Kept = tuple[Tensor, ...]


def simplified_attention(x: Tensor) -> Tensor:
    """Each position becomes an average of all, weighted by how alike they are. x (..., T, D) → the same shape.

    There is nothing to learn in it, and every position sees the whole text, the future too. A dot product of D terms
    grows with D, so it is divided by √D (Vaswani et al. 2017, arXiv:1706.03762): else a position of a wide x is so
    much more like itself than like any other that it would see itself alone.
    """
    return _softmax(_scores(x, x), x.dtype) @ x


def self_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Trainable: what is asked, what answers and what is handed over are three learned maps of the same text.

    q (..., T, C), k and v (..., S, C) → (..., T, C). With q = k = v it is the rung below. It still sees the future.
    """
    return _softmax(_scores(q, k), v.dtype) @ v


def causal_attention(
    q: Tensor, k: Tensor, v: Tensor, rate: float = 0.0, mask: Tensor | None = None, apart: Tensor | None = None
) -> Tensor:
    """A position reads itself and what stands before it; training may drop a share `rate` of the attention weights.

    q (..., T, C), k and v (..., S, C) → (..., T, C). A hidden score is -∞, its weight exactly 0. `mask` is
    what `dropout` takes; `apart` (..., T, S) is True where a position of the past is hidden too.
    """
    weights = _softmax(_hide_future(_scores(q, k), apart), v.dtype)
    return dropout(weights, rate, mask) @ v


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(B, T, H · C) → (B, H, T, C): each head has its own slice of the width."""
    B, T, width = x.shape
    return x.view(B, T, n_heads, width // n_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, C) → (B, T, H · C): the heads' slices side by side again."""
    B, H, T, C = x.shape
    return x.transpose(1, 2).reshape(B, T, H * C)


def multi_head_attention(
    q: Tensor, k: Tensor, v: Tensor, rate: float = 0.0, mask: Tensor | None = None, apart: Tensor | None = None
) -> Tensor:
    """H causal attentions at once, each on its own slice of the width, so that each may look for something else.

    q (B, H, T, C), k and v (B, H, S, C) → (B, H, T, C). The head axis is one more axis that is not mixed, like
    the batch; so the code is that of one head, and the news is in `split_heads` and `merge_heads`.
    """
    assert q.shape[1] == k.shape[1] == v.shape[1]
    return causal_attention(q, k, v, rate, mask, apart)


def grouped_query_attention(
    q: Tensor, k: Tensor, v: Tensor, rate: float = 0.0, mask: Tensor | None = None, apart: Tensor | None = None
) -> Tensor:
    """Query head h reads key/value head h // G (Ainslie et al. 2023, arXiv:2305.13245): fewer keys to keep.

    q (B, H, T, C), k and v (B, K, S, C) → (B, H, T, C); `apart` (B, 1, T, S). The same function serves training
    (T = S) and generation with kept keys (T < S).
    """
    B, H, T, C = q.shape
    K, S = k.shape[1], k.shape[2]
    # All the queries that share a key head become rows of one product: no copy of k or v is made.
    scores = _scores(q.reshape(B, K, H // K * T, C), k).view(B, K, H // K, T, S)
    apart = None if apart is None else apart[:, None]  # the same for each of the G
    weights = dropout(_softmax(_hide_future(scores, apart), v.dtype), rate, mask)
    return (weights.view(B, K, H // K * T, S) @ v).view(B, H, T, C)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    # Queries are divided, not scores: of these there are S for each, and passes over them are what attention costs.
    return (q / math.sqrt(q.shape[-1])) @ k.mT


def _hide_future(scores: Tensor, apart: Tensor | None = None) -> Tensor:
    """(..., T, S), -∞ where the asked position comes after the one that asks, or is `apart` from it."""
    T, S = scores.shape[-2:]
    if T == 1:  # the last position has no future
        return scores
    future = torch.ones(T, S, dtype=torch.bool, device=scores.device).triu(S - T + 1)
    return scores.masked_fill(future if apart is None else future | apart, float("-inf"))


def _softmax(scores: Tensor, dtype: torch.dtype) -> Tensor:
    # bfloat16 keeps 8 bits, too few to add up a context of small weights: torch adds them in float32 itself.
    return scores.softmax(dim=-1).to(dtype)


CAUSAL = {
    "causal": causal_attention,
    "multi_head": multi_head_attention,
    "grouped": grouped_query_attention,
}


class Attention(nn.Module):
    """The learned maps around one rung: from hidden states to queries, keys and values, and back.

    The family decides on biases and on RMS-normalised queries and keys (Henry et al. 2020, arXiv:2010.04245).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.rung, self.dropout, bias = config.attention, config.dropout, config.parts.qkv_bias
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
        rotation: Rotation | None,
        start: int = 0,
        past: Kept = (),
        mask: Tensor | None = None,
        apart: Tensor | None = None,
    ) -> tuple[Tensor, Kept]:
        """Take x (B, T, D), RoPE's cos and sin (T, C) of these positions, and what is kept of the `start` before.

        Returns the attention's output (B, T, D), and the keys and values of all positions up to now, (B, K, room,
        C) each. `mask` is dropout's; `apart` (B, 1, T, T) says which positions do not see each other.
        """
        B, T, _ = x.shape
        q = self.query_norm(self.query(x).view(B, T, self.n_heads, self.head_dim)).transpose(1, 2)
        k = self.key_norm(self.key(x).view(B, T, self.n_kv_heads, self.head_dim)).transpose(1, 2)
        v = self.value(x).view(B, T, self.n_kv_heads, self.head_dim).transpose(1, 2)
        if rotation is not None:
            q, k = rotate(q, *rotation).to(v.dtype), rotate(k, *rotation).to(v.dtype)
        kept = tuple(extend(buffer, start, new) for buffer, new in zip(past, (k, v), strict=True)) if past else (k, v)
        k, v = (buffer[:, :, : start + T] for buffer in kept) if start else (k, v)
        if self.rung == "trainable":
            gathered = self_attention(q, k, v)
        else:
            gathered = CAUSAL[self.rung](q, k, v, self.dropout, mask, apart)
        return self.out(merge_heads(gathered)), kept


class SimplifiedAttention(nn.Module):
    """The first rung in the place of `Attention`: it owns nothing and keeps nothing."""

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        start: int = 0,
        past: Kept = (),
        mask: Tensor | None = None,
        apart: Tensor | None = None,
    ) -> tuple[Tensor, Kept]:
        """(B, T, D) → (B, T, D)."""
        return simplified_attention(x), ()


def extend(buffer: Tensor, start: int, new: Tensor) -> Tensor:
    """Write `new` (B, K, T, C) behind the first `start` positions of a buffer (B, K, room, C).

    It is written in place; where the room ends, a buffer of twice the size takes over, so that a position is
    copied about once however long the text gets.
    """
    end = start + new.shape[2]
    if end > buffer.shape[2]:
        larger = buffer.new_empty(*buffer.shape[:2], 2 * end, buffer.shape[3])
        larger[:, :, :start] = buffer[:, :, :start]
        buffer = larger
    buffer[:, :, start:end] = new
    return buffer
