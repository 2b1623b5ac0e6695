"""Prompts: beginnings of held-out documents, of the kind of text that the model was trained on."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm.corpus.docstrings import split_entries
from llm.evaluate.params import EvaluateParams
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import read_info, read_stream

N_PROMPTS, PROMPT_CHARS = 5, 80  # of default prompts, at most
MAX_TRIES = 1000  # documents that are read to find prompts that differ
DOCUMENT_TOKENS = 8192  # of each document that are read


def choose_prompts(
    params: EvaluateParams, windows: Path, tokenizer: Tokenizer, seed: int
) -> tuple[str | None, list[str]]:
    """Return the prompts of params, or beginnings of documents of test, else of val, else of train, and their split."""
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

    In documentation these are signatures with the empty line after them, in random order. In any other text they are
    the first line, then first lines of paragraphs in random order; all of the first half, so that there is a true
    continuation to compare with.
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
    """Return the first line with a word in it, with the lines before it and the line breaks after it.

    An unfinished line, or one of more than `max_chars` or `PROMPT_CHARS` characters, is cut.
    """
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
