"""How likely the model finds a text: nats for each token, and bits for each byte of the whole.

Bits per byte divide by the UTF-8 bytes of the prepared text, not by tokens, so that models with different
tokenizers, and compressors, can be compared.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from llm.core.device import Machine
from llm.model.gpt import GPT

N_WHOLE = 512


@dataclass(frozen=True)
class Span:
    """A window to score: it begins at `start`, and its targets from `first` up to `last` (within it) are new."""

    start: int
    first: int
    last: int


def plan_spans(n_tokens: int, context_length: int, stride: int) -> list[Span]:
    """Windows that score each token but the first exactly once, each after up to a whole context.

    With stride < context_length, every window but the first scores only its last `stride` targets, so that a
    token has at least context_length - stride tokens before it. The last window is moved back to be a full one.

    >>> plan_spans(8, context_length=4, stride=2)
    [Span(start=0, first=0, last=4), Span(start=2, first=2, last=4), Span(start=3, first=3, last=4)]
    """
    n_targets = n_tokens - 1
    spans: list[Span] = []
    scored = 0
    while scored < n_targets:
        length = min(context_length, n_targets)
        end = min(length if scored == 0 else scored + stride, n_targets)
        start = end - length
        spans.append(Span(start, scored - start, length))
        scored = end
    return spans


def plan_document_spans(stream: NDArray[np.integer], end_of_text: int, context_length: int, stride: int) -> list[Span]:
    """The same, but no token is scored with another document before it, for models that learnt from such windows.

    >>> plan_document_spans(np.array([0, 5, 6, 7, 0, 8, 0]), 0, context_length=4, stride=2)
    [Span(start=0, first=0, last=4), Span(start=4, first=0, last=2)]
    """
    borders = np.flatnonzero(stream == end_of_text).tolist()
    return [
        Span(begin + span.start, span.first, span.last)
        for begin, end in pairwise(borders)
        for span in plan_spans(end - begin + 1, context_length, stride)
    ]


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says of a stream's tokens, all but the first: N = len(stream) - 1 targets, in order.

    Windows overlap, and a target is scored in the first one that holds it. By place all targets of a window count,
    those that an earlier window scored too: else short contexts would be the first one's alone. Some `N_WHOLE`
    windows, evenly spread, are enough for that.
    """

    nats: NDArray[np.float32]  # (N,), of the token that stands there
    top_probability: NDArray[np.float32]  # (N,), of the token that the model holds most likely
    is_top: NDArray[np.bool_]  # (N,), whether that is the one that stands there
    place_nats: NDArray[np.float64]  # (context,), summed; a target at place p has p + 1 tokens before it
    place_targets: NDArray[np.int64]  # (context,)


def judge(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (..., V) and ids (...) → nats of each id, the highest probability, whether the id has it; each (...).

    Of equal logits the first counts as the highest.

    >>> nats, top_probability, is_top = judge(torch.tensor([1.0, 3.0, 4.0]).log(), torch.tensor(1))
    >>> round(nats.exp().item(), 4), round(top_probability.item(), 4), is_top.item()  # 3 of 8 come true, 4 of 8 lead
    (2.6667, 0.5, False)
    """
    log_probabilities = logits.float().log_softmax(dim=-1)
    given = log_probabilities.gather(-1, targets[..., None])
    # `amax` takes a tenth of the time of `max`, which tells the place as well; an equal one before the id has it.
    top = log_probabilities.amax(dim=-1, keepdim=True)
    places = torch.arange(logits.shape[-1], device=logits.device)
    is_behind = ((log_probabilities == top) & (places < targets[..., None])).any(dim=-1)
    return -given[..., 0], top[..., 0].exp(), (given == top)[..., 0] & ~is_behind


@torch.no_grad()
def score_tokens(
    model: GPT, stream: NDArray[np.integer], spans: list[Span], batch_size: int, machine: Machine, label: str
) -> Scores:
    """Score each target of a stream once, in one pass over the model; spans as `plan_spans` lays them out."""
    n_targets, context = max(len(stream) - 1, 0), model.config.context_length
    scores = Scores(
        nats=np.empty(n_targets, dtype=np.float32),
        top_probability=np.empty(n_targets, dtype=np.float32),
        is_top=np.empty(n_targets, dtype=np.bool_),
        place_nats=np.zeros(context),
        place_targets=np.zeros(context, dtype=np.int64),
    )
    bar = tqdm(total=n_targets, desc=label, unit=" tokens", unit_scale=True)
    for batch, is_whole in _alike(spans, batch_size):
        begin = 0 if is_whole else min(span.first for span in batch)
        length = max(span.last for span in batch)
        # A window that ends earlier goes on to the others' length: nothing that comes later moves a score.
        rows = np.zeros((len(batch), length + 1), dtype=np.int64)
        for row, span in zip(rows, batch, strict=True):
            tokens = stream[span.start : span.start + length + 1]
            row[: len(tokens)] = tokens
        ids = torch.from_numpy(rows).to(machine.device)
        with machine.autocast():
            hidden, _ = model.run_blocks(model.embedding(ids[:, :-1]).to(machine.dtype))
            logits = model.head(hidden[:, begin:])
        judged = judge(logits, ids[:, 1 + begin :])
        nats, top_probability, is_top = (figure.cpu().numpy() for figure in judged)  # each (B, T - begin)
        for i, span in enumerate(batch):
            here = slice(span.start + span.first, span.start + span.last)
            new = slice(span.first - begin, span.last - begin)
            scores.nats[here] = nats[i, new]
            scores.top_probability[here] = top_probability[i, new]
            scores.is_top[here] = is_top[i, new]
            if is_whole:
                scores.place_nats[: span.last] += nats[i, : span.last]
                scores.place_targets[: span.last] += 1
            bar.update(span.last - span.first)
    bar.close()
    return scores


def token_losses(
    model: GPT, stream: NDArray[np.integer], spans: list[Span], batch_size: int, machine: Machine, label: str
) -> NDArray[np.float32]:
    """The loss in nats of each token of a stream after those before it: shape (len(stream) - 1,)."""
    return score_tokens(model, stream, spans, batch_size, machine, label).nats


def _alike(spans: list[Span], batch_size: int) -> Iterator[tuple[list[Span], bool]]:
    """Batches of spans, and whether all of their targets are wanted; the first span, which is all new, stands alone."""
    step = max(len(spans) // N_WHOLE, 1)
    wholes, others = spans[step::step], [span for place, span in enumerate(spans) if place % step]
    for group, is_whole in ((spans[:1], True), (wholes, True), (others, False)):
        for at in range(0, len(group), batch_size):
            yield group[at : at + batch_size], is_whole


def summarise(losses: NDArray[np.float32], n_bytes: int) -> dict[str, float]:
    """Nats and perplexity a token, bits a byte. The sum is in float64; rounded to 5 places."""
    total = float(losses.sum(dtype=np.float64))
    nats = total / len(losses)
    return {
        "bits_per_byte": round(total / math.log(2) / n_bytes, 5),
        "nats_per_token": round(nats, 5),
        "perplexity": round(math.exp(min(nats, 700)), 4),  # a float ends at e^709
        "tokens": len(losses),
    }
