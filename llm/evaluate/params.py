"""The sections `baselines`, `evaluate`, `memorise` and `cloze` of params.yaml."""

from typing import Annotated

from pydantic import Field, PositiveFloat

from llm.core.derived import derive
from llm.core.params import Count, Section


class BaselinesParams(Section):
    """How many bytes of the training text the baselines are given; None gives all of it."""

    train_bytes: Count | None


class QualityParams(Section):
    """How many passages of held-out text the model continues, and how: see `llm.evaluate.quality`."""

    texts: Annotated[int, Field(ge=0)]
    prompt_tokens: Count | None = None
    new_tokens: Count
    temperature: PositiveFloat

    def prompt_tokens_of(self, context_length: int) -> int:
        """Return the tokens of a prompt, at most the context; null derives them from it."""
        return min(derive("evaluate.quality.prompt_tokens", context_length, self.prompt_tokens), context_length)


class EvaluateParams(Section):
    """How the held-out text is scored, and what the model generates."""

    stride: Count | None = None
    batch_size: Count = 16
    prompts: list[Annotated[str, Field(min_length=1)]] | None  # None: beginnings of held-out documents
    sample_tokens: Count
    temperature: PositiveFloat = 0.7
    top_k: Count = 50
    quality: QualityParams

    def stride_of(self, context_length: int) -> int:
        """Return the tokens of a window that are scored anew, at most the context; null derives them from it."""
        return min(derive("evaluate.stride", context_length, self.stride), context_length)


class MemoriseParams(Section):
    """How many prefixes of train and of test the model continues, and how long they are."""

    prefixes: Count
    prefix_tokens: Count | None = None

    def prefix_tokens_of(self, context_length: int) -> int:
        """Return the tokens of a prefix, at most the context; null derives them from it."""
        return min(derive("memorise.prefix_tokens", context_length, self.prefix_tokens), context_length)


class ClozeParams(Section):
    """How many items each multiple-choice task has at most, and how much text precedes a choice."""

    items: Count
    context_tokens: Count | None = None

    def context_tokens_of(self, context_length: int) -> int:
        """Return the tokens of text before a choice; null derives them from the model's context."""
        return derive("cloze.context_tokens", context_length, self.context_tokens)
