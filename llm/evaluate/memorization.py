"""Measure memorization: how much of its training text the model reproduces verbatim.

As in Carlini et al. 2022 (arXiv:2202.07646), a text is memorized if greedy decoding after its own prefix reproduces it.
Test is the control: text that the model reproduces without having seen it is boilerplate.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from llm.evaluate.breakdown import Ints, find_document
from llm.evaluate.generations import Generation
from llm.evaluate.params import MemoriseParams
from llm.model.generate import generate_batch
from llm.model.gpt import GPT

Stream = NDArray[np.integer]
Locate = Callable[[int, int], dict[str, Any]]  # what to show of a position in train and a number of tokens

SHORT, LONG = 25, 50  # verbatim tokens; 25 rarely match by chance, 50 is the threshold of Carlini et al.
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

    def metrics(self) -> dict[str, float]:
        """Return fractions of the prefixes; without prefixes there are none."""
        if not len(self.lengths):
            return {"prefixes": 0}
        fractions = {f"verbatim_{n}": round(float((self.lengths >= n).mean()), 5) for n in (SHORT, LONG)}
        mean = round(float(self.lengths.mean()), 3)
        return {"prefixes": len(self.lengths), **fractions, "mean_verbatim_tokens": mean}

    def longest(self, locate: Locate) -> list[dict[str, Any]]:
        """Return the longest texts of SHORT tokens or more that came back, the longest first."""
        best = [i for i in np.argsort(-self.lengths, kind="stable")[:N_SHOWN] if self.lengths[i] >= SHORT]
        return [locate(int(self.positions[i]) + self.prefix_tokens, int(self.lengths[i])) for i in best]


def copies(train: Recall, test: Recall) -> bool | None:
    """Return whether more of train than of test comes back, beyond chance; None where one has no prefixes.

    Beyond chance: by two standard errors, with a hit and a miss added on either side (Agresti and Caffo 2000).
    """
    if not len(train.lengths) or not len(test.lengths):
        return None
    (p, n), (other, other_n) = (
        (((of.lengths >= SHORT).sum() + 1) / (len(of.lengths) + 2), len(of.lengths) + 2) for of in (train, test)
    )
    return bool(p - other > 2 * (p * (1 - p) / n + other * (1 - other) / other_n) ** 0.5)


def continue_prefixes(
    model: GPT, stream: Stream, end_of_text: int, params: MemoriseParams, rng: np.random.Generator
) -> Recall:
    """Continue random prefixes of a stream greedily by LONG tokens."""
    n = params.prefix_tokens_of(model.config.context_length)
    positions = sample_positions(stream, end_of_text, n + LONG, params.prefixes, rng)
    if not len(positions):
        return Recall(positions, n, positions)
    texts = stream[positions[:, None] + np.arange(n + LONG)].astype(np.int64)
    prefixes = torch.from_numpy(texts[:, :n]).to(model.embedding.weight.device)
    is_same = generate_batch(model, prefixes, LONG).cpu().numpy() == texts[:, n:]
    # Tokens before the first difference.
    return Recall(positions, n, np.cumprod(is_same, axis=1, dtype=np.int64).sum(axis=1))


def sample_positions(stream: Stream, end_of_text: int, length: int, n: int, rng: np.random.Generator) -> Ints:
    """Sample up to n equally likely positions, sorted, each the start of `length` tokens within one document."""
    ends = np.flatnonzero(stream == end_of_text)
    n_positions = np.maximum(np.diff(ends) - length, 0)  # of each document
    sampled = np.sort(rng.choice(total := int(n_positions.sum()), min(n, total), replace=False))
    document, offset = find_document(n_positions, sampled)
    return ends[document] + 1 + offset


def longest_runs(texts: list[Stream], train: Stream, chunk_tokens: int = 1 << 22) -> list[Run | None]:
    """Return each text's longest run of tokens that the training stream has too, the first one; None without one."""
    best: dict[int, Run] = {}
    longest = max(map(len, texts), default=0)
    for begin in range(0, len(train) if longest else 0, chunk_tokens):
        for number, run in _runs_of_chunk(texts, train[begin : begin + chunk_tokens + longest - 1]).items():
            if number not in best or run.length > best[number].length:
                best[number] = run._replace(position=begin + run.position)
    return [best.get(number) for number in range(len(texts))]


def _runs_of_chunk(texts: list[Stream], train: Stream) -> dict[int, Run]:
    """Return the longest run of each text, by its index, in one chunk of the stream.

    Runs grow by a token per round: only starts whose n tokens occur in both are kept, with the index of their n-gram.
    """
    # 0 ends each text and 1 the chunk: neither occurs in the other, so no run crosses them.
    joined = np.concatenate([np.append(np.asarray(text, dtype=np.int64) + 2, 0) for text in texts])
    chunk = np.append(np.asarray(train, dtype=np.int64) + 2, 1)
    lengths = np.array([len(text) + 1 for text in texts])
    owner, begins = np.repeat(np.arange(len(texts)), lengths), np.cumsum(lengths) - lengths
    base = 1 + int(max(joined.max(), chunk.max()))
    starts, grams = np.arange(len(joined)), np.zeros(len(joined), dtype=np.int64)
    positions, chunk_grams = np.arange(len(chunk)), np.zeros(len(chunk), dtype=np.int64)
    runs: dict[int, Run] = {}
    for n in range(1, int(lengths.max())):
        keys, grams = np.unique(grams * base + joined[starts + n - 1], return_inverse=True)
        searched = chunk_grams * base + chunk[positions + n - 1]
        found = np.searchsorted(keys, searched).clip(max=len(keys) - 1)
        is_common = keys[found] == searched
        positions, chunk_grams = positions[is_common], found[is_common]
        first = np.full(len(keys), len(chunk))
        np.minimum.at(first, chunk_grams, positions)
        in_chunk = first[grams] < len(chunk)
        starts, grams = starts[in_chunk], grams[in_chunk]
        if not len(starts):
            break
        order = np.lexsort((starts, first[grams], owner[starts]))
        numbers, at = np.unique(owner[starts][order], return_index=True)
        for number, chosen in zip(numbers.tolist(), order[at], strict=True):
            runs[number] = Run(n, int(starts[chosen] - begins[number]), int(first[grams[chosen]]))
    return runs


def run_metrics(runs: list[Run | None]) -> dict[str, float]:
    """Return figures of the longest runs of texts; `copied` texts have one of SHORT tokens or more."""
    if not runs:
        return {"texts": 0}
    lengths = np.array([run.length if run else 0 for run in runs])
    found = {"texts": len(runs), "median_run": float(np.median(lengths)), "longest_run": int(lengths.max())}
    return found | {"copied": int((lengths >= SHORT).sum())}


def search_generations(
    generations: list[Generation], train: Stream, passages: list[Stream], locate: Locate
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return figures of the longest runs in train, by system, and each generation's run. Passages are true text."""
    runs = longest_runs([*(np.array(generation.ids, dtype=np.int64) for generation in generations), *passages], train)
    samples = [
        {"prompt": prompt, "method": method, "tokens": len(ids)}
        | {"run": locate(run.position, run.length) if run else None}
        for (prompt, method, ids), run in zip(generations, runs, strict=False)
    ]
    return {"model": run_metrics(runs[: len(samples)]), "true_text": run_metrics(runs[len(samples) :])}, samples
