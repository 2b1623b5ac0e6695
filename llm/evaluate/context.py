"""Measure what context is worth: the loss of the same targets with 1/16, 1/8, 1/4, 1/2 and all of the tokens before.

    window         a b c d e f g h │ i j            i and j, predicted from the whole window …
    a half of it           e f g h │ i j            … and from its second half

The targets are the same, so differences are sharp, unlike those by position. A fixed number of windows bounds the cost.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm.core.device import Machine
from llm.evaluate.bootstrap import Row, ratio_with_interval
from llm.evaluate.likelihood import Span, score_targets
from llm.model.gpt import GPT

N_WINDOWS = 128
DOUBLINGS = 4  # from the shortest context to all of it
Losses = NDArray[np.float64]


def n_last_targets(context_length: int) -> int:
    """Return how many targets at a window's end are compared: half of the shortest context, but at least one.

    >>> n_last_targets(256), n_last_targets(17)
    (8, 1)
    """
    return max(context_length >> DOUBLINGS + 1, 1)


def choose_windows(spans: list[Span], context_length: int, n: int = N_WINDOWS) -> list[Span]:
    """Return up to n evenly spread windows of the whole context whose last targets are newly scored.

    >>> choose_windows([Span(0, 0, 4), Span(2, 2, 4), Span(4, 2, 4), Span(9, 0, 3)], context_length=4, n=2)
    [Span(start=0, first=0, last=4), Span(start=4, first=2, last=4)]
    """
    n_new = n_last_targets(context_length)
    full = [span for span in spans if span.last == context_length and span.last - span.first >= n_new]
    return [full[i] for i in np.linspace(0, len(full) - 1, min(n, len(full))).round().astype(int)]


@torch.no_grad()
def losses_by_context(
    model: GPT,
    stream: NDArray[np.integer],
    nats: NDArray[np.floating],
    windows: list[Span],
    batch_size: int,
    machine: Machine,
) -> dict[int, Losses]:
    """Return the mean loss (W,) of the last targets of W windows by tokens of context; {} without windows.

    `nats` (len(stream) - 1,) are the targets' losses with the whole context; only shorter contexts are run. Targets but
    the last have a little less context than the key says.
    """
    if not windows:
        return {}
    context = model.config.context_length
    n = n_last_targets(context)
    ends = np.array([span.start + context for span in windows])
    losses = {}
    for length in sorted({max(context >> halvings, 1) for halvings in range(1, DOUBLINGS + 1)} - {context}):
        rows = np.stack([stream[end - length : end + 1] for end in ends]).astype(np.int64)  # (W, t + 1)
        # A batch has as many tokens as one of whole windows.
        batches = torch.from_numpy(rows).split(batch_size * (context // length))
        costs = [_last_nats(model, ids.to(machine.device), n, machine) for ids in batches]
        losses[length] = torch.cat(costs).double().mean(dim=1).numpy()
    losses[context] = np.stack([nats[end - n : end] for end in ends]).mean(axis=1, dtype=np.float64)
    return losses


def _last_nats(model: GPT, ids: Tensor, n: int, machine: Machine) -> Tensor:
    """Return the nats (B, n) of the last n of ids (B, t + 1), on the CPU."""
    with machine.autocast():
        hidden, _ = model.run_blocks(model.embedding(ids[:, :-1]).to(machine.dtype))
        logits = model.head(hidden[:, -n:])
    return score_targets(logits, ids[:, -n:])[0].cpu()


def compare_contexts(losses: dict[int, Losses], rng: np.random.Generator) -> list[Row]:
    """Return a row per context length: the mean loss, and `more`, the difference to the loss with the whole context.

    The 95% interval of the difference is over windows, paired.

    >>> rows = compare_contexts({8: np.array([3.0, 5.0]), 16: np.array([2.0, 4.0])}, np.random.default_rng(1))
    >>> rows[0]
    {'context': 8, 'fraction': 0.5, 'windows': 2, 'nats_per_token': 4.0, 'more': 1.0, 'more_low': 1.0, 'more_high': 1.0}
    """
    longest = max(losses, default=0)
    return [
        {
            "context": length,
            "fraction": round(length / longest, 5),
            "windows": len(nats),
            "nats_per_token": round(float(nats.mean()), 5),
            **ratio_with_interval("more", nats - losses[longest], np.ones(len(nats)), rng),
        }
        for length, nats in losses.items()
    ]
