"""One split of held-out text, scored by one model → every figure of it, as plain values ready for a JSON.

stream, spans ──one pass over the model──► Scores ──► the sum, by document and source, by place, calibration
                                                  └─ with the tokens that train has too ──► contamination
a few windows ──cut short──► what context is worth
"""

import math
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from llm.core.device import Machine
from llm.evaluate.bootstrap import Row, calibration, ratio_with_interval
from llm.evaluate.breakdown import by_place, by_source, extremes, sum_by_document
from llm.evaluate.context import choose_windows, compare_contexts, losses_by_context
from llm.evaluate.difference import Baselines, compare_with_baselines, summarise_best
from llm.evaluate.likelihood import Span, score_tokens, summarise
from llm.evaluate.overlap import with_and_without
from llm.model.gpt import GPT

N_EXTREMES, N_BINS = 10, 10


class HeldOut(NamedTuple):
    """A split: its token stream (N + 1,), and what is known of its D documents and of its tokens."""

    name: str
    stream: NDArray[np.integer]
    end_of_text: int
    sources: list[str]
    paths: list[str]
    n_bytes: NDArray[np.int64]  # (D,), of the prepared text
    token_bytes: NDArray[np.int64]  # (V,), of each token of the vocabulary
    ngram: int
    is_found: NDArray[np.bool_]  # (N + 1,), whether a token lies in an n-gram of so many tokens that train has too


class Figures(TypedDict):
    """All that is known of a split."""

    documents: int
    bytes: int
    summary: dict[str, Any]  # as in metrics/evaluate.json
    baselines: list[Row]  # the model beside each, the best first
    sources: list[Row]
    positions: list[Row]
    context: list[Row]  # empty where no text was as long as the context
    calibration: list[Row]
    contamination: dict[str, Any]
    hardest: list[Row]
    easiest: list[Row]
    quality: NotRequired[Row]  # text quality; present for the split whose texts the model continues


def measure(
    model: GPT,
    text: HeldOut,
    spans: list[Span],
    batch_size: int,
    machine: Machine,
    rng: np.random.Generator,
    baselines: Baselines,
) -> Figures:
    """Score a split once and tell its parts apart; `spans` are windows that score each of its targets once."""
    scores = score_tokens(model, text.stream, spans, batch_size, machine, f"evaluate {text.name}")
    nats = sum_by_document(text.stream, text.end_of_text, scores.nats)  # (D,)
    n_tokens = sum_by_document(text.stream, text.end_of_text, np.ones(len(scores.nats))).astype(np.int64)
    assert len(nats) == len(text.n_bytes), "another number of documents in the stream than in the table"
    bins, calibration_error = calibration(scores.top_probability, scores.is_top, N_BINS)
    names = [f"{source}/{path}" for source, path in zip(text.sources, text.paths, strict=True)]
    hardest, easiest = extremes(names, nats, text.n_bytes, N_EXTREMES)
    windows = choose_windows(spans, model.config.context_length)
    by_context = losses_by_context(model, text.stream, scores.nats, windows, batch_size, machine)
    # Draws of its own: with other baselines, all other intervals stay as they are.
    beside = compare_with_baselines(nats / math.log(2), text.n_bytes, baselines, rng.spawn(1)[0])
    return {
        "documents": len(nats),
        "bytes": int(text.n_bytes.sum()),
        "summary": {
            **summarise(scores.nats, int(text.n_bytes.sum())),
            **ratio_with_interval("bits_per_byte", nats / math.log(2), text.n_bytes, rng),
            "accuracy": round(float(scores.is_top.mean()), 5),
            "calibration_error": calibration_error,
            **summarise_best(beside, baselines.not_valid),
        },
        "baselines": beside,
        "sources": by_source(text.sources, nats, text.n_bytes, n_tokens, rng),
        "positions": by_place(scores.position_nats, scores.position_targets),
        "context": compare_contexts(by_context, rng),
        "calibration": bins,
        "contamination": {
            "ngram": text.ngram,
            "window_share": _window_share(spans, text.is_found),
            **with_and_without(scores.nats, text.token_bytes[text.stream[1:]], text.is_found[1:]),
        },
        "hardest": hardest,
        "easiest": easiest,
    }


def _window_share(spans: list[Span], is_found: NDArray[np.bool_]) -> float:
    """The share of windows of which a newly scored target was found in train."""
    begins = [span.start + span.first for span in spans]
    return round(float(np.logical_or.reduceat(is_found[1:], begins).mean()), 5)
