"""Sampling for one text: logits of the next token in, an id and its log-probability out."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llm.model.generate import SamplingParams, filtered, greedy


@dataclass(frozen=True)
class RequestSampling(SamplingParams):
    """What a request can set beside the filters: OpenAI's penalties, and log-probabilities."""

    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    n_logprobs: int | None = None  # of the most probable ids, beside each sampled one


@dataclass(frozen=True)
class Logprob:
    """An id and the natural logarithm of its probability before temperature, penalties and filters."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Sampler:
    """Samples the ids of one text: the same params and seeds give the same ids from the same logits."""

    def __init__(self, params: RequestSampling, seeds: tuple[int, ...]):
        self.params, self._generator = params, np.random.default_rng(seeds)
        self._counts: Tensor | None = None

    def sample(self, logits: Tensor) -> tuple[int, Logprob | None]:
        """Return an id from the logits (V,) of the next token, and its log-probability if asked for."""
        params, adjusted = self.params, logits
        counts = self._counts = torch.zeros_like(logits) if self._counts is None else self._counts
        if params.frequency_penalty or params.presence_penalty:  # as OpenAI defines them
            adjusted = logits - params.frequency_penalty * counts - params.presence_penalty * (counts > 0)
        if params.temperature:
            token = inverse_cdf_sample(filtered(adjusted, params), self._generator.random())
        else:
            token = greedy(adjusted)
        counts[token] += 1
        return token, None if params.n_logprobs is None else logprob_of(logits, token, params.n_logprobs)


def inverse_cdf_sample(logits: Tensor, u: float) -> int:
    """Return the id at the fraction `u` in [0, 1) of the cumulative probability: one random number, not one an id.

    >>> [inverse_cdf_sample(torch.tensor([0.2, 0.5, 0.3]).log(), u) for u in (0.1, 0.3, 0.6, 0.8)]
    [0, 1, 1, 2]
    """
    sums = logits.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    return int(torch.searchsorted(sums, u * sums[-1], right=True))


def logprob_of(logits: Tensor, token: int, n: int) -> Logprob:
    """Return a token's log-probability under logits (V,), and those of the `n` most probable ids."""
    logprobs = logits.log_softmax(dim=-1)
    values, ids = logprobs.topk(min(n, len(logprobs)))
    return Logprob(token, float(logprobs[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
