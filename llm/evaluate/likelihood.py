"""Likelihood of a text under a language model, with a sliding window.

stream (N + 1,) ──plan_spans──► windows ──score_tokens──► Scores: nats of each target (N,), …
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from llm.core.device import Machine
from llm.evaluate.bootstrap import bits_per_byte
from llm.model.functions import head_scores
from llm.model.gpt import GPT
from llm.model.kv_cache import KVCache

N_WHOLE = 512
CONTINUATIONS_AT_ONCE = 256


class Span(NamedTuple):
    """A window from token `start`; its targets from `first` to `last` are new, earlier windows scored the others."""

    start: int
    first: int
    last: int


class Scores(NamedTuple):
    """Predictions of a stream's N = len(stream) - 1 targets, in order, each in the first window that contains it.

    By position, all targets of `N_WHOLE` evenly spread windows count: short contexts are not of the first one alone.
    """

    nats: NDArray[np.float32]  # (N,), of the target
    top_probability: NDArray[np.float32]  # (N,), of the most likely token
    is_top: NDArray[np.bool_]  # (N,), whether the target is the most likely token
    position_nats: NDArray[np.float64]  # (context,), summed; a target at position p has p + 1 tokens before it
    position_targets: NDArray[np.int64]  # (context,)


def plan_spans(n_tokens: int, context_length: int, stride: int) -> list[Span]:
    """Return windows that score each token but the first exactly once, after up to a whole context.

    Every window but the first scores its last `stride` targets. The last one starts earlier, so that it is full.

    >>> plan_spans(8, context_length=4, stride=2)
    [Span(start=0, first=0, last=4), Span(start=2, first=2, last=4), Span(start=3, first=3, last=4)]
    """
    n_targets = max(n_tokens - 1, 0)
    length = min(context_length, n_targets)
    ends = [*range(length, n_targets, stride), n_targets] if n_targets else []
    return [Span(end - length, scored - end + length, length) for scored, end in pairwise([0, *ends])]


def plan_document_spans(stream: NDArray[np.integer], end_of_text: int, context_length: int, stride: int) -> list[Span]:
    """Return such windows within documents: for models that were trained on windows of single documents.

    >>> plan_document_spans(np.array([0, 5, 6, 7, 0, 8, 0]), 0, context_length=4, stride=2)
    [Span(start=0, first=0, last=4), Span(start=4, first=0, last=2)]
    """
    return [
        Span(begin + span.start, span.first, span.last)
        for begin, end in pairwise(np.flatnonzero(stream == end_of_text).tolist())
        for span in plan_spans(end - begin + 1, context_length, stride)
    ]


@torch.no_grad()
def score_tokens(
    model: GPT, stream: NDArray[np.integer], spans: list[Span], batch_size: int, machine: Machine, label: str
) -> Scores:
    """Score the targets of spans; those of `plan_spans` score each target once. `label` names the progress bar."""
    n, context = max(len(stream) - 1, 0), model.config.context_length
    of_targets = np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.bool_)
    scores = Scores(*of_targets, np.zeros(context), np.zeros(context, dtype=np.int64))
    with tqdm(total=sum(span.last - span.first for span in spans), desc=label, unit=" tokens", unit_scale=True) as bar:
        for batch, is_whole in _batches(spans, batch_size):
            begin = 0 if is_whole else min(span.first for span in batch)
            ids = _read_windows(stream, batch).to(machine.device)
            with machine.autocast():
                hidden = model.run_blocks(model.embedding(ids[:, :-1]).to(machine.dtype))
                figures = head_scores(hidden[:, begin:], model.head.weight, ids[:, 1 + begin :])
            scored = [figure.cpu().numpy() for figure in figures]
            for i, span in enumerate(batch):
                for of_all, of_batch in zip(of_targets, scored, strict=True):
                    new = of_batch[i, span.first - begin : span.last - begin]
                    of_all[span.start + span.first : span.start + span.last] = new
                if is_whole:
                    scores.position_nats[: span.last] += scored[0][i, : span.last]
                    scores.position_targets[: span.last] += 1
                bar.update(span.last - span.first)
    return scores


@torch.no_grad()
def score_continuations(model: GPT, contexts: list[list[int]], continuations: list[list[int]]) -> NDArray[np.float32]:
    """Return the log-probability (N, C) in nats of each of C continuations after each of N contexts, none empty.

    All are ids; it is the sum over a continuation's. A context is read once for all, with others of its length.
    """
    device, scores = model.embedding.weight.device, np.empty((len(contexts), len(continuations)), dtype=np.float32)
    targets = pad_sequence([torch.tensor(ids) for ids in continuations], batch_first=True, padding_value=-1).to(device)
    by_length = defaultdict[int, list[int]](list)
    for number, ids in enumerate(contexts):
        by_length[len(ids)].append(number)
    size = max(CONTINUATIONS_AT_ONCE // len(continuations), 1)
    for numbers in by_length.values():
        for at in range(0, len(numbers), size):
            chosen = numbers[at : at + size]
            batch = torch.tensor([contexts[number] for number in chosen], device=device)
            scores[chosen] = _score_batch(model, batch, targets).cpu().numpy()
    return scores


def _score_batch(model: GPT, contexts: Tensor, continuations: Tensor) -> Tensor:
    """Return log-probabilities (B, C) after contexts (B, P) of continuations (C, T), padded with -1."""
    B, C = len(contexts), len(continuations)
    cache = KVCache(model.config.n_layers)
    if contexts.shape[1] > 1:
        model.run_blocks(model.embedding(contexts[:, :-1]), cache)
    scores = []
    for pairs in torch.arange(B * C, device=contexts.device).split(CONTINUATIONS_AT_ONCE):
        owner, targets = pairs // C, continuations[pairs % C]
        # Each one reads its context's last id and all its own but the last.
        read = torch.cat([contexts[owner, -1:], targets[:, :-1].clamp_min(0)], dim=1)
        hidden, is_target = model.run_blocks(model.embedding(read), cache.select(owner)), targets >= 0
        logits = model.head(hidden[is_target]).float()  # the head is the largest matrix
        losses = nn.functional.cross_entropy(logits, targets[is_target], reduction="none")
        scores.append(-torch.zeros(targets.shape, device=losses.device).masked_scatter(is_target, losses).sum(dim=1))
    return torch.cat(scores).view(B, C)


def _batches(spans: list[Span], batch_size: int) -> Iterator[tuple[list[Span], bool]]:
    """Yield batches of spans, and whether all their targets count by position; the first span is a batch of its own."""
    step = max(len(spans) // N_WHOLE, 1)
    others = [span for number, span in enumerate(spans) if number % step]
    for group, is_whole in ((spans[:1], True), (spans[step::step], True), (others, False)):
        for at in range(0, len(group), batch_size):
            yield group[at : at + batch_size], is_whole


def _read_windows(stream: NDArray[np.integer], batch: list[Span]) -> Tensor:
    """Return the tokens (B, T + 1) of windows, read to the length of the longest: no later token changes a score."""
    ids = np.zeros((len(batch), max(span.last for span in batch) + 1), dtype=np.int64)
    for row, span in zip(ids, batch, strict=True):
        tokens = stream[span.start : span.start + len(row)]
        row[: len(tokens)] = tokens
    return torch.from_numpy(ids)


def summarise(nats: NDArray[np.float32], n_bytes: int) -> dict[str, float]:
    """Return bits per byte, nats and perplexity per token; summed in float64, rounded to 5 places."""
    total = float(nats.sum(dtype=np.float64))
    per_token = total / len(nats)
    return {
        "bits_per_byte": bits_per_byte(total, n_bytes),
        "nats_per_token": round(per_token, 5),
        "perplexity": round(math.exp(min(per_token, 700)), 4),  # a float64 ends at e^709
        "tokens": len(nats),
    }
