"""How one text's tokens are drawn: logits of the next token in, an id and its log-probabilities out."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llm.model.generate import greedy, keep_min_p, keep_top_k, keep_top_p


@dataclass(frozen=True)
class Drawing:
    """What a request asks for. Temperature 0 takes the likeliest; None leaves a filter out."""

    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    n_logprobs: int | None = None  # how many of the likeliest are told beside each token


@dataclass(frozen=True)
class Logprob:
    """A token and the natural logarithm of its probability before temperature, penalties and filters."""

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]


class Drawer:
    """Draws the tokens of one text: the same `drawing` and `seeds` draw the same from the same logits."""

    def __init__(self, drawing: Drawing, seeds: tuple[int, ...]):
        self.drawing, self._generator = drawing, np.random.default_rng(seeds)
        self._counts: Tensor | None = None

    def draw(self, logits: Tensor) -> tuple[int, Logprob | None]:
        """An id from the logits (V,) of the next token."""
        penalised = self._penalise(logits)
        if self.drawing.temperature:
            token = pick(filter_logits(penalised / self.drawing.temperature, self.drawing), self._generator.random())
        else:
            token = greedy(penalised)
        if self._counts is not None:
            self._counts[token] += 1
        wanted = self.drawing.n_logprobs
        return token, None if wanted is None else logprob_of(logits, token, wanted)

    def _penalise(self, logits: Tensor) -> Tensor:
        frequency, presence = self.drawing.frequency_penalty, self.drawing.presence_penalty
        if not frequency and not presence:
            return logits
        if self._counts is None:
            self._counts = torch.zeros_like(logits)
        return penalise(logits, self._counts, frequency, presence)


def filter_logits(logits: Tensor, drawing: Drawing) -> Tensor:
    """Logits (V,) with -∞ for what top-k, top-p and min-p leave out, in the order of `llm.model.generate.sampler`."""
    if drawing.top_k is not None:
        logits = keep_top_k(logits, drawing.top_k)
    if drawing.top_p is not None:
        logits = keep_top_p(logits, drawing.top_p)
    if drawing.min_p is not None:
        logits = keep_min_p(logits, drawing.min_p)
    return logits


def pick(logits: Tensor, at: float) -> int:
    """The id in which the share `at` of all probability lies, `at` in [0, 1): one look-up, where torch draws V numbers.

    >>> [pick(torch.tensor([0.2, 0.5, 0.3]).log(), at) for at in (0.1, 0.3, 0.6, 0.8)]
    [0, 1, 1, 2]
    """
    sums = logits.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    return int(torch.searchsorted(sums, at * sums[-1], right=True))


def penalise(logits: Tensor, counts: Tensor, frequency: float, presence: float) -> Tensor:
    """Less of what was written: minus `frequency` for each time, minus `presence` if at all (OpenAI's definition).

    >>> penalise(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 2.0]), 0.5, 0.25)
    tensor([ 1.0000,  0.2500, -0.2500])
    """
    return logits - frequency * counts - presence * (counts > 0)


def logprob_of(logits: Tensor, token: int, n: int) -> Logprob:
    """A token's log-probability under logits (V,), and those of the `n` likeliest."""
    logprobs = logits.log_softmax(dim=-1)
    values, ids = logprobs.topk(min(n, len(logprobs)))
    return Logprob(token, float(logprobs[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
