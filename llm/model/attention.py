"""Attention: every position gathers what it needs from the positions before it.

In: hidden states (B, T, D). Out: the same shape. The mathematics stands in free functions; the module at the
end owns the weights and nothing else. Letters in names and comments: B sequences, T positions, D model width,
H query heads, K key/value heads, G = H / K query heads that share one, C head width.
"""

import math

import torch
from torch import Tensor, nn

from llm.model.config import ModelConfig
from llm.model.layers import Linear, RMSNorm


def rope_table(context_length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, each (T, C) float32, for the half-split layout.

    Pair i of a head is turned by position · theta^(-2i/C) (Su et al. 2021, RoFormer, arXiv:2104.09864). The
    pairs are (i, i + C/2), as in Llama's and Qwen's published weights, not (2i, 2i + 1) as in the paper.
    """
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.outer(torch.arange(context_length, dtype=torch.float64), frequency)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each head's pairs by their position's angle. x (..., T, C); cos and sin (T, C); same shape out."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of grouped queries. q (B, H, T, C), k and v (B, K, S, C) → (B, H, T, C).

    The T queries stand at the last T of the S positions, so the same function serves training (T = S) and
    generation with cached keys (T < S). Query head h reads key/value head h // G.
    """
    B, H, T, C = q.shape
    K, S = k.shape[1], k.shape[2]
    # All the queries that share a key head become rows of one product: no copy of k or v is made.
    score = q.reshape(B, K, H // K * T, C) @ k.transpose(-2, -1)
    future = torch.ones(T, S, dtype=torch.bool, device=q.device).triu(S - T + 1)
    score = score.view(B, K, H // K, T, S).float() / math.sqrt(C)
    # Softmax in float32: bfloat16 keeps 8 bits, too few to add up a context of small shares.
    share = score.masked_fill(future, float("-inf")).softmax(dim=-1).to(v.dtype)
    return (share.view(B, K, H // K * T, S) @ v).view(B, H, T, C)


class Attention(nn.Module):
    """Grouped-query attention with RMS-normalised queries and keys, and rotary positions (Qwen3's shape)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.query = Linear(config.d_model, config.n_heads * config.head_dim)
        self.key = Linear(config.d_model, config.n_kv_heads * config.head_dim)
        self.value = Linear(config.d_model, config.n_kv_heads * config.head_dim)
        self.out = Linear(config.n_heads * config.head_dim, config.d_model)
        self.query_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.key_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Take x (B, T, D), cos and sin (T, C) of these positions, past keys and values (B, K, P, C) each.

        Returns the attention's output (B, T, D) and the keys and values of all P + T positions.
        """
        B, T, _ = x.shape
        q = self.query_norm(self.query(x).view(B, T, self.n_heads, self.head_dim)).transpose(1, 2)
        k = self.key_norm(self.key(x).view(B, T, self.n_kv_heads, self.head_dim)).transpose(1, 2)
        v = self.value(x).view(B, T, self.n_kv_heads, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        gathered = attend(q, k, v).transpose(1, 2).reshape(B, T, self.n_heads * self.head_dim)
        return self.out(gathered), (k, v)
