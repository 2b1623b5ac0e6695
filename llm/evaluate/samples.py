"""What the model writes: after a few prompts, as text to be read side by side, and after many prefixes at once."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm.evaluate.params import EvaluateParams
from llm.model.generate import generate, greedy, sampler
from llm.model.gpt import GPT, Past
from llm.text.tokenizer import Tokenizer
from llm.text.windows import read_info, read_stream

ROWS = 256  # that are continued at once, so that memory does not grow with their number
N_PROMPTS, PROMPT_CHARS, PROMPT_TOKENS = 5, 32, 64  # of prompts that are beginnings of documents, at most
MAX_TRIES = 1000  # documents that are looked at for prompts that differ


class Sample(NamedTuple):
    """What was written after a prompt, and how its tokens were chosen."""

    prompt: str
    way: str
    ids: list[int]


def with_prompts(params: EvaluateParams, windows: Path, tokenizer: Tokenizer, seed: int) -> EvaluateParams:
    """Return params that have prompts: by default beginnings of documents of test, else of val, else of train."""
    if params.prompts is not None:
        return params
    end_of_text = read_info(windows).end_of_text
    for split in ("test", "val", "train"):
        rng = np.random.default_rng(seed)
        if prompts := draw_beginnings(read_stream(windows, split), end_of_text, tokenizer, rng):
            break
    return params.model_copy(update={"prompts": prompts})


def draw_beginnings(
    stream: NDArray[np.integer], end_of_text: int, tokenizer: Tokenizer, rng: np.random.Generator
) -> list[str]:
    """Return how some documents of a stream begin: up to `PROMPT_CHARS` characters, and at most half of a document."""
    ends = np.flatnonzero(stream == end_of_text)  # before the first document and after each
    beginnings: dict[str, None] = {}
    for number in rng.permutation(max(len(ends) - 1, 0))[:MAX_TRIES].tolist():
        begin, length = int(ends[number]) + 1, int(ends[number + 1] - ends[number] - 1)
        text = cut_right(tokenizer.decode(stream[begin : begin + min(length // 2, PROMPT_TOKENS)].tolist()))
        if re.search(r"\w", text):
            beginnings[text] = None
        if len(beginnings) == N_PROMPTS:
            break
    return [*beginnings]


def cut_right(text: str) -> str:
    """Return the beginning of a text, up to the end of a word where there is one.

    >>> cut_right("It was the best of times, it was the worst of times")
    'It was the best of times, it was'
    >>> cut_right("short ")
    'short'
    """
    text = text.rstrip("\ufffd")
    cut = text[:PROMPT_CHARS].rstrip()
    if text[len(cut) : len(cut) + 1].strip() and len(words := re.split(r"\s+\S*$", cut)[0]) >= PROMPT_CHARS // 2:
        return words
    return cut


def example_of(params: EvaluateParams) -> str:
    """Return a line to try the model with: of the first prompt that a command line and a page of Markdown take."""
    lines = [line.strip() for prompt in params.prompts or [] for line in prompt.splitlines()]
    fit = [line for line in lines if re.search(r"\w", line) and not line.startswith("-") and "`" not in line]
    return next(iter(fit), "1")


def draw_samples(model: GPT, tokenizer: Tokenizer, params: EvaluateParams, seed: int) -> list[Sample]:
    """Two continuations of every prompt. The same model, params and seed give the same ones."""
    samples = []
    for number, prompt in enumerate(params.prompts or []):
        ids = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
        drawn = sampler(params.temperature, params.top_k, torch.Generator().manual_seed(seed + number))
        ways = {"greedy": greedy, f"temperature {params.temperature}, top {params.top_k}": drawn}
        for way, choose in ways.items():
            new = generate(model, ids, params.sample_tokens, choose, stop=frozenset({tokenizer.end_of_text}))
            samples.append(Sample(prompt, way, list(new)))
    return samples


def write_samples(model: GPT, tokenizer: Tokenizer, params: EvaluateParams, seed: int) -> str:
    """The samples as Markdown."""
    parts = ["# Samples", "", f"Up to {params.sample_tokens} tokens after each prompt (marked by │)."]
    for prompt, way, ids in draw_samples(model, tokenizer, params, seed):
        parts += _section(f"{_in_line(prompt)}, {way}", f"{prompt}│{tokenizer.decode(ids)}")
    return "\n".join(parts) + "\n"


def write_continuations(opening: str, texts: Iterable[tuple[str, str, str]]) -> str:
    """Return continuations as Markdown: where each prompt stands, the prompt and what was written after it."""
    parts = ["# Continuations", "", opening]
    for number, (place, prompt, written) in enumerate(texts, start=1):
        parts += _section(f"{number}: {_in_line(place)}", f"{prompt}│{written}")
    return "\n".join(parts) + "\n"


def _section(title: str, text: str) -> list[str]:
    fence = _longer_than("`" * 3, text)
    return ["", f"## {title}", "", f"{fence}text", text, fence]


def _in_line(text: str) -> str:
    """Return a text as code on one line of Markdown."""
    shown = " ".join(text.split())
    quotes = _longer_than("", shown)
    space = " " if "`" in shown else ""
    return f"{quotes}{space}{shown}{space}{quotes}"


def _longer_than(least: str, text: str) -> str:
    """Return backticks, more of them in a row than in a text and than in `least`."""
    return "`" * (1 + max(len(run) for run in (least, *re.findall("`+", text))))


def likeliest(logits: Tensor) -> Tensor:
    """Return the likeliest id of each row of logits (B, V): (B, 1)."""
    return logits.argmax(dim=-1, keepdim=True)


def row_sampler(temperature: float, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Return a chooser that draws an id for each row of logits (B, V) in proportion to the likelihood."""

    def choose(logits: Tensor) -> Tensor:
        # One number a row and a look-up, where torch.multinomial draws V numbers.
        sums = (logits.cpu() / temperature).softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
        at = torch.rand(len(sums), 1, generator=generator, dtype=torch.float64) * sums[:, -1:]
        return torch.searchsorted(sums, at, right=True).to(logits.device)

    return choose


@torch.inference_mode()
def continue_rows(
    model: GPT, ids: Tensor, n_new: int, choose: Callable[[Tensor], Tensor] = likeliest, stop: int | None = None
) -> Tensor:
    """Return n_new ids behind each row of ids (B, P), all rows at once: (B, n_new).

    A row that wrote `stop` has it from there on. With `likeliest` each row is what `generate` gives with `greedy`.
    """
    return torch.cat([_continue_rows(model, rows, n_new, choose, stop) for rows in ids.split(ROWS)])


def _continue_rows(model: GPT, ids: Tensor, n_new: int, choose: Callable[[Tensor], Tensor], stop: int | None) -> Tensor:
    length = model.config.context_length
    written = ids.new_full((len(ids), n_new), -1 if stop is None else stop)
    read = unread = ids[:, -length:]
    past: Past | None = None
    for at in range(n_new):
        if read.shape[1] > length:
            read = unread = read[:, -max(length // 2, 1) :]
            past = None
        hidden, kept = model.run_blocks(model.embedding(unread), past)
        new = choose(model.head(hidden[:, -1]).float())
        if stop is not None and at:
            new = new.where(written[:, at - 1 : at] != stop, stop)
        written[:, at : at + 1], read = new, torch.cat([read, new], dim=1)
        if stop is not None and bool((new == stop).all()):
            break
        unread, past = (read, None) if model.sees_the_future else (new, kept)
    return written
