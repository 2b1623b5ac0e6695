"""Measure what context is worth: the loss of the same targets with 1/16, 1/8, 1/4, 1/2 and all of the tokens before.

The targets are the same, so differences are sharp, unlike those by position. The number of windows bounds the cost.
"""

import numpy as np
from numpy.typing import NDArray

from llm.core.device import Machine
from llm.evaluate.bootstrap import Row, ratio_with_interval
from llm.evaluate.likelihood import Span, score_tokens
from llm.model.gpt import GPT

N_WINDOWS = 128
DOUBLINGS = 4  # from the shortest context to all of it; half of the shortest are the targets at a window's end
Losses = NDArray[np.float64]
Stream = NDArray[np.integer]


def choose_windows(spans: list[Span], context_length: int, n: int = N_WINDOWS) -> list[Span]:
    """Return up to n evenly spread windows of the whole context, with as many new targets as are compared."""
    n_new = max(context_length >> DOUBLINGS + 1, 1)
    full = [span for span in spans if span.last == context_length and span.last - span.first >= n_new]
    return [full[i] for i in np.linspace(0, len(full) - 1, min(n, len(full))).round().astype(int)]


def losses_by_context(
    model: GPT, stream: Stream, nats: NDArray[np.floating], windows: list[Span], batch_size: int, machine: Machine
) -> dict[int, Losses]:
    """Return the mean loss (W,) of the last targets of W windows by tokens of context; {} without windows.

    `nats` (len(stream) - 1,) are the losses with the whole context. Of the targets only the last one has as much
    context as the key says.
    """
    context = model.config.context_length
    n, ends = max(context >> DOUBLINGS + 1, 1), [span.start + context for span in windows]
    shorter = {max(context >> halvings, 1) for halvings in range(1, DOUBLINGS + 1)} - {context}
    scored = {}
    for length in sorted(shorter) if windows else ():
        spans = [Span(end - length, length - n, length) for end in ends]
        # A batch has as many tokens as one of whole windows.
        size = batch_size * (context // length)
        scored[length] = score_tokens(model, stream, spans, size, machine, f"{length} tokens of context").nats
    scored |= {context: nats} if windows else {}
    return {
        length: np.stack([of[end - n : end] for end in ends]).mean(axis=1, dtype=np.float64)
        for length, of in scored.items()
    }


def compare_contexts(losses: dict[int, Losses], rng: np.random.Generator) -> list[Row]:
    """Return a row per context length: the mean loss, and `more`, the difference to the loss with the whole context.

    The 95% interval of the difference is over windows, paired.
    """
    longest = max(losses, default=0)
    rows = []
    for length, nats in losses.items():
        row: Row = {"context": length, "fraction": round(length / longest, 5), "windows": len(nats)}
        row["nats_per_token"] = round(float(nats.mean()), 5)
        rows.append(row | ratio_with_interval("more", nats - losses[longest], np.ones(len(nats)), rng))
    return rows
