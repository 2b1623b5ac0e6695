"""What the model writes: after fixed prompts, as text to be read side by side, and after many prefixes at once."""

from typing import NamedTuple

import torch
from torch import Tensor

from llm.evaluate.params import EvaluateParams
from llm.model.generate import generate, greedy, sampler
from llm.model.gpt import GPT, Past
from llm.text.tokenizer import Tokenizer

ROWS = 256  # that are continued at once, so that memory does not grow with their number


class Sample(NamedTuple):
    """What was written after a prompt, and how its tokens were chosen."""

    prompt: str
    way: str
    ids: list[int]


def draw_samples(model: GPT, tokenizer: Tokenizer, params: EvaluateParams, seed: int) -> list[Sample]:
    """Two continuations of every prompt. The same model, params and seed give the same ones."""
    samples = []
    for number, prompt in enumerate(params.prompts):
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
        parts += ["", f"## `{prompt.strip()}`, {way}", "", "````text", f"{prompt}│{tokenizer.decode(ids)}", "````"]
    return "\n".join(parts) + "\n"


@torch.inference_mode()
def continue_greedily(model: GPT, ids: Tensor, n_new: int) -> Tensor:
    """The n_new likeliest tokens, one after the other, behind each row of ids (B, P): (B, n_new).

    For each row what `generate` gives with `greedy` and without a stop, all rows at once.
    """
    return torch.cat([_continue_rows(model, rows, n_new) for rows in ids.split(ROWS)])


def _continue_rows(model: GPT, ids: Tensor, n_new: int) -> Tensor:
    length = model.config.context_length
    written = ids.new_empty(len(ids), 0)
    read = unread = ids[:, -length:]
    past: Past | None = None
    for _ in range(n_new):
        if read.shape[1] > length:
            read = unread = read[:, -max(length // 2, 1) :]
            past = None
        hidden, kept = model.run_blocks(model.embedding(unread), past)
        new = model.head(hidden[:, -1]).float().argmax(dim=-1, keepdim=True)
        written, read = torch.cat([written, new], dim=1), torch.cat([read, new], dim=1)
        unread, past = (read, None) if model.sees_the_future else (new, kept)
    return written
