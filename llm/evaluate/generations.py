"""Generate text after a few prompts, and score texts token by token."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from llm.core.device import Machine
from llm.core.tables import iterate_rows
from llm.evaluate.likelihood import plan_document_spans, score_tokens
from llm.evaluate.params import EvaluateParams
from llm.model.generate import SamplingParams, generate, greedy, sampler
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

PASSAGE_CHARS = 800  # of a held-out document that are scored token by token
GREEDY = "greedy"


class Generation(NamedTuple):
    """The token ids that were generated after a prompt, and how they were chosen."""

    prompt: str
    method: str
    ids: list[int]


def generate_samples(
    model: GPT, tokenizer: Tokenizer, prompts: list[str], params: EvaluateParams, seed: int
) -> list[Generation]:
    """Continue every prompt twice, greedily and by sampling."""
    found = []
    sampling = SamplingParams(params.temperature, params.top_k)
    for number, prompt in enumerate(prompts):
        ids = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
        sample = sampler(sampling, torch.Generator().manual_seed(seed + number))
        for method, choose in ((GREEDY, greedy), (f"temperature {params.temperature}, top {params.top_k}", sample)):
            new = generate(model, ids, params.sample_tokens, choose, stop=frozenset({tokenizer.end_of_text}))
            found.append(Generation(prompt, method, list(new)))
    return found


def describe_samples(
    model: GPT,
    tokenizer: Tokenizer,
    generations: list[Generation],
    passage: dict[str, str] | None,
    params: EvaluateParams,
    machine: Machine,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Return generations and a held-out passage token by token, with the nats of each.

    The first `prompt_tokens` are the prompt's; `ended` says whether the model generated an end of text.
    """
    prompts = [tokenizer.encode(generation.prompt) for generation in generations]
    texts = [[*prompt, *generation.ids] for prompt, generation in zip(prompts, generations, strict=True)]
    texts += [tokenizer.encode(passage["text"])] if passage else []
    nats = text_nats(model, texts, tokenizer.end_of_text, params, machine)
    tokens: list[dict[str, Any]] = [
        {"tokens": spell(tokenizer, ids), "nats": [round(value, 5) for value in values]}
        for ids, values in zip(texts, nats, strict=True)
    ]
    samples = [
        {"prompt": prompt, "text": tokenizer.decode(ids), "method": method, "greedy": method == GREEDY}
        | {"ended": len(ids) < params.sample_tokens, "prompt_tokens": len(of["tokens"]) - len(ids), **of}
        for (prompt, method, ids), of in zip(generations, tokens, strict=False)
    ]
    return samples, passage | tokens[-1] if passage else None


def read_passage(corpus: Path, splits: list[str]) -> dict[str, str] | None:
    """Return the first lines of the first document of the last split that fills a passage, else of the longest."""
    best = {"path": "", "text": ""}
    for row in iterate_rows(corpus / f"{splits[-1]}.parquet", ["path", "text"]) if splits else ():
        best = row if len(row["text"]) > len(best["text"]) else best
        if len(best["text"]) >= PASSAGE_CHARS:
            break
    text = best["text"][:PASSAGE_CHARS]
    lines, line_break, _ = text.rpartition("\n")
    return {"split": splits[-1], "document": best["path"], "text": lines + line_break or text} if splits else None


def spell(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    r"""Return the text of each token, so that they can be read one by one; joined, they read as the whole text.

    Bytes of an incomplete character are written as \xc3, control characters other than tabs and line breaks likewise.
    A space that the decoder adds before a token belongs to that token.

    >>> from llm.tokens.bpe import train_bpe
    >>> from llm.tokens.tokenizer import PATTERNS, TiktokenTokenizer
    >>> tokenizer = TiktokenTokenizer(train_bpe(["hi hi"], 263), PATTERNS["qwen2"])
    >>> spell(tokenizer, tokenizer.encode("hi\tö\0"))
    ['hi', '\t', '\\xc3', '\\xb6', '\\x00']
    """
    bare = [tokenizer.token_bytes(token).decode("utf-8", errors="backslashreplace") for token in ids]
    pieces = bare[:1]
    for at in range(1, len(ids)):
        is_spaced = tokenizer.decode(ids[at - 1 : at + 1]) == f"{bare[at - 1]} {bare[at]}"
        pieces.append(f" {bare[at]}" if is_spaced else bare[at])
    return [
        "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text) for text in pieces
    ]


def text_nats(
    model: GPT, texts: list[list[int]], end_of_text: int, params: EvaluateParams, machine: Machine
) -> list[list[float]]:
    """Return the nats of every token of every text, each text after the end of text alone."""
    stream = np.array([end_of_text, *(token for text in texts for token in (*text, end_of_text))], dtype=np.int64)
    context = model.config.context_length
    spans = plan_document_spans(stream, end_of_text, context, min(params.stride, context))
    nats = score_tokens(model, stream, spans, params.batch_size, machine, "samples").nats
    ends = np.cumsum([len(text) + 1 for text in texts])
    return [nats[end - len(text) - 1 : end - 1].tolist() for text, end in zip(texts, ends, strict=True)]
