"""What shape the model has: the `model` section of params.yaml, and the whole configuration of a built model."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llm.params import Section

Count = Annotated[int, Field(ge=1)]


class ModelParams(Section):
    """The knobs of the shape. Defaults stand in params.yaml alone, so that a reader finds them in one place."""

    family: Literal["qwen3"]
    d_model: Count
    n_layers: Count
    n_heads: Count
    n_kv_heads: Count
    d_ff: Count
    rope_theta: Annotated[float, Field(gt=1)]
    norm_eps: Annotated[float, Field(gt=0)]
    tie_embeddings: bool

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.d_model % self.n_heads:
            raise ValueError(
                f"wanted d_model divisible by n_heads, given d_model {self.d_model} and n_heads {self.n_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"wanted an even d_model / n_heads (RoPE turns pairs), given {self.d_model} / {self.n_heads}"
            )
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"wanted n_heads divisible by n_kv_heads, given n_heads {self.n_heads} and n_kv_heads {self.n_kv_heads}"
            )
        return self

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.d_model // self.n_heads


class ModelConfig(ModelParams):
    """A model's whole shape: the knobs, and what the data decides."""

    vocab_size: Count
    context_length: Count
