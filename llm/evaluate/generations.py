"""Prompts from held-out documents, the text that a model generates after them, and its nats token by token."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from llm.core.device import Machine
from llm.core.tables import iterate_rows
from llm.corpus.docstrings import split_entries
from llm.evaluate.likelihood import plan_document_spans, score_tokens
from llm.evaluate.params import EvaluateParams
from llm.model.generate import SamplingParams, generate, greedy, sampler
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import read_info, read_stream

N_PROMPTS, PROMPT_CHARS = 5, 80  # of default prompts, at most
MAX_TRIES = 1000  # documents that are read to find prompts that differ
DOCUMENT_TOKENS = 8192  # of each document that are read
PASSAGE_CHARS = 800  # of a held-out document that are scored token by token
GREEDY = "greedy"


def choose_prompts(
    params: EvaluateParams, windows: Path, tokenizer: Tokenizer, seed: int
) -> tuple[str | None, list[str]]:
    """Return the prompts of params, or beginnings of documents of test, else of val, else of train; and their split."""
    if params.prompts is not None:
        return None, params.prompts
    end_of_text = read_info(windows).end_of_text
    for split in ("test", "val", "train"):
        rng = np.random.default_rng(seed)
        if prompts := sample_beginnings(read_stream(windows, split), end_of_text, tokenizer, rng):
            return split, prompts
    return None, []


def sample_beginnings(
    stream: NDArray[np.integer], end_of_text: int, tokenizer: Tokenizer, rng: np.random.Generator
) -> list[str]:
    """Return up to `N_PROMPTS` different beginnings: one per document, more of each where documents are few."""
    ends = np.flatnonzero(stream == end_of_text)  # before the first document and after each
    first: dict[str, None] = {}
    more: dict[str, None] = {}
    for number in rng.permutation(max(len(ends) - 1, 0))[:MAX_TRIES].tolist():
        begin, end = int(ends[number]) + 1, int(ends[number + 1])
        ids = stream[begin : min(end, begin + DOCUMENT_TOKENS)].tolist()
        found = beginnings(tokenizer.decode(ids).rstrip("\ufffd"), rng)
        first |= dict.fromkeys(found[:1])
        more |= dict.fromkeys(found)
        if len(first) == N_PROMPTS:
            break
    return [*(first | more)][:N_PROMPTS]


def beginnings(document: str, rng: np.random.Generator) -> list[str]:
    """Return up to `N_PROMPTS` texts that a document can be continued after, the preferred one first.

    In documentation these are signatures; in any other text the first line, then first lines of paragraphs of its first
    half, in random order, so that there is a true continuation.
    """
    if entries := split_entries(document):
        fitting = [entry.signature for entry in entries if len(entry.signature) <= PROMPT_CHARS]
        return [f"{fitting[number]}\n\n" for number in rng.permutation(len(fitting))[:N_PROMPTS]]
    half = len(document) // 2
    paragraphs = [found.end() for found in re.finditer(r"(?<!\n)\n{2,}(?=\S)", document[:half])]
    starts = [0, *rng.permutation(paragraphs).astype(int).tolist()][:N_PROMPTS]
    found = [opening(document[start:], half - start) for start in starts]
    return [text for text in found if re.search(r"\w", text)]


def opening(text: str, max_chars: int) -> str:
    """Return the first line with a word in it, with the lines before and the breaks after it, cut to `max_chars`."""
    line = re.match(r"(?:[^\w\n]*\n)*[^\n]*\n+", text)
    max_chars = min(max_chars, PROMPT_CHARS)
    return line[0] if line and len(line[0].rstrip("\n")) <= max_chars else cut_right(text, max_chars)


def cut_right(text: str, max_chars: int) -> str:
    """Return the beginning of a text, up to the end of a word if there is one in its second half.

    >>> cut_right("It was the best of times, it was the worst of times", 32)
    'It was the best of times, it was'
    """
    cut = text[:max_chars].rstrip()
    if text[len(cut) : len(cut) + 1].strip() and len(words := re.split(r"\s+\S*$", cut)[0]) >= max_chars // 2:
        return words
    return cut


def example_of(prompts: list[str]) -> str:
    """Return a text to try the model with: a beginning of the first prompt that a command line can pass."""
    # A command parses a leading dash as an option, and no argument can contain a null character.
    texts = [re.sub(r"^[\s-]+", "", prompt) for prompt in prompts if "\0" not in prompt]
    return next((opening(text, PROMPT_CHARS) for text in texts if re.search(r"\w", text)), "1")


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
    """Return generations and a held-out passage token by token, with the nats of each."""
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
    r"""Return the text of each token; joined, they read as the whole text.

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
    spans = plan_document_spans(stream, end_of_text, context, params.stride_of(context))
    nats = score_tokens(model, stream, spans, params.batch_size, machine, "samples").nats
    ends = np.cumsum([len(text) + 1 for text in texts])
    return [nats[end - len(text) - 1 : end - 1].tolist() for text, end in zip(texts, ends, strict=True)]
