"""The model's shape: the section `model` of params.yaml, and the whole configuration of a built model.

A family is a bundle of parts: norm, feed-forward, biases. Beside it are two choices for experiments: the rung of the
attention ladder, and the position scheme.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from llm.core.params import Section

PositiveInt = Annotated[int, Field(ge=1)]
Positions = Literal["none", "sinusoidal", "learned", "rope"]


@dataclass(frozen=True)
class Family:
    """The parts of a family; `positions` are those of its published models.

    `qkv_bias` is for the query, key and value projections, `bias` for all other maps.
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
    "gru": replace(_LLAMA, positions="none"),  # the state of a GRU depends on the order of the tokens
}


class ModelParams(Section):
    """The section `model`."""

    family: Literal["qwen3", "qwen2", "llama", "gpt2", "gru"]
    attention: Literal["simplified", "trainable", "causal", "multi_head", "grouped"]
    positions: Positions | None
    d_model: PositiveInt
    n_layers: PositiveInt
    n_heads: PositiveInt
    n_kv_heads: PositiveInt
    d_ff: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)]
    rope_theta: Annotated[float, Field(gt=1)] = 10000.0
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    tie_embeddings: bool

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        n_heads, n_kv_heads, d_model = self.n_query_heads, self.n_key_heads, self.d_model
        rope, sinusoidal = self.position_scheme == "rope", self.position_scheme == "sinusoidal"
        shape = f"rope with family {self.family} and attention {self.attention}"
        for is_wrong, expected, got in (
            (d_model % n_heads, "d_model divisible by n_heads", f"d_model {d_model} and n_heads {n_heads}"),
            (n_heads % n_kv_heads, "n_heads divisible by n_kv_heads", f"n_heads {n_heads} and n_kv_heads {n_kv_heads}"),
            (rope and not self.has_queries, "positions none, sinusoidal or learned without queries", shape),
            (rope and self.head_dim % 2, "an even d_model / n_heads (RoPE turns pairs)", f"{d_model} / {n_heads}"),
            (sinusoidal and d_model % 2, "an even d_model (a sine and a cosine per wavelength)", f"{d_model}"),
        ):
            if is_wrong:
                raise ValueError(f"expected {expected}, got {got}")
        return self

    @property
    def parts(self) -> Family:
        """The parts of the family."""
        return FAMILIES[self.family]

    @property
    def position_scheme(self) -> Positions:
        """`positions`, or where it is null the family's own; none where RoPE has no queries and keys to turn."""
        if self.positions is not None:
            return self.positions
        return self.parts.positions if self.has_queries else "none"

    @property
    def has_queries(self) -> bool:
        """Whether there are queries and keys: a GRU and simplified attention have none."""
        return self.family != "gru" and self.attention != "simplified"

    @property
    def is_causal(self) -> bool:
        """Whether a position's output depends on itself and earlier positions only."""
        return self.family == "gru" or self.attention not in ("simplified", "trainable")

    @property
    def non_causal_reason(self) -> str | None:
        """Why nothing exports, finetunes, evaluates or serves the model, naming the key; None for a causal one."""
        if self.is_causal:
            return None
        return f"model.attention {self.attention} is not causal: each position attends to the tokens it has to predict"

    @property
    def supports_previous_token_heads(self) -> bool:
        """Whether there is causal attention with RoPE, by which a head can attend by distance."""
        return self.position_scheme == "rope" and self.is_causal

    @property
    def n_query_heads(self) -> int:
        """The number of heads in use: one below the rung `multi_head`, and in a GRU."""
        return self.n_heads if self.family != "gru" and self.attention in ("multi_head", "grouped") else 1

    @property
    def n_key_heads(self) -> int:
        """The number of key and value heads in use: only the rung `grouped` shares them."""
        return self.n_kv_heads if self.family != "gru" and self.attention == "grouped" else self.n_query_heads

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.d_model // self.n_query_heads


class ModelConfig(ModelParams):
    """A model's whole shape: the section, and what the data or a pretrained model decides."""

    vocab_size: PositiveInt
    context_length: PositiveInt
    head_width: PositiveInt | None = None  # where it differs from d_model / n_heads, as in Qwen3 0.6B

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.head_width or super().head_dim

    @model_serializer(mode="wrap")
    def _omit_null_head_width(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        return values if self.head_width else {key: value for key, value in values.items() if key != "head_width"}
