"""The GPT: token ids in, for each position the logits of the token that comes next out.

    ids (B, T) → embedding → n_layers blocks (attention, then feed-forward, each added to its input) → norm →
    hidden states (B, T, D) → head → logits (B, T, V)

The families share this frame; their parts stand in `llm.model.config.FAMILIES`. Nothing here knows of devices,
precisions or batches: `llm.train` decides on those.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from llm.model.attention import Attention, Kept, Rotation, SimplifiedAttention
from llm.model.config import ModelConfig
from llm.model.dropout import block_masks, draw_noise, dropout, noise_at
from llm.model.gru import RecurrentBlock
from llm.model.initial import Init, draw_weights
from llm.model.layers import FEED_FORWARDS, NORMS, Linear
from llm.model.positions import rope_table, sinusoidal_table


@dataclass
class Past:
    """What the layers keep of the first `length` positions: keys and values, or a GRU's state.

    A call that goes on from it writes into its buffers: a past can be continued once.
    """

    length: int
    layers: list[Kept]


class Block(nn.Module):
    """Normalise, attend, add; normalise, feed forward, add."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        norm, self.dropout = NORMS[config.parts.norm], config.dropout
        self.attention_norm = norm(config.d_model, config.norm_eps)
        self.attention = SimplifiedAttention() if config.attention == "simplified" else Attention(config)
        self.feed_forward_norm = norm(config.d_model, config.norm_eps)
        self.feed_forward = FEED_FORWARDS[config.parts.feed_forward](config.d_model, config.d_ff, config.parts.bias)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        start: int,
        past: Kept,
        masks: list[Tensor | None],
        apart: Tensor | None = None,
    ) -> tuple[Tensor, Kept]:
        """(B, T, D) → (B, T, D) and this layer's keys and values for the next call; dropout has three masks."""
        gathered, kept = self.attention(self.attention_norm(x), rotation, start, past, masks[0], apart)
        x = x + dropout(gathered, self.dropout, masks[1])
        return x + dropout(self.feed_forward(self.feed_forward_norm(x)), self.dropout, masks[2]), kept


class GPT(nn.Module):
    """A decoder of `config`'s shape.

    Fresh weights come from `generator`, as `llm.model.initial` draws them; without one they are left to a loader.
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
        block = RecurrentBlock if config.family == "gru" else Block
        self.blocks = nn.ModuleList(block(config) for _ in range(config.n_layers))
        self.norm = NORMS[config.parts.norm](config.d_model, config.norm_eps)
        self.head = Linear(config.d_model, config.vocab_size)
        if config.tie_embeddings:
            self.head.weight = cast(nn.Parameter, self.embedding.weight)
        if config.position_scheme == "rope":
            cos, sin = rope_table(config.context_length, config.head_dim, config.rope_theta)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        if config.position_scheme == "sinusoidal":
            table = sinusoidal_table(config.context_length, config.d_model)
            self.register_buffer("waves", table, persistent=False)
        if config.dropout:
            self.register_buffer("noise", draw_noise(config), persistent=False)
        if generator is not None:
            draw_weights(self, generator, init)

    @property
    def sees_the_future(self) -> bool:
        """Whether a position reads what comes after it; the first two rungs of attention do."""
        return self.config.sees_the_future

    def run_blocks(
        self,
        x: Tensor,
        past: Past | None = None,
        dropout_keys: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> tuple[Tensor, Past]:
        """Embedded tokens (B, T, D) → normalised hidden states (B, T, D), and what the next call needs of them.

        `past` is what an earlier call returned: the T tokens continue it. P + T may not exceed the context, and a
        model that sees the future has no past, for that would change with it. `dropout_keys` are a training step's,
        from the method of that name; without them nothing is dropped.

        A row may hold several texts: `segments` (B, T) has another number for each, and then no text sees another
        and each counts its positions from 0. There is no past to go on from then, and a GRU cannot do it.
        """
        start, T = past.length if past else 0, x.shape[1]
        assert start + T <= self.config.context_length, "more tokens than the context holds"
        assert past is None or not self.sees_the_future, "a past that would change with the future"
        assert segments is None or (past is None and not self.sees_the_future), "texts that would see each other"
        x, rotation = self._place(x, slice(start, start + T) if segments is None else places_in(segments))
        apart = None if segments is None else (segments[:, :, None] != segments[:, None])[:, None]  # (B, 1, T, T)
        kept: list[Kept] = []
        for layer, block in enumerate(self.blocks):
            masks = block_masks(dropout_keys, layer, x.shape[0])  # len() would be a constant in torch.export
            x, layer_kept = block(x, rotation, start, past.layers[layer] if past else (), masks, apart)
            kept.append(layer_kept)
        return self.norm(x), Past(start + T, kept)

    def _place(self, x: Tensor, here: slice | Tensor) -> tuple[Tensor, Rotation | None]:
        """Tell embeddings (B, T, D) their positions, or give the angles that tell queries and keys.

        Positions are T in a row, the same for all, or (B, T).
        """
        match self.config.position_scheme:
            case "rope":
                turned = here if isinstance(here, slice) else here[:, None]  # with an axis for the heads
                return x, (self.cos[turned], self.sin[turned])
            case "learned":
                # The gradient of a look-up adds up in one order; that of an index tensor does not on several threads.
                learned = self.positions.weight[here] if isinstance(here, slice) else self.positions(here)
                return x + learned.to(x.dtype), None
            case "sinusoidal":
                # √D is the paper's (section 3.4): without it waves of height 1 would drown the small embeddings.
                return x * math.sqrt(self.config.d_model) + self.waves[here].to(x.dtype), None
        return x, None

    def dropout_keys(self, seed: int, step: int) -> Tensor | None:
        """What a training step drops by, a pure function of seed and step, as a view; None without dropout."""
        return noise_at(self.noise, seed, step) if self.config.dropout else None

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
        T for a layer's attention (all T × T pairs, as they are computed here; a GRU has none). The embedding is a
        look-up, and so are learned positions.
        """
        looked_up = {"positions.weight"} if self.config.tie_embeddings else {"positions.weight", "embedding.weight"}
        multiplied = sum(w.numel() for name, w in self.named_parameters() if w.ndim == 2 and name not in looked_up)
        context = 0 if self.config.family == "gru" else self.config.context_length
        return 6 * multiplied + 12 * self.config.n_layers * self.config.d_model * context


def places_in(segments: Tensor) -> Tensor:
    """The position (B, T) of each token in its own text, from a number for each text (B, T).

    >>> places_in(torch.tensor([[7, 7, 7, 8, 9, 9]]))
    tensor([[0, 1, 2, 0, 0, 1]])
    """
    place = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return place - place.where(begins, 0).cummax(dim=1).values


def next_token_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits (..., V) at target (...); positions whose target is -100 don't count."""
    return nn.functional.cross_entropy(logits.flatten(0, -2).float(), target.flatten(), ignore_index=-100)


def uniform_loss(vocab_size: int) -> float:
    """The loss of a model that knows nothing: log V nats. A fresh GPT starts here, up to its drawn weights."""
    return math.log(vocab_size)
