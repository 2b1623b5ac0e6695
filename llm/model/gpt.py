"""The GPT: token ids in, the logits of the next token at each position out.

    ids (B, T) → embedding → n_layers blocks (attention, then feed-forward, each added to its input) → norm →
    hidden states (B, T, D) → head → logits (B, T, V)

The families share this frame; their parts are in `llm.model.config.FAMILIES`. Devices, precision and batches are the
business of `llm.train`.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from llm.model.attention import Attention, Rotation, SimplifiedAttention
from llm.model.config import ModelConfig
from llm.model.dropout import block_masks, draw_noise, dropout, noise_at
from llm.model.gru import GRU
from llm.model.initial import Init, initialize_weights
from llm.model.kv_cache import KVCache, LayerCache
from llm.model.layers import FEED_FORWARDS, NORMS, Linear
from llm.model.positions import rope_table, segment_positions, sinusoidal_table


class Block(nn.Module):
    """Normalize, attend, add; normalize, feed forward, add. In the family `gru` a GRU takes attention's place."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        norm, self.dropout_p = NORMS[config.parts.norm], config.dropout
        self.attention_norm = norm(config.d_model, config.norm_eps)
        self.attention = _mixer(config)
        self.feed_forward_norm = norm(config.d_model, config.norm_eps)
        self.feed_forward = FEED_FORWARDS[config.parts.feed_forward](config.d_model, config.d_ff, config.parts.bias)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        cache: LayerCache | None,
        start: int,
        dropout_masks: list[Tensor | None],
        segment_mask: Tensor | None,
    ) -> Tensor:
        """(B, T, D) → (B, T, D); the arguments are those of `Attention`, with three dropout masks."""
        mixed = self.attention(self.attention_norm(x), rotation, cache, start, dropout_masks[0], segment_mask)
        x, normalized = self.feed_forward_norm.after_adding(x, dropout(mixed, self.dropout_p, dropout_masks[1]))
        return x + dropout(self.feed_forward(normalized), self.dropout_p, dropout_masks[2])


def _mixer(config: ModelConfig) -> nn.Module:
    if config.family == "gru":
        return GRU(config)
    return SimplifiedAttention() if config.attention == "simplified" else Attention(config)


class GPT(nn.Module):
    """A decoder-only language model of `config`'s shape.

    `llm.model.initial` draws fresh weights from `generator`; without one they stay uninitialized, for a loader to fill.
    """

    cos: Tensor
    sin: Tensor
    waves: Tensor
    noise: Tensor

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None, init: Init | None = None):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        if config.position_scheme == "learned":
            self.positions = nn.Embedding(config.context_length, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = NORMS[config.parts.norm](config.d_model, config.norm_eps)
        self.head = Linear(config.d_model, config.vocab_size)
        if config.tie_embeddings:
            self.head.weight = cast(nn.Parameter, self.embedding.weight)
        for name, table in _tables(config).items():
            self.register_buffer(name, table, persistent=False)
        if generator is not None:
            initialize_weights(self, generator, init)

    def run_blocks(
        self,
        x: Tensor,
        cache: KVCache | None = None,
        dropout_keys: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Run embedded tokens (B, T, D) through all blocks and the last norm: hidden states (B, T, D).

        With `cache` the T tokens continue those that it holds, and are added to it; only causal models have one.
        `dropout_keys` are a training step's, from the method of that name; without them nothing is dropped.
        `segments` (B, T) number the texts of a row: none attends to another, and each counts its positions from 0.
        """
        start, T = cache.length if cache else 0, x.shape[1]
        assert start + T <= self.config.context_length, "more tokens than the context holds"
        assert self.config.is_causal or (cache is None and segments is None), "attention is not causal"
        assert segments is None or (cache is None and self.config.family != "gru"), "segments need attention, no cache"
        position = slice(start, start + T) if segments is None else segment_positions(segments)
        x, rotation = self.apply_positions(x, position)
        segment_mask = None if segments is None else (segments[:, :, None] != segments[:, None])[:, None]
        for layer, block in enumerate(self.blocks):
            masks = block_masks(dropout_keys, layer, x.shape[0])  # len() would be a constant in torch.export
            x = block(x, rotation, cache.layers[layer] if cache else None, start, masks, segment_mask)
        if cache:
            cache.length += T
        return self.norm(x)

    def apply_positions(self, x: Tensor, position: slice | Tensor) -> tuple[Tensor, Rotation | None]:
        """Add positions to embeddings (B, T, D), or return RoPE's cos and sin for queries and keys.

        Positions are a slice of T, the same for all rows, or (B, T).
        """
        match self.config.position_scheme:
            case "rope":
                turned = position if isinstance(position, slice) else position[:, None]  # with an axis for the heads
                return x, (self.cos[turned], self.sin[turned])
            case "learned":
                # The gradient of a look-up sums in a fixed order; an index tensor's does not on several threads.
                is_slice = isinstance(position, slice)
                learned = self.positions.weight[position] if is_slice else self.positions(position)
                return x + learned.to(x.dtype), None
            case "sinusoidal":
                # √D as in the paper (section 3.4): without it waves of height 1 would drown the small embeddings.
                return x * math.sqrt(self.config.d_model) + self.waves[position].to(x.dtype), None
        return x, None

    def dropout_keys(self, seed: int, step: int) -> Tensor | None:
        """Return the noise that a training step drops by, a function of seed and step; None without dropout."""
        return noise_at(self.noise, seed, step) if self.config.dropout else None

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V) of ids (B, T)."""
        return self.head(self.run_blocks(self.embedding(ids)))

    def n_parameters(self) -> int:
        """Count the weights; a tied head counts once."""
        return sum(weight.numel() for weight in self.parameters())

    def flops_per_token(self) -> int:
        """Count multiply-adds × 2 of one token's forward and backward pass at full context.

        6 for each weight of a multiplied matrix (Kaplan et al. 2020, arXiv:2001.08361), and 12 · D · T for a layer's
        attention: all T × T pairs, as they are computed here; a GRU has none. Embedding and positions are look-ups.
        """
        looked_up = {"positions.weight"} if self.config.tie_embeddings else {"positions.weight", "embedding.weight"}
        multiplied = sum(w.numel() for name, w in self.named_parameters() if w.ndim == 2 and name not in looked_up)
        context = 0 if self.config.family == "gru" else self.config.context_length
        return 6 * multiplied + 12 * self.config.n_layers * self.config.d_model * context


def _tables(config: ModelConfig) -> dict[str, Tensor]:
    """Return the constants that a model has beside its weights."""
    tables = {}
    if config.position_scheme == "rope":
        tables["cos"], tables["sin"] = rope_table(config.context_length, config.head_dim, config.rope_theta)
    if config.position_scheme == "sinusoidal":
        tables["waves"] = sinusoidal_table(config.context_length, config.d_model)
    if config.dropout:
        tables["noise"] = draw_noise(config)
    return tables


def uniform_loss(vocab_size: int) -> float:
    """Return the loss of the uniform distribution, log V nats, which a fresh GPT starts near."""
    return math.log(vocab_size)
