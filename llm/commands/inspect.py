"""Look at a model and its training data: continue a text, list neighbors of a word, show a window."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from llm.core.errors import UserError
from llm.export.hf.base import open_model
from llm.model.embeddings import nearest
from llm.model.generate import generate, greedy, sampler, stream_text
from llm.tokens.show import window_rows
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import read_info, read_windows


def continue_text(
    model: Path,
    tokenizer: Path,
    prompt: str,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float,
    stop: Sequence[str],
    seed: int,
) -> Iterator[str]:
    """Yield the prompt and its continuation in pieces, then a line break."""
    if not all(stop):
        raise UserError("--stop: expected a text, got an empty one")
    gpt, tokens = open_model(model, tokenizer)
    generator = torch.Generator().manual_seed(seed)
    choose = sampler(temperature, top_k, generator, top_p, min_p) if temperature else greedy
    ids = generate(gpt, tokens.prompt(prompt), max_tokens, choose, tokens.eos_ids, repetition_penalty)
    yield prompt
    yield from stream_text(ids, tokens.decode, tuple(stop))
    yield "\n"


def list_neighbors(model: Path, tokenizer: Path, word: str, top: int) -> Iterator[str]:
    """Yield the `top` tokens whose embeddings are nearest to a word's by cosine, with and without a space before it."""
    if not word:
        raise UserError("WORD: expected a text, got an empty one")
    gpt, tokens = open_model(model, tokenizer)
    # Inside a text a word mostly begins with its space: that is another token, with another embedding.
    spellings = [tokens.encode(text) for text in (word, f" {word}")]
    found = list(dict.fromkeys(ids[0] for ids in spellings if len(ids) == 1))
    if not found:
        parts = " ".join(repr(tokens.decode([token])) for token in spellings[0])
        yield f"{word!r} is {len(spellings[0])} tokens: {parts}; the neighbors are of the last one"
        found = spellings[0][-1:]
    for token in found:
        yield f"{tokens.decode([token])!r}, id {token}"
        for other, cosine in nearest(gpt.embedding.weight.detach(), token, top):
            yield f"  {cosine:6.3f}  {tokens.decode([other])!r}"


def show_window(folder: Path, tokenizer: Path, split: str, window: int, n_rows: int) -> Iterator[str]:
    """Yield the first rows of input and target of a window of a split."""
    info, found = read_info(folder), read_windows(folder, split)
    if window >= len(found.starts):
        raise UserError(f"--window: expected less than the {len(found.starts)} windows of {split}, got {window}")
    yield f"{split}: {len(found.starts):,} windows of up to {info.context_length} tokens, stride {info.stride}"
    yield f"window {window} begins at token {found.starts[window]:,} of {len(found.stream):,}"
    yield from window_rows(found, window, n_rows, Tokenizer.load(tokenizer))
