"""The `baselines`, `evaluate` and `cloze` sections of params.yaml."""

from typing import Annotated

from pydantic import Field

from llm.core.params import Section

Count = Annotated[int, Field(ge=1)]


class BaselinesParams(Section):
    """How much of the training text the baselines learn from; None takes all of it."""

    train_bytes: Count | None


class QualityParams(Section):
    """How many stretches of held-out text the model continues, and how: see `llm.evaluate.quality`."""

    texts: Annotated[int, Field(ge=0)]
    prompt_tokens: Count
    new_tokens: Count
    temperature: Annotated[float, Field(gt=0)]


class EvaluateParams(Section):
    """How the held-out text is scored, what the samples begin with, and what text quality is measured on."""

    stride: Count
    batch_size: Count
    prompts: list[Annotated[str, Field(min_length=1)]] | None  # None: beginnings of held-out documents
    sample_tokens: Count
    temperature: Annotated[float, Field(gt=0)]
    top_k: Count
    quality: QualityParams


class ClozeParams(Section):
    """How many multiple-choice items are made of held-out documents, and how much a model reads before it chooses."""

    items: Count
    context_tokens: Count
