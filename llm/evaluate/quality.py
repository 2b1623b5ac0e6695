"""Measure text quality: the model's continuations of held-out text beside the true ones.

Both continuations of a prompt have as many tokens as the shorter of the two. True continuations have new words and
repetitions too, so the model's figures are read beside theirs. Words are those of `llm.corpus.duplicates`, split at
digits and underscores: a new number means nothing.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from llm.corpus.duplicates import words_of
from llm.corpus.repetition import RepetitionParams, repetition
from llm.evaluate.bootstrap import Row, ratio_with_interval
from llm.evaluate.breakdown import Ints, find_document
from llm.evaluate.measure import HeldOut
from llm.evaluate.numpydoc import validate_sections
from llm.evaluate.params import QualityParams
from llm.model.generate import batch_sampler, generate_batch
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

MIN_TOKENS = 16  # of a true continuation
MIN_SECTIONS = 20  # in the true continuations; a fraction of fewer would mean little
N_SHOWN = 20
MEASURES = ("real_words", "distinct_3grams", "repetition_flagged", "sections_parsed")


class Continuation(NamedTuple):
    """The text of a prompt, and of its continuation."""

    prompt: str
    text: str


def measure_quality(
    model: GPT, tokenizer: Tokenizer, held_out: list[HeldOut], params: QualityParams, train: Iterable[str], seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Continue passages of the last split; return figures, or {"skipped": reason}, and the first continuations."""
    n_prompt, rng = params.prompt_tokens_of(model.config.context_length), np.random.default_rng(seed)
    if not params.texts:
        return {"skipped": "evaluate.quality.texts is 0"}, []
    if reason := model.config.non_causal_reason:
        return {"skipped": reason}, []
    if not held_out:
        return {"skipped": "no text was held out"}, []
    text, end_of_text = held_out[-1], held_out[-1].info.end_of_text
    positions, n_tokens, documents = sample_passages(
        text.stream, end_of_text, n_prompt, params.new_tokens, params.texts, rng
    )
    if not len(positions):
        least = n_prompt + min(MIN_TOKENS, params.new_tokens)
        reason = f"no document of {text.name} has {least} tokens (evaluate.quality.prompt_tokens is {n_prompt})"
        return {"skipped": reason}, []
    prompts = text.stream[positions[:, None] + np.arange(n_prompt)].tolist()
    true = [text.stream[at + n_prompt : at + n].tolist() for at, n in zip(positions, n_tokens, strict=True)]
    own = _continue(model, prompts, end_of_text, params, seed)
    lengths = np.minimum([*map(len, own)], [*map(len, true)])
    model_side, true_side = (
        [decode_after(tokenizer, prompt, new[:n]) for prompt, new, n in zip(prompts, side, lengths, strict=True)]
        for side in (own, true)
    )
    figures = {
        "split": text.name,
        "prompt_tokens": n_prompt,
        "new_tokens": params.new_tokens,
        "mean_tokens": round(float(lengths.mean()), 2),
        "ended_sooner": round(float((lengths < [*map(len, true)]).mean()), 5),
        "temperature": params.temperature,
        **compare_sides(model_side, true_side, documents, train, rng),
    }
    begins = np.flatnonzero(text.stream == end_of_text)[documents] + 1
    places = zip(documents, (positions - begins).tolist(), prompts, own[:N_SHOWN], strict=False)
    return figures, [
        {"document": text.documents[document], "token": at, **decode_after(tokenizer, prompt, new)._asdict()}
        for document, at, prompt, new in places
    ]


def _continue(
    model: GPT, prompts: list[list[int]], end_of_text: int, params: QualityParams, seed: int
) -> list[list[int]]:
    sample = batch_sampler(params.temperature, torch.Generator().manual_seed(seed))
    batch = torch.tensor(prompts, device=model.embedding.weight.device)
    generated = generate_batch(model, batch, params.new_tokens, sample, stop=end_of_text).tolist()
    return [new[: new.index(end_of_text)] if end_of_text in new else new for new in generated]


def sample_passages(
    stream: NDArray[np.integer], end_of_text: int, prompt_tokens: int, new_tokens: int, n: int, rng: np.random.Generator
) -> tuple[Ints, Ints, Ints]:
    """Sample up to n passages in random order; return positions, lengths and documents, all (B,).

    All are equally likely. They lie side by side in documents; the last may have down to `MIN_TOKENS` new tokens.
    """
    ends = np.flatnonzero(stream == end_of_text)
    lengths, size = np.diff(ends) - 1, prompt_tokens + new_tokens
    # A document that is too short would have a negative number.
    n_passages = np.maximum((lengths - prompt_tokens - min(MIN_TOKENS, new_tokens)) // size + 1, 0)
    documents, numbers = find_document(n_passages, rng.permutation(int(n_passages.sum()))[:n])
    offsets = size * numbers
    return ends[documents] + 1 + offsets, np.minimum(lengths[documents] - offsets, size), documents


def decode_after(tokenizer: Tokenizer, prompt: Sequence[int], ids: Sequence[int]) -> Continuation:
    """Decode ids after a prompt, without special tokens; a character that the prompt cuts belongs to the text."""
    special = set(tokenizer.special.values())
    before = tokenizer.decode([id_ for id_ in prompt if id_ not in special]).rstrip("\ufffd")
    both = tokenizer.decode([id_ for id_ in (*prompt, *ids) if id_ not in special])
    return Continuation(before, both[len(before) :])


def words_written(continuation: Continuation) -> list[str]:
    """Return the words of a continuation; the first has its part in the prompt, the last may be cut and is left out.

    >>> words_written(Continuation("The arr", "ay of 3 float64 numbers is empt"))
    ['array', 'of', 'float', 'numbers', 'is']
    """
    before, words = words_of(continuation.prompt), words_of("".join(continuation))
    is_begun = len(before) > 0 and words[len(before) - 1] != before[-1]
    return _split_at_digits(words[len(before) - is_begun : -1])


def _split_at_digits(words: Iterable[str]) -> list[str]:
    return [part for word in words for part in re.split(r"[\d_]+", word) if part]


def words_not_in(words: Iterable[str], train: Iterable[str]) -> set[str]:
    """Return the words that occur in no training text; texts are read until every word is found."""
    left = set(words)
    for text in train:
        left.difference_update(_split_at_digits(set(words_of(text))))
        if not left:
            break
    return left


def compare_sides(
    model: list[Continuation], true: list[Continuation], documents: Ints, train: Iterable[str], rng: np.random.Generator
) -> dict[str, Row]:
    """Return every figure of both sides (B,), and their ratio, with intervals over `documents` (B,)."""
    sides = [model, true]
    words = [[words_written(text) for text in texts] for texts in sides]
    new = words_not_in(chain.from_iterable(chain(*words)), train)
    own, people = (_figures(texts, of, new, documents, rng) for texts, of in zip(sides, words, strict=True))
    if people["sections"] < MIN_SECTIONS:
        own, people = ({name: row[name] for name in row if "sections_parsed" not in name} for row in (own, people))
    return {"model": own, "true_text": people, "ratio": _ratios(own, people)}


def _ratios(own: Row, people: Row) -> Row:
    return {name: round(own[name] / people[name], 5) for name in MEASURES if name in own and people.get(name)}


def _figures(
    texts: list[Continuation], words: list[list[str]], new: set[str], documents: Ints, rng: np.random.Generator
) -> Row:
    verdicts = [_validate(text) for text in texts]
    trigrams = [run for of in words for run in zip(of, of[1:], of[2:], strict=False)]
    row: Row = {"texts": len(texts), "words": sum(map(len, words)), "sections": sum(map(len, verdicts))}
    if trigrams:
        row["distinct_3grams"] = round(len(set(trigrams)) / len(trigrams), 5)  # a resample of texts would have fewer
    flagged = [int(repetition(text.text, RepetitionParams()) is not None) for text in texts]
    fractions: dict[str, tuple[list[int], list[int]]] = {
        "real_words": ([len(of) - sum(map(new.__contains__, of)) for of in words], [*map(len, words)]),
        "repetition_flagged": (flagged, [1] * len(texts)),
        "sections_parsed": ([*map(sum, verdicts)], [*map(len, verdicts)]),
    }
    for name, pair in fractions.items():
        hits, counts = (np.bincount(documents, weights=of) for of in pair)
        if counts.any():
            row |= ratio_with_interval(name, hits[counts > 0], counts[counts > 0], rng)
    return row


def _validate(text: Continuation) -> list[bool]:
    # In the line that begins in the prompt a title may be cut.
    return validate_sections(text.text if text.prompt.endswith("\n") else text.text.partition("\n")[2])
