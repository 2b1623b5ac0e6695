"""Measure text quality: continuations of held-out text by the model, beside the true continuations.

    a document   ├── prompt ──┼──── true continuation ────┤├── prompt ──┼── …
    the model    ├── prompt ──┼── its own, drawn ──┤

A document is cut into stretches, and some of all are drawn, so that no text is measured twice. Every figure is computed
alike on both sides, and both continuations of a prompt have as many tokens as the shorter of the two: a document that
ends, or a model that ends its text sooner, shortens both. True continuations have new words and repetitions too, so
that a figure of the model is read beside theirs.

A word is what near duplicates are found by (`llm.corpus.duplicates`), cut at digits and underscores: a number that is
new says nothing. The last word of a continuation may be cut, and is left out; the first one counts whole, with what of
it stands in the prompt. This module does not import torch: `llm.evaluate.samples` generates the texts.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.corpus.duplicates import words_of
from llm.corpus.repetition import RepetitionParams, repetition
from llm.evaluate.bootstrap import Row, ratio_interval
from llm.evaluate.memorization import Ints, document_ends
from llm.evaluate.numpydoc import judge_sections
from llm.tokens.tokenizer import Tokenizer

SHORTEST = 16  # tokens of a true continuation
LEAST_SECTIONS = 20  # in the true continuations: of fewer, a share would say little
MEASURES = {
    "real_words": ("real words", "The share of words that occur in the training text, whatever their case."),
    "distinct_3grams": (
        "distinct 3-grams",
        "Different runs of three words among all of them, over all texts (distinct-3, Li et al. 2016): low where a "
        "model writes the same again and again.",
    ),
    "repetition_flagged": (
        "repetition flagged",
        "The share of texts that repeat lines, paragraphs or n-grams more than Gopher's rules allow.",
    ),
    "sections_parsed": (
        "docstring sections that parse",
        "The share of sections with a title of the numpydoc guide, a line of dashes as long, and entries below it.",
    ),
}


class Stretches(NamedTuple):
    """Where stretches begin in a stream, how many tokens each has, and in which document it lies (B,)."""

    places: Ints
    n_tokens: Ints
    documents: Ints


class Written(NamedTuple):
    """The text of a prompt, and of what follows it."""

    prompt: str
    text: str


def draw_stretches(
    stream: NDArray[np.integer], end_of_text: int, prompt_tokens: int, new_tokens: int, n: int, rng: np.random.Generator
) -> Stretches:
    """Draw up to n stretches of a prompt and new tokens, in random order; none twice, and no two overlap.

    They lie side by side from each document's beginning; the last of a document may be shorter, down to `SHORTEST` new
    tokens. Every one is as likely as any other.

    >>> stream = np.array([0, *range(1, 9), 0, 5, 0])
    >>> [part.tolist() for part in draw_stretches(stream, 0, 2, 1, 9, np.random.default_rng(1))]
    [[1, 4], [3, 3], [0, 0]]
    """
    ends = document_ends(stream, end_of_text)
    lengths, size = np.diff(ends) - 1, prompt_tokens + new_tokens
    per_document = (lengths - prompt_tokens - min(SHORTEST, new_tokens)) // size + 1  # none of a short one
    behind = np.cumsum(np.maximum(per_document, 0))
    drawn = rng.permutation(int(behind[-1]) if len(behind) else 0)[:n]
    documents = np.searchsorted(behind, drawn, side="right")
    offsets = size * (drawn - (behind - np.maximum(per_document, 0))[documents])
    return Stretches(ends[documents] + 1 + offsets, np.minimum(lengths[documents] - offsets, size), documents)


def cut_alike(written: Sequence[int], true: Sequence[int], end_of_text: int) -> tuple[list[int], list[int]]:
    """Cut two continuations to the length of the shorter one; the written one ends before its end of text.

    >>> cut_alike([5, 6, 0, 0], [7, 8, 9], 0)
    ([5, 6], [7, 8])
    """
    own = list(written[: written.index(end_of_text)] if end_of_text in written else written)
    n = min(len(own), len(true))
    return own[:n], list(true[:n])


def decode_after(tokenizer: Tokenizer, prompt: Sequence[int], ids: Sequence[int]) -> Written:
    """Decode ids that follow a prompt; special tokens are left out."""
    special = set(tokenizer.special.values())
    # Of a character that the prompt cuts in two nothing is shown before the whole of it.
    before = tokenizer.decode([id_ for id_ in prompt if id_ not in special]).rstrip("\ufffd")
    both = tokenizer.decode([id_ for id_ in (*prompt, *ids) if id_ not in special])
    return Written(before, both[len(before) :])


def words_written(written: Written) -> list[str]:
    """Return the words of a continuation without the last one; the first one includes its part in the prompt.

    >>> words_written(Written("The arr", "ay of 3 float64 numbers is empt"))
    ['array', 'of', 'float', 'numbers', 'is']
    """
    before, words = words_of(written.prompt), words_of(written.prompt + written.text)
    is_begun = len(before) > 0 and words[len(before) - 1] != before[-1]
    return _cut_at_digits(words[len(before) - is_begun : -1])


def _cut_at_digits(words: Iterable[str]) -> list[str]:
    return [part for word in words for part in re.split(r"[\d_]+", word) if part]


def words_not_in(words: Iterable[str], train: Iterable[str]) -> set[str]:
    """Return the words that occur in no training text; the texts are read until every word was found.

    >>> words_not_in(["river", "rivver"], ["The River_2 runs."])
    {'rivver'}
    """
    left = set(words)
    for text in train:
        left.difference_update(_cut_at_digits(set(words_of(text))))
        if not left:
            break
    return left


def measure_quality(
    model: list[Written], true: list[Written], documents: Ints, train: Iterable[str], rng: np.random.Generator
) -> Row:
    """Compute every figure of both sides (B,) and their ratio, model / true; what cannot be measured is left out.

    Text i is from document `documents[i]` (B,). Intervals are over documents.
    """
    words = [[words_written(text) for text in texts] for texts in (model, true)]
    new = words_not_in((word for texts in words for text in texts for word in text), train)
    own, people = (_figures(texts, of, new, documents, rng) for texts, of in zip((model, true), words, strict=True))
    if people["sections"] < LEAST_SECTIONS:
        own, people = ({name: row[name] for name in row if "sections_parsed" not in name} for row in (own, people))
    ratio = {name: round(own[name] / people[name], 5) for name in MEASURES if name in own and people.get(name)}
    return {"model": own, "true": people, "ratio": ratio}


def few(quality: Row) -> Row:
    """Return the part for the metrics: without the settings and the true continuations' intervals.

    >>> few({"skipped": "no text was held out"})
    {'skipped': 'no text was held out'}
    """
    if "skipped" in quality:
        return quality
    true = {name: quality["true"][name] for name in MEASURES if name in quality["true"]}
    return {key: quality[key] for key in ("split", "texts", "model")} | {"true": true, "ratio": quality["ratio"]}


def _figures(
    texts: list[Written], words: list[list[str]], new: set[str], documents: Ints, rng: np.random.Generator
) -> Row:
    verdicts = [judge_sections(_whole_lines(text)) for text in texts]
    trigrams = [run for of in words for run in zip(of, of[1:], of[2:], strict=False)]
    shares = {
        "real_words": [(sum(word not in new for word in of), len(of)) for of in words],
        "repetition_flagged": [(repetition(of.text, RepetitionParams()) is not None, 1) for of in texts],
        "sections_parsed": [(sum(of), len(of)) for of in verdicts],
    }
    row: Row = {"words": sum(map(len, words)), "sections": sum(map(len, verdicts))}
    if trigrams:
        row["distinct_3grams"] = round(len(set(trigrams)) / len(trigrams), 5)  # a resample of texts would have less
    for name, pairs in shares.items():
        row |= _share(name, np.array(pairs, dtype=np.int64), documents, rng)
    return row


def _whole_lines(written: Written) -> str:
    """Return a continuation without the line that begins in the prompt."""
    return written.text if written.prompt.endswith("\n") else written.text.partition("\n")[2]


def _share(name: str, pairs: NDArray[np.int64], documents: Ints, rng: np.random.Generator) -> Row:
    """Compute the ratio of two counts, pairs (B, 2), with its interval over documents."""
    by_document = np.stack([np.bincount(documents, of) for of in pairs.T], axis=1)
    by_document = by_document[by_document[:, 1] > 0]
    if not len(by_document):
        return {}
    hits, counts = by_document.T
    row: Row = {name: round(float(hits.sum() / counts.sum()), 5)}
    if interval := ratio_interval(hits, counts, rng):
        row |= {f"{name}_low": round(interval[0], 5), f"{name}_high": round(interval[1], 5)}
    return row
