"""The sections `baselines`, `evaluate`, `memorise` and `cloze` of params.yaml."""

from typing import Annotated

from pydantic import Field, PositiveFloat

from llm.core.params import Count, Section


class BaselinesParams(Section):
    """How many bytes of the training text the baselines are given; None gives all of it."""

    train_bytes: Count | None


class QualityParams(Section):
    """How many passages of held-out text the model continues, and how: see `llm.evaluate.quality`."""

    texts: Annotated[int, Field(ge=0)]
    prompt_tokens: Count
    new_tokens: Count
    temperature: PositiveFloat


class EvaluateParams(Section):
    """How the held-out text is scored, and what the model generates."""

    stride: Count
    batch_size: Count
    prompts: list[Annotated[str, Field(min_length=1)]] | None  # None: beginnings of held-out documents
    sample_tokens: Count
    temperature: PositiveFloat
    top_k: Count
    quality: QualityParams


class MemoriseParams(Section):
    """How many prefixes of train and of test the model continues, and how long they are."""

    prefixes: Count
    prefix_tokens: Count


class ClozeParams(Section):
    """How many items each multiple-choice task has at most, and how much text precedes a choice."""

    items: Count
    context_tokens: Count
