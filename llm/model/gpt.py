"""The GPT: token ids in, for each position the logits of the token that comes next out.

    ids (B, T) → embedding → n_layers blocks (attention, then feed-forward, each added to its input) → norm →
    hidden states (B, T, D) → head → logits (B, T, V)

The shape is Qwen3's, so an export needs nobody's custom code. Nothing here knows of devices, precisions or
batches: `llm.train` decides on those.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from llm.model.attention import Attention, rope_table
from llm.model.config import ModelConfig
from llm.model.layers import Linear, RMSNorm, SwiGLU

Past = list[tuple[Tensor, Tensor]]


class Block(nn.Module):
    """Normalise, attend, add; normalise, feed forward, add."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.d_model, config.norm_eps)
        self.feed_forward = SwiGLU(config.d_model, config.d_ff)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, T, D) → (B, T, D) and this layer's keys and values for the next call."""
        gathered, kept = self.attention(self.attention_norm(x), cos, sin, past)
        x = x + gathered
        return x + self.feed_forward(self.feed_forward_norm(x)), kept


class GPT(nn.Module):
    """A decoder of `config`'s shape. Fresh weights come from `generator`; without one they are left to a loader."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = Linear(config.d_model, config.vocab_size)
        if config.tie_embeddings:
            self.head.weight = cast(nn.Parameter, self.embedding.weight)
        cos, sin = rope_table(config.context_length, config.head_dim, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        if generator is not None:
            self._draw(generator)

    @torch.no_grad()
    def _draw(self, generator: torch.Generator) -> None:
        """Matrices from N(0, 1/d_in); what a block adds starts at zero, so a fresh block passes its input on."""
        for name, weight in self.named_parameters():
            if name.endswith(("attention.out.weight", "feed_forward.down.weight")):
                weight.zero_()
            elif weight.ndim == 2:
                std = 0.02 if weight is self.embedding.weight or weight is self.head.weight else weight.shape[1] ** -0.5
                weight.normal_(0, std, generator=generator)

    def run_blocks(self, x: Tensor, past: Past | None = None) -> tuple[Tensor, Past]:
        """Embedded tokens (B, T, D) → normalised hidden states (B, T, D), and every layer's keys and values.

        `past` is what an earlier call returned: the T tokens continue it. P + T may not exceed the context.
        """
        start = past[0][0].shape[2] if past else 0
        assert start + x.shape[1] <= self.config.context_length, "more tokens than the context holds"
        cos, sin = (table[start : start + x.shape[1]] for table in (self.cos, self.sin))
        kept: Past = []
        for layer, block in enumerate(self.blocks):
            x, layer_kept = block(x, cos, sin, past[layer] if past else None)
            kept.append(layer_kept)
        return self.norm(x), kept

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V) of ids (B, T)."""
        hidden, _ = self.run_blocks(self.embedding(ids))
        return self.head(hidden)

    def n_parameters(self) -> int:
        """How many weights there are; a tied head counts once."""
        return sum(weight.numel() for weight in self.parameters())

    def flops_per_token(self) -> int:
        """Multiply-adds × 2 of one token's forward and backward pass at full context.

        6 for each weight of a matrix that is multiplied (Kaplan et al. 2020, arXiv:2001.08361), and 12 · D ·
        T for a layer's attention (all T × T pairs, as they are computed here). The embedding is a look-up.
        """
        looked_up = 0 if self.config.tie_embeddings else self.embedding.weight.numel()
        multiplied = sum(weight.numel() for weight in self.parameters() if weight.ndim == 2) - looked_up
        attention = 12 * self.config.n_layers * self.config.d_model * self.config.context_length
        return 6 * multiplied + attention


def next_token_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits (..., V) at target (...); positions whose target is -100 don't count."""
    return nn.functional.cross_entropy(logits.flatten(0, -2).float(), target.flatten(), ignore_index=-100)


def uniform_loss(vocab_size: int) -> float:
    """The loss of a model that knows nothing: log V nats. A fresh GPT starts here, up to its drawn weights."""
    return math.log(vocab_size)
