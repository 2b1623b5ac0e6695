"""What shape the model has: the `model` section of params.yaml, and the whole configuration of a built model.

A family is a bundle of parts: which norm, which feed-forward, biases or none. Beside it stand two choices that are
experiments: the rung of the attention ladder, and how the model learns where a token stands.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from llm.core.params import Section

Count = Annotated[int, Field(ge=1)]
Positions = Literal["none", "sinusoidal", "learned", "rope"]


@dataclass(frozen=True)
class Family:
    """The parts that a family is made of. `positions` are those that its published models have.

    `qkv_bias` is of the maps to queries, keys and values, `bias` of all others.
    """

    norm: Literal["rms", "layer"]
    feed_forward: Literal["swiglu", "gelu"]
    qk_norm: bool
    qkv_bias: bool
    bias: bool
    positions: Positions


_LLAMA = Family(norm="rms", feed_forward="swiglu", qk_norm=False, qkv_bias=False, bias=False, positions="rope")
FAMILIES = {
    "qwen3": replace(_LLAMA, qk_norm=True),
    "qwen2": replace(_LLAMA, qkv_bias=True),
    "llama": _LLAMA,
    "gpt2": Family(norm="layer", feed_forward="gelu", qk_norm=False, qkv_bias=True, bias=True, positions="learned"),
    # A GRU stands where the others attend; its state knows the order of what it has read.
    "gru": replace(_LLAMA, positions="none"),
}


class ModelParams(Section):
    """The knobs of the shape. Defaults stand in params.yaml alone, so that a reader finds them in one place."""

    family: Literal["qwen3", "qwen2", "llama", "gpt2", "gru"]
    attention: Literal["simplified", "trainable", "causal", "multi_head", "grouped"]
    positions: Positions | None
    d_model: Count
    n_layers: Count
    n_heads: Count
    n_kv_heads: Count
    d_ff: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]
    rope_theta: Annotated[float, Field(gt=1)]
    norm_eps: Annotated[float, Field(gt=0)]
    tie_embeddings: bool

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.d_model % self.n_query_heads:
            raise ValueError(
                f"wanted d_model divisible by n_heads, given d_model {self.d_model} and n_heads {self.n_heads}"
            )
        if self.n_query_heads % self.n_key_heads:
            raise ValueError(
                f"wanted n_heads divisible by n_kv_heads, given n_heads {self.n_heads} and n_kv_heads {self.n_kv_heads}"
            )
        if self.position_scheme == "rope" and not self.has_queries:
            raise ValueError(
                f"wanted positions none, sinusoidal or learned where no queries and keys are there to be turned, "
                f"given rope with family {self.family} and attention {self.attention}"
            )
        if self.position_scheme == "rope" and self.head_dim % 2:
            raise ValueError(
                f"wanted an even d_model / n_heads (RoPE turns pairs), given {self.d_model} / {self.n_query_heads}"
            )
        if self.position_scheme == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"wanted an even d_model (a sine and a cosine a wavelength), given {self.d_model}")
        return self

    @property
    def parts(self) -> Family:
        """The parts of the family."""
        return FAMILIES[self.family]

    @property
    def position_scheme(self) -> Positions:
        """`positions`, or where it is null the family's own; none where that would have nothing to turn."""
        if self.positions is not None:
            return self.positions
        return self.parts.positions if self.has_queries else "none"

    @property
    def has_queries(self) -> bool:
        """Whether there are queries and keys: a GRU and simplified attention have none."""
        return self.family != "gru" and self.attention != "simplified"

    @property
    def sees_the_future(self) -> bool:
        """Whether a position reads what comes after it, so that its prediction of the next token is no prediction."""
        return self.family != "gru" and self.attention in ("simplified", "trainable")

    @property
    def can_look_back(self) -> bool:
        """Whether there is causal attention with rotary positions, by which a head can tell how far away a token is."""
        return self.position_scheme == "rope" and not self.sees_the_future

    @property
    def n_query_heads(self) -> int:
        """Heads that there are in fact: one below the rung `multi_head`, and in a GRU."""
        return self.n_heads if self.family != "gru" and self.attention in ("multi_head", "grouped") else 1

    @property
    def n_key_heads(self) -> int:
        """Key and value heads that there are in fact: only the rung `grouped` shares them."""
        return self.n_kv_heads if self.family != "gru" and self.attention == "grouped" else self.n_query_heads

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.d_model // self.n_query_heads


class ModelConfig(ModelParams):
    """A model's whole shape: the knobs, what the data decides, and what a model that was brought along decides."""

    vocab_size: Count
    context_length: Count
    head_width: Count | None = None  # where it is another one than d_model / n_heads, as in Qwen3 0.6B

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.head_width or super().head_dim

    @model_serializer(mode="wrap")
    def _without_a_width_that_is_not_there(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        return values if self.head_width else {key: value for key, value in values.items() if key != "head_width"}
