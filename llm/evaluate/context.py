"""What the model gains from more context: the same targets, after 1/16, 1/8, 1/4, 1/2 and all of the tokens before.

    window         a b c d e f g h │ i j            i and j are predicted after all of a window's context …
    a half of it           e f g h │ i j            … and again, with its first half cut away

By place in the window other targets stand in other places; here they are the same ones, so differences are sharp. A
model that has learnt to use what is far away loses by the cut. A few windows are enough: cost is bounded by their
number, not by the text.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm.core.device import Machine
from llm.evaluate.bootstrap import Row, ratio_interval
from llm.evaluate.likelihood import Span, score_targets
from llm.model.gpt import GPT

N_WINDOWS = 128
DOUBLINGS = 4  # from the shortest context up to all of it
Losses = NDArray[np.float64]


def n_last_targets(context_length: int) -> int:
    """How many targets at a window's end are compared: half of the shortest context, one at least.

    >>> n_last_targets(256), n_last_targets(17)
    (8, 1)
    """
    return max(context_length >> DOUBLINGS + 1, 1)


def choose_windows(spans: list[Span], context_length: int, n: int = N_WINDOWS) -> list[Span]:
    """Up to n windows, spread evenly over the text, as long as the context and with their last targets newly scored.

    >>> choose_windows([Span(0, 0, 4), Span(2, 2, 4), Span(4, 2, 4), Span(9, 0, 3)], context_length=4, n=2)
    [Span(start=0, first=0, last=4), Span(start=4, first=2, last=4)]
    """
    n_new = n_last_targets(context_length)
    full = [span for span in spans if span.last == context_length and span.last - span.first >= n_new]
    places = np.linspace(0, len(full) - 1, min(n, len(full))).round().astype(int)
    return [full[place] for place in places]


@torch.no_grad()
def losses_by_context(
    model: GPT,
    stream: NDArray[np.integer],
    nats: NDArray[np.floating],
    windows: list[Span],
    batch_size: int,
    machine: Machine,
) -> dict[int, Losses]:
    """Mean loss (W,) of the last targets of W windows of the model's context, by how much of it is kept, in tokens.

    `nats` (len(stream) - 1,) are what the targets cost after all of it, as they were scored: only shorter contexts are
    run. A context of t tokens is the last t of a window, so the first of its targets have a little less before them
    than t. Without windows: {}.
    """
    if not windows:
        return {}
    context = model.config.context_length
    n = n_last_targets(context)
    ends = np.array([span.start + context for span in windows])
    losses = {}
    for length in sorted({max(context >> halvings, 1) for halvings in range(1, DOUBLINGS + 1)} - {context}):
        rows = np.stack([stream[end - length : end + 1] for end in ends]).astype(np.int64)  # (W, t + 1)
        # As many tokens a batch as in a batch of whole windows.
        parts = torch.from_numpy(rows).split(batch_size * (context // length))
        costs = [_last_nats(model, part.to(machine.device), n, machine) for part in parts]
        losses[length] = torch.cat(costs).double().mean(dim=1).numpy()
    losses[context] = np.stack([nats[end - n : end] for end in ends]).mean(axis=1, dtype=np.float64)
    return losses


def _last_nats(model: GPT, ids: Tensor, n: int, machine: Machine) -> Tensor:
    """Nats (B, n) of the last n of ids (B, t + 1), on the CPU."""
    with machine.autocast():
        hidden, _ = model.run_blocks(model.embedding(ids[:, :-1]).to(machine.dtype))
        logits = model.head(hidden[:, -n:])
    return score_targets(logits, ids[:, -n:])[0].cpu()


def compare_contexts(losses: dict[int, Losses], rng: np.random.Generator) -> list[Row]:
    """A row a context length: mean loss, and how much more it is than with all of the context.

    The difference has a 95% interval over windows, each compared with itself; a single window has none.

    >>> rows = compare_contexts({8: np.array([3.0, 5.0]), 16: np.array([2.0, 4.0])}, np.random.default_rng(1))
    >>> rows[0]
    {'context': 8, 'share': 0.5, 'windows': 2, 'nats_per_token': 4.0, 'more': 1.0, 'more_low': 1.0, 'more_high': 1.0}
    >>> rows[1]["more"]
    0.0
    """
    longest = max(losses, default=0)
    rows = []
    for length, nats in losses.items():
        more = nats - losses[longest]
        row = {"context": length, "share": round(length / longest, 5), "windows": len(nats)}
        row |= {"nats_per_token": round(float(nats.mean()), 5), "more": round(float(more.mean()), 5)}
        interval = ratio_interval(more, np.ones(len(more)), rng)
        if interval is not None:
            row |= {"more_low": round(interval[0], 5), "more_high": round(interval[1], 5)}
        rows.append(row)
    return rows
