"""A text goes on: token after token, each drawn from the model's prediction after all before it.

Autoregressive means just this: what the model wrote becomes what it reads. Keys and values of what was read are
kept, so that a new token costs one position and not the whole text again.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from llm.model.gpt import GPT


@torch.no_grad()
def generate(
    model: GPT, ids: list[int], max_new_tokens: int, choose: Callable[[Tensor], int], stop: frozenset[int] = frozenset()
) -> Iterator[int]:
    """Yield up to `max_new_tokens` ids that continue `ids`; a `stop` id ends the text and is not given out.

    `choose` picks an id from the logits (V,) of the next token: `greedy`, or a `sampler`. When the context is
    full, the older half of it is forgotten.
    """
    assert ids, "a text to continue has at least one token"
    device = model.embedding.weight.device
    length = model.config.context_length
    read, past = list(ids)[-length:], None
    unread = read
    for _ in range(max_new_tokens):
        if past is not None and len(read) > length:
            read = read[-(length // 2) :]
            unread, past = read, None
        hidden, past = model.run_blocks(model.embedding(torch.tensor([unread], device=device)), past)
        token = choose(model.head(hidden[0, -1]).float())
        if token in stop:
            return
        yield token
        read.append(token)
        unread = [token]


def greedy(logits: Tensor) -> int:
    """The likeliest id."""
    return int(logits.argmax())


def sampler(temperature: float, top_k: int | None, generator: torch.Generator) -> Callable[[Tensor], int]:
    """A chooser that draws from the `top_k` likeliest ids, or from all; a low temperature prefers the likely."""
    assert temperature > 0

    def choose(logits: Tensor) -> int:
        logits = logits.cpu() / temperature
        if top_k is not None and top_k < len(logits):
            logits[logits < logits.topk(top_k).values[-1]] = float("-inf")
        return int(torch.multinomial(logits.softmax(dim=-1), 1, generator=generator))

    return choose
