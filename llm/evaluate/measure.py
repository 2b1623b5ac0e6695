"""Measure one model on one split of held-out text: every figure, as plain values for JSON."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llm.core.device import Machine
from llm.core.tables import read_table
from llm.evaluate import breakdown
from llm.evaluate.bootstrap import Row, calibration, ratio_with_interval
from llm.evaluate.likelihood import Span, plan_document_spans, plan_spans, score_tokens, summarise
from llm.evaluate.params import EvaluateParams
from llm.model.gpt import GPT
from llm.tokens.tokenize import token_lengths
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import WindowsInfo, read_info, read_stream

PLOTS = {
    "position": ("positions", ["from", "to", "targets", "nats_per_token"]),
    "context": ("context", ["context", "fraction", "windows", "nats_per_token", "more", "more_low", "more_high"]),
    "calibration": ("calibration", ["from", "to", "count", "confidence", "accuracy"]),
}
N_EXTREMES, N_BINS = 10, 10
N_WINDOWS = 128  # in which contexts are compared
DOUBLINGS = 4  # from the shortest context to all of it; half of the shortest are the targets at a window's end

Floats = NDArray[np.float64]


class HeldOut(NamedTuple):
    """A split: its token stream (N + 1,), its D documents, and its tokens."""

    name: str
    stream: NDArray[np.integer]
    info: WindowsInfo
    sources: list[str]
    documents: list[str]  # source/path
    n_bytes: NDArray[np.int64]  # (D,), of the prepared text
    token_bytes: NDArray[np.int64]  # (V,), of each token of the vocabulary
    ngram: int
    is_found: NDArray[np.bool_]  # (N + 1,), whether a token lies in an n-gram of `ngram` tokens that train has too


def read_held_out(windows: Path, tokens: Path, tokenizer: Tokenizer, ngram: int) -> list[HeldOut]:
    """Return the splits that have text, val first."""
    info, token_bytes = read_info(windows), token_lengths(tokenizer)
    streams = {split: stream for split in ("val", "test") if len(stream := read_stream(windows, split))}
    found = breakdown.mark_found(read_stream(windows, "train"), list(streams.values()), info.end_of_text, ngram)
    held_out = []
    for (split, stream), is_found in zip(streams.items(), found, strict=True):
        table = read_table(tokens / f"{split}.parquet", ["source", "path", "n_bytes"]).to_pandas()
        documents = [f"{source}/{path}" for source, path in zip(table["source"], table["path"], strict=True)]
        columns = table["source"].tolist(), documents, table["n_bytes"].to_numpy()
        held_out.append(HeldOut(split, stream, info, *columns, token_bytes, ngram, is_found))
    return held_out


def measure(
    model: GPT, text: HeldOut, params: EvaluateParams, machine: Machine, baselines: breakdown.Baselines, seed: int
) -> dict[str, Any]:
    """Score a split once and return its figures; `model` has those that metrics/evaluate.json has too."""
    rng, context, end_of_text = np.random.default_rng(seed), model.config.context_length, text.info.end_of_text
    stride = params.stride_of(context)
    spans = plan_spans(len(text.stream), context, stride)
    if text.info.boundary == "document":  # the model was trained on windows of single documents
        spans = plan_document_spans(text.stream, end_of_text, context, stride)
    scores = score_tokens(model, text.stream, spans, params.batch_size, machine, f"evaluate {text.name}")
    nats, n_tokens = (
        breakdown.sum_by_document(text.stream, end_of_text, of) for of in (scores.nats, np.ones(len(scores.nats)))
    )
    assert len(nats) == len(text.n_bytes), "the stream and the table have different numbers of documents"
    bits, n_bytes = nats / math.log(2), int(text.n_bytes.sum())
    bins, calibration_error = calibration(scores.top_probability, scores.is_top, N_BINS)
    hardest, easiest = breakdown.extremes(text.documents, nats, text.n_bytes, N_EXTREMES)
    windows = choose_windows(spans, context)
    by_context = losses_by_context(model, text.stream, scores.nats, windows, params.batch_size, machine)
    # A generator of its own: other baselines leave all other intervals as they are.
    differences = breakdown.compare_with_baselines(bits, text.n_bytes, baselines, rng.spawn(1)[0])
    summary: Row = {
        **summarise(scores.nats, n_bytes),
        **ratio_with_interval("bits_per_byte", bits, text.n_bytes, rng),
        "accuracy": round(float(scores.is_top.mean()), 5),
        "calibration_error": calibration_error,
        **breakdown.summarise_best(differences, not model.config.is_causal, text.info.lossless),
    }
    # Windows that newly score a target which train has.
    is_in_window = np.logical_or.reduceat(text.is_found[1:], [span.start + span.first for span in spans])
    found = breakdown.split_by_found(scores.nats, text.token_bytes[text.stream[1:]], text.is_found[1:])
    return {
        "documents": len(nats),
        "bytes": n_bytes,
        "model": summary,
        "baselines": differences,  # the best first
        "sources": breakdown.by_source(text.sources, nats, text.n_bytes, n_tokens, rng),
        "positions": breakdown.by_position(scores.position_nats, scores.position_targets),
        "context": compare_contexts(by_context, rng),  # empty where no text is as long as the context
        "calibration": bins,
        "contamination": {"ngram": text.ngram, "window_fraction": round(float(is_in_window.mean()), 5)} | found,
        "hardest": hardest,
        "easiest": easiest,
    }


def choose_windows(spans: list[Span], context_length: int, n: int = N_WINDOWS) -> list[Span]:
    """Return up to n evenly spread windows of the whole context, with as many new targets as are compared."""
    n_new = max(context_length >> DOUBLINGS + 1, 1)
    full = [span for span in spans if span.last == context_length and span.last - span.first >= n_new]
    return [full[i] for i in np.linspace(0, len(full) - 1, min(n, len(full))).round().astype(int)]


def losses_by_context(
    model: GPT,
    stream: NDArray[np.integer],
    nats: NDArray[np.floating],
    windows: list[Span],
    batch_size: int,
    machine: Machine,
) -> dict[int, Floats]:
    """Return the mean loss (W,) of the last targets of W windows by tokens of context, 1/16 to all; {} without windows.

    `nats` (len(stream) - 1,) are the losses with the whole context. The targets are the same, so differences are sharp.
    """
    context = model.config.context_length
    n, ends = max(context >> DOUBLINGS + 1, 1), [span.start + context for span in windows]
    losses = {}
    for length in sorted({max(context >> halvings, 1) for halvings in range(DOUBLINGS + 1)}) if windows else ():
        if length < context:
            spans = [Span(end - length, length - n, length) for end in ends]
            size = batch_size * (context // length)  # a batch has as many tokens as one of whole windows
            scored = score_tokens(model, stream, spans, size, machine, f"{length} tokens of context").nats
        else:
            scored = nats
        losses[length] = np.stack([scored[end - n : end] for end in ends]).mean(axis=1, dtype=np.float64)
    return losses


def compare_contexts(losses: dict[int, Floats], rng: np.random.Generator) -> list[Row]:
    """Return the mean loss by context length, and how much `more` it is than with the whole context, paired."""
    longest = max(losses, default=0)
    rows = []
    for length, nats in losses.items():
        row: Row = {"context": length, "fraction": round(length / longest, 5), "windows": len(nats)}
        row["nats_per_token"] = round(float(nats.mean()), 5)
        rows.append(row | ratio_with_interval("more", nats - losses[longest], np.ones(len(nats)), rng))
    return rows


def summarise_systems(splits: dict[str, dict[str, Any]], quality: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics {split: {system: {metric: value}}} of the model, and of the true text where it generated."""
    metrics: dict[str, Any] = {split: {"model": dict(of["model"])} for split, of in splits.items()}
    if "skipped" in quality:
        return metrics | {"quality": quality}
    systems = metrics[quality["split"]]
    systems["model"] |= quality["model"] | {f"{name}_ratio": value for name, value in quality["ratio"].items()}
    systems["true_text"] = quality["true_text"]
    return metrics


def write_plots(folder: Path, figures: dict[str, Any]) -> None:
    """Write the tables that `dvc plots` draws; without figures they have no rows."""
    folder.mkdir()
    for name, (part, columns) in PLOTS.items():
        rows = pd.DataFrame(figures.get(part, []), columns=columns)
        rows.to_csv(folder / f"{name}.tsv", sep="\t", index=False, lineterminator="\n")
