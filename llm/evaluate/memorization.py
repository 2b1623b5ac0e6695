"""Measure memorization: does the model reproduce its training text verbatim?

    draw_positions ──► prefixes of train and of test ──continued greedily──► verbatim_lengths, against the true text
    generated texts ──longest_runs──► the longest run of tokens that each shares with train

Test is the control: text that the model reproduces without having seen it is boilerplate. As in Carlini et al. 2022
(arXiv:2202.07646), a text is memorized if greedy decoding after its own prefix reproduces it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from llm.evaluate.generations import Generation, continue_rows
from llm.evaluate.params import MemoriseParams
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

Stream = NDArray[np.integer]
Ints = NDArray[np.int64]

SHORT, LONG = 25, 50  # tokens verbatim; so many do not occur by chance, and 50 are Carlini et al.'s measure
N_SHOWN = 10  # recalled texts


class Run(NamedTuple):
    """Consecutive tokens that a text and the training stream share: their number, and where they begin in each."""

    length: int
    start: int
    position: int


class Recall(NamedTuple):
    """Positions of prefixes in a stream (B,), their length, and how many tokens after them came back verbatim (B,)."""

    positions: Ints
    prefix_tokens: int
    lengths: Ints

    def hits(self, n_tokens: int = SHORT) -> int:
        """Return after how many prefixes at least so many tokens came back."""
        return int((self.lengths >= n_tokens).sum())

    def metrics(self) -> dict[str, float]:
        """Return fractions of the prefixes; without prefixes there are none."""
        n = len(self.lengths)
        if not n:
            return {"prefixes": 0}
        fractions = {f"verbatim_{n_tokens}": round(self.hits(n_tokens) / n, 5) for n_tokens in (SHORT, LONG)}
        return {"prefixes": n, **fractions, "mean_verbatim_tokens": round(float(self.lengths.mean()), 3)}


def copies(train: Recall, test: Recall) -> bool | None:
    """Return whether more of train than of test comes back, beyond chance; None where one has no prefixes.

    Beyond chance means two standard errors, with a hit and a miss added on either side, for small numbers (Agresti and
    Caffo 2000).
    """
    if not len(train.lengths) or not len(test.lengths):
        return None
    (p, n), (other, other_n) = (((of.hits() + 1) / (len(of.lengths) + 2), len(of.lengths) + 2) for of in (train, test))
    return bool(p - other > 2 * (p * (1 - p) / n + other * (1 - other) / other_n) ** 0.5)


def continue_prefixes(
    model: GPT, stream: Stream, end_of_text: int, params: MemoriseParams, rng: np.random.Generator
) -> Recall:
    """Continue random prefixes of a stream greedily by LONG tokens."""
    n = min(params.prefix_tokens, model.config.context_length)
    positions = draw_positions(stream, end_of_text, n + LONG, params.prefixes, rng)
    if not len(positions):
        return Recall(positions, n, np.zeros(0, dtype=np.int64))
    rows = stream[positions[:, None] + np.arange(n + LONG)].astype(np.int64)
    prefixes = torch.from_numpy(rows[:, :n]).to(model.embedding.weight.device)
    return Recall(positions, n, verbatim_lengths(continue_rows(model, prefixes, LONG).cpu().numpy(), rows[:, n:]))


def draw_positions(stream: Stream, end_of_text: int, length: int, n: int, rng: np.random.Generator) -> Ints:
    """Draw up to n different positions, sorted, each the start of `length` tokens within one document.

    All such positions are equally likely; where there are fewer than n, all are returned.

    >>> draw_positions(np.array([0, 5, 6, 7, 0, 8, 0]), 0, length=2, n=9, rng=np.random.default_rng(1))
    array([1, 2])
    """
    ends = np.flatnonzero(stream == end_of_text)
    n_positions = np.maximum(np.diff(ends) - length, 0)  # of each document
    cumulative = np.cumsum(n_positions)
    drawn = np.sort(rng.choice(total := int(n_positions.sum()), min(n, total), replace=False))
    document = np.searchsorted(cumulative, drawn, side="right")
    return np.asarray(ends[document] + 1 + drawn - (cumulative - n_positions)[document], dtype=np.int64)


def verbatim_lengths(generated: Stream, truth: Stream) -> Ints:
    """Return how many tokens (B,) of each row of `generated` (B, T) equal `truth` (B, T) before the first difference.

    >>> verbatim_lengths(np.array([[1, 2, 3], [9, 2, 3]]), np.array([[1, 2, 4], [1, 2, 3]]))
    array([2, 0])
    """
    return np.cumprod(generated == truth, axis=1, dtype=np.int64).sum(axis=1)


def longest_runs(texts: list[Stream], train: Stream, chunk_tokens: int = 1 << 22) -> list[Run | None]:
    """Return each text's longest run of tokens that the training stream has too; None where no token does.

    Exact. Of runs of one length, it is the first in the stream, then in the text. The stream is read in chunks.

    >>> longest_runs([np.array([7, 1, 2, 9]), np.array([8])], np.array([0, 1, 2, 3, 0, 7, 0]))
    [Run(length=2, start=1, position=1), None]
    """
    runs: list[Run | None] = [None] * len(texts)
    longest = max(map(len, texts), default=0)
    for begin in range(0, len(train) if longest else 0, chunk_tokens):
        chunk = np.asarray(train[begin : begin + chunk_tokens + longest - 1], dtype=np.int64)
        for number, run in _runs_of_chunk(texts, chunk).items():
            best = runs[number]
            if best is None or run.length > best.length:
                runs[number] = run._replace(position=begin + run.position)
    return runs


def _runs_of_chunk(texts: list[Stream], chunk: Ints) -> dict[int, Run]:
    """Return the longest run of each text, by its index, in one chunk of the stream.

    Runs grow by a token per round. Only starts in texts and chunk whose n tokens occur in both are kept, each with the
    index of its n-gram.
    """
    joined = np.concatenate([np.asarray(text, dtype=np.int64) for text in texts])
    lengths = np.array([len(text) for text in texts])
    owner, begins = np.repeat(np.arange(len(texts)), lengths), np.cumsum(lengths) - lengths
    text_ends = np.repeat(begins + lengths, lengths)
    base = 1 + int(max(joined.max(), chunk.max()))
    starts, grams = np.arange(len(joined)), np.zeros(len(joined), dtype=np.int64)
    positions, chunk_grams = np.arange(len(chunk)), np.zeros(len(chunk), dtype=np.int64)
    runs: dict[int, Run] = {}
    for n in range(1, int(lengths.max()) + 1):
        fits = starts + n <= text_ends[starts]
        starts = starts[fits]
        keys, grams = np.unique(grams[fits] * base + joined[starts + n - 1], return_inverse=True)
        if not len(keys):
            break
        fits = positions + n <= len(chunk)
        positions = positions[fits]
        searched = chunk_grams[fits] * base + chunk[positions + n - 1]
        found = np.searchsorted(keys, searched).clip(max=len(keys) - 1)
        is_common = keys[found] == searched
        positions, chunk_grams = positions[is_common], found[is_common]
        first = np.full(len(keys), len(chunk))
        np.minimum.at(first, chunk_grams, positions)
        in_chunk = first[grams] < len(chunk)
        starts, grams = starts[in_chunk], grams[in_chunk]
        order = np.lexsort((starts, first[grams], owner[starts]))
        numbers, at = np.unique(owner[starts][order], return_index=True)
        for number, chosen in zip(numbers.tolist(), order[at], strict=True):
            runs[number] = Run(n, int(starts[chosen] - begins[number]), int(first[grams[chosen]]))
    return runs


def run_metrics(runs: list[Run | None]) -> dict[str, float]:
    """Return figures of the longest runs of texts; `copied` texts have one of SHORT tokens or more."""
    lengths = [run.length if run else 0 for run in runs]
    if not lengths:
        return {"texts": 0}
    copied = sum(length >= SHORT for length in lengths)
    return {"texts": len(runs), "median_run": float(np.median(lengths)), "longest_run": max(lengths), "copied": copied}


def search_generations(
    generations: list[Generation], train: Stream, test: Stream, draws: Ints, n_tokens: int
) -> tuple[list[Run | None], dict[str, Any]]:
    """Return each generation's longest run in train; and figures, beside those of passages of test from `draws`."""
    texts = [np.array(generation.ids, dtype=np.int64) for generation in generations]
    runs = longest_runs([*texts, *(test[at : at + n_tokens] for at in draws)], train)
    own, true = runs[: len(texts)], runs[len(texts) :]
    return own, {"model": run_metrics(own), "true_text": run_metrics(true)}


def describe_copies(
    recall: Recall,
    generations: list[Generation],
    runs: list[Run | None],
    train: Stream,
    ends: Ints,
    paths: Sequence[str],
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """Return the longest recalled texts of train, and the longest run of each generation, with their documents."""

    def place(position: int, length: int) -> dict[str, Any]:
        text = tokenizer.decode(train[position : position + length].tolist())
        return {"tokens": length, "document": paths[int(np.searchsorted(ends, position)) - 1], "text": text}

    best = [i for i in np.argsort(-recall.lengths, kind="stable")[:N_SHOWN] if recall.lengths[i] >= SHORT]
    return {
        "recalled": [place(int(recall.positions[i]) + recall.prefix_tokens, int(recall.lengths[i])) for i in best],
        "samples": [
            {
                "prompt": generation.prompt,
                "method": generation.method,
                "tokens": len(generation.ids),
                "run": place(run.position, run.length) if run else None,
            }
            for generation, run in zip(generations, runs, strict=True)
        ],
    }
