"""The `baselines`, `evaluate` and `cloze` sections of params.yaml."""

from typing import Annotated

from pydantic import Field

from llm.params import Section

Count = Annotated[int, Field(ge=1)]


class BaselinesParams(Section):
    """How much of the training text the baselines learn from; None takes all of it."""

    train_bytes: Count | None


class EvaluateParams(Section):
    """How the held-out text is scored, and what the samples begin with."""

    stride: Count
    batch_size: Count
    prompts: list[Annotated[str, Field(min_length=1)]] | None  # None: beginnings of held-out documents
    sample_tokens: Count
    temperature: Annotated[float, Field(gt=0)]
    top_k: Count


class ClozeParams(Section):
    """How many multiple-choice items are made of held-out documents, and how much a model reads before it chooses."""

    items: Count
    context_tokens: Count
