"""How likely the model finds a text: nats for each token, and bits for each byte of the whole.

Bits per byte divide by the UTF-8 bytes of the prepared text, not by tokens, so that models with different
tokenizers, and compressors, can be compared.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from llm.model.gpt import GPT
from llm.runtime import Machine


@dataclass(frozen=True)
class Span:
    """A window to score: it begins at `start`, and its targets from `first` (within it) on are new."""

    start: int
    length: int
    first: int


def plan_spans(n_tokens: int, context_length: int, stride: int) -> list[Span]:
    """Windows that score each token but the first exactly once, each after up to a whole context.

    With stride < context_length, every window but the first scores only its last `stride` targets, so that a
    token has at least context_length - stride tokens before it. The last window is moved back to be a full one.

    >>> plan_spans(8, context_length=4, stride=2)
    [Span(start=0, length=4, first=0), Span(start=2, length=4, first=2), Span(start=3, length=4, first=3)]
    """
    n_targets = n_tokens - 1
    spans: list[Span] = []
    scored = 0
    while scored < n_targets:
        length = min(context_length, n_targets)
        end = min(length if scored == 0 else scored + stride, n_targets)
        start = end - length
        spans.append(Span(start, length, scored - start))
        scored = end
    return spans


@torch.no_grad()
def token_losses(
    model: GPT, stream: NDArray[np.integer], stride: int, batch_size: int, machine: Machine, label: str
) -> NDArray[np.float32]:
    """The loss in nats of each token of a stream after those before it: shape (len(stream) - 1,)."""
    spans = plan_spans(len(stream), model.config.context_length, min(stride, model.config.context_length))
    losses = np.empty(max(len(stream) - 1, 0), dtype=np.float32)
    bar = tqdm(total=len(losses), desc=label, unit=" tokens", unit_scale=True)
    for batch in _alike(spans, batch_size):
        length, first = batch[0].length, min(span.first for span in batch)
        rows = np.stack([stream[span.start : span.start + length + 1] for span in batch]).astype(np.int64)
        ids = torch.from_numpy(rows).to(machine.device)
        with machine.autocast():
            hidden, _ = model.run_blocks(model.embedding(ids[:, :-1]).to(machine.dtype))
            logits = model.head(hidden[:, first:])
        nats = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), ids[:, first + 1 :].flatten(), reduction="none"
        )
        for span, row in zip(batch, nats.view(len(batch), -1).cpu().numpy(), strict=True):
            losses[span.start + span.first : span.start + length] = row[span.first - first :]
            bar.update(length - span.first)
    bar.close()
    return losses


def _alike(spans: list[Span], batch_size: int) -> list[list[Span]]:
    """Batches of spans of one length; the first span, which scores everything, stands alone."""
    return [spans[:1], *(spans[at : at + batch_size] for at in range(1, len(spans), batch_size))] if spans else []


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
