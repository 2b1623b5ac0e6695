"""What the model writes: after a few prompts, as text to be read side by side, and after many prefixes at once."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm.corpus.docstrings import split_entries
from llm.evaluate.params import EvaluateParams
from llm.model.generate import generate, greedy, sampler
from llm.model.gpt import GPT, Past
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import read_info, read_stream

ROWS = 256  # that are continued at once, so that memory does not grow with their number
N_PROMPTS, PROMPT_CHARS = 5, 80  # of default prompts, at most
MAX_TRIES = 1000  # documents that are looked at for prompts that differ
DOCUMENT_TOKENS = 8192  # of each that are looked at
GREEDY = "greedy"


class Sample(NamedTuple):
    """What was written after a prompt, and how its tokens were chosen."""

    prompt: str
    way: str
    ids: list[int]


def with_prompts(params: EvaluateParams, windows: Path, tokenizer: Tokenizer, seed: int) -> EvaluateParams:
    """Return params that have prompts: by default beginnings of documents of test, else of val, else of train."""
    if params.prompts is not None:
        return params
    _, prompts = default_prompts(windows, tokenizer, seed)
    return params.model_copy(update={"prompts": prompts})


def default_prompts(windows: Path, tokenizer: Tokenizer, seed: int) -> tuple[str | None, list[str]]:
    """Return beginnings of documents, and the split that they are from; None where no split has any."""
    end_of_text = read_info(windows).end_of_text
    for split in ("test", "val", "train"):
        rng = np.random.default_rng(seed)
        if prompts := draw_beginnings(read_stream(windows, split), end_of_text, tokenizer, rng):
            return split, prompts
    return None, []


def draw_beginnings(
    stream: NDArray[np.integer], end_of_text: int, tokenizer: Tokenizer, rng: np.random.Generator
) -> list[str]:
    """Return up to `N_PROMPTS` beginnings that differ: one a document, and more of each where documents are few."""
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
    r"""Return up to `N_PROMPTS` texts that a document can be continued after, the one to take first in front.

    In documentation these are the signatures, with the empty line behind them, in drawn order. In any other text it is
    the first line, and then first lines of paragraphs in drawn order; all of them in the first half, so that there is
    something to compare a continuation with.

    >>> beginnings("Some functions.\n\n\ndef head(n=5)\n\nReturn the first rows.", np.random.default_rng(1))
    ['def head(n=5)\n\n']
    >>> beginnings("To be, or not to be,\nthat is the question:\nWhether ", np.random.default_rng(1))
    ['To be, or not to be,\n']
    """
    if entries := split_entries(document):
        fitting = [entry.signature for entry in entries if len(entry.signature) <= PROMPT_CHARS]
        return [f"{fitting[number]}\n\n" for number in rng.permutation(len(fitting))[:N_PROMPTS]]
    half = len(document) // 2
    paragraphs = [found.end() for found in re.finditer(r"(?<!\n)\n{2,}(?=\S)", document[:half])]
    starts = [0, *(paragraphs[number] for number in rng.permutation(len(paragraphs)))][:N_PROMPTS]
    found = [opening(document[start:], half - start) for start in starts]
    return [text for text in found if re.search(r"\w", text)]


def opening(text: str, max_chars: int) -> str:
    r"""Return the first line with a word in it, the lines before it and the line breaks after it.

    A line without an end, or of more than `max_chars` or `PROMPT_CHARS` characters, is cut.

    >>> opening("---\ntitle: Rain\n\nIt rains.", 20), opening("It rains", 4)
    ('---\ntitle: Rain\n\n', 'It')
    """
    line = re.match(r"(?:[^\w\n]*\n)*[^\n]*\n+", text)
    max_chars = min(max_chars, PROMPT_CHARS)
    return line[0] if line and len(line[0].rstrip("\n")) <= max_chars else cut_right(text, max_chars)


def cut_right(text: str, max_chars: int) -> str:
    """Return the beginning of a text, up to the end of a word where there is one in its second half.

    >>> cut_right("It was the best of times, it was the worst of times", 32)
    'It was the best of times, it was'
    >>> cut_right("short ", 32)
    'short'
    """
    cut = text[:max_chars].rstrip()
    if text[len(cut) : len(cut) + 1].strip() and len(words := re.split(r"\s+\S*$", cut)[0]) >= max_chars // 2:
        return words
    return cut


def example_of(params: EvaluateParams) -> str:
    """Return a text to try the model with: a beginning of the first prompt that a command line takes."""
    # A command takes what begins with a dash for an option, and none can hold a null character.
    prompts = [re.sub(r"^[\s-]+", "", prompt) for prompt in params.prompts or [] if "\0" not in prompt]
    return next((opening(prompt, PROMPT_CHARS) for prompt in prompts if re.search(r"\w", prompt)), "1")


def draw_samples(model: GPT, tokenizer: Tokenizer, params: EvaluateParams, seed: int) -> list[Sample]:
    """Two continuations of every prompt. The same model, params and seed give the same ones."""
    samples = []
    for number, prompt in enumerate(params.prompts or []):
        ids = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
        drawn = sampler(params.temperature, params.top_k, torch.Generator().manual_seed(seed + number))
        ways = {GREEDY: greedy, f"temperature {params.temperature}, top {params.top_k}": drawn}
        for way, choose in ways.items():
            new = generate(model, ids, params.sample_tokens, choose, stop=frozenset({tokenizer.end_of_text}))
            samples.append(Sample(prompt, way, list(new)))
    return samples


def write_samples(samples: Sequence[Sample], tokenizer: Tokenizer, n_tokens: int) -> str:
    """The samples as Markdown; each has at most `n_tokens` tokens."""
    parts = ["# Samples", "", f"Up to {n_tokens} tokens after each prompt (marked by │)."]
    for prompt, way, ids in samples:
        parts += _section(f"{_in_line(prompt)}, {way}", f"{prompt}│{tokenizer.decode(ids)}")
    return "\n".join(parts) + "\n"


def samples_table(samples: Sequence[Sample], tokenizer: Tokenizer, n_tokens: int) -> list[dict[str, Any]]:
    """Return the samples for programs: prompt, text, whether it is greedy, how it was chosen, whether it has an end."""
    return [
        {
            "prompt": prompt,
            "text": tokenizer.decode(ids),
            "greedy": way == GREEDY,
            "way": way,
            "ended": len(ids) < n_tokens,  # by an end of text, and not by the number of tokens
        }
        for prompt, way, ids in samples
    ]


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
    """Return the argmax of each row of logits (B, V), as token ids (B, 1)."""
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
