"""Define the sections `tokenize` and `sample` of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llm.core.derived import derive
from llm.core.params import Count, Section, Share


class TokenizeParams(Section):
    """Which tokenizer, and how the training text is segmented."""

    kind: Literal["bpe", "word", "char"]
    vocab_size: Annotated[int, Field(ge=2, le=1 << 24)]
    train_bytes: Count = 200_000_000
    min_frequency: Count = 2
    keep_whitespace: bool = True
    pretrained: str | None
    pattern: str
    dropout: Share
    segmentations: Count

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind != "bpe" and self.pretrained is not None:
            raise ValueError(f"pretrained: expected kind bpe for a pretrained tokenizer, got {self.kind}")
        if self.kind != "bpe" and self.dropout:
            raise ValueError(f"dropout: expected kind bpe, whose merges can be dropped, got {self.kind}")
        if self.kind == "bpe" and self.pretrained is None and self.vocab_size < 300:
            raise ValueError(f"vocab_size: expected at least 300 for bpe, 256 bytes included, got {self.vocab_size}")
        return self


class WindowParams(Section):
    """The sliding window over the token stream."""

    context_length: Annotated[int, Field(ge=2)]
    stride: Count | None = None  # null: the context length
    boundary: Literal["cross", "document"]
    align_to_documents: bool = False
    weights: dict[str, Annotated[float, Field(ge=0, le=1000)]]
    contamination_ngram: Count

    @property
    def stride_tokens(self) -> int:
        """The tokens from the start of a window to that of the next one."""
        return derive("sample.stride", self.context_length, self.stride)
