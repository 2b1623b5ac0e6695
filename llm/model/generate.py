"""Autoregressive generation with a KV cache: each token is chosen from the logits after all tokens before it.

    ids → generate → new ids;  logits (V,) → greedy, or a sampler → an id
    ids (B, P) → generate_batch → new ids (B, n_new), for many texts of one length

A sampler applies the temperature first, then each filter that is set, on what the one before it left: top-k, top-p,
min-p.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llm.model.decoder import Decoder
from llm.model.gpt import GPT
from llm.model.kv_cache import KVCache

MAX_BATCH = 256  # texts in a forward pass, so that memory does not grow with their number


@torch.inference_mode()
def generate(
    model: GPT,
    ids: list[int],
    max_new_tokens: int,
    choose: Callable[[Tensor], int],
    stop: frozenset[int] = frozenset(),
    repetition_penalty: float = 1.0,
) -> Iterator[int]:
    """Yield up to `max_new_tokens` ids that continue `ids`; a `stop` id ends the text and is not yielded.

    `choose` selects an id from the logits (V,) of the next token: `greedy`, or a `sampler`. When the context is full,
    its older half is dropped. A model that is not causal reads the whole text for each token, and writes badly.
    """
    assert ids, "expected at least one token to continue"
    length, decoder = model.config.context_length, Decoder(model)
    read = list(ids)[-length:]
    cache = decoder.new_cache(min(length, len(read) + max_new_tokens)) if model.config.is_causal else None
    unread = read
    for _ in range(max_new_tokens):
        if len(read) > length:
            read = unread = read[-max(length // 2, 1) :]
            if cache:
                cache.length = 0
        logits = decoder.step([cache], unread) if cache and cache.length else decoder.prefill(cache, unread)
        token = choose(repetition_penalized(logits[0], read, repetition_penalty))
        if token in stop:
            return
        yield token
        read.append(token)
        unread = [token] if cache else read


@dataclass(frozen=True)
class SamplingParams:
    """How to sample. Temperature 0 is greedy; None leaves a filter out."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None


def greedy(logits: Tensor) -> int:
    """Return the id of the highest logit."""
    return int(logits.argmax())


def sampler(params: SamplingParams, generator: torch.Generator) -> Callable[[Tensor], int]:
    """Return a function that draws an id from logits in proportion to its probability, or the greedy one."""
    if not params.temperature:
        return greedy
    return lambda logits: int(torch.multinomial(filtered(logits, params).softmax(dim=-1), 1, generator=generator))


def filtered(logits: Tensor, params: SamplingParams) -> Tensor:
    """Return logits (V,) at the temperature, with -∞ for the ids that a filter leaves out."""
    logits = logits.cpu() / params.temperature
    if params.top_k is not None:
        logits = keep_top_k(logits, params.top_k)
    if params.top_p is not None:
        logits = keep_top_p(logits, params.top_p)
    if params.min_p is not None:
        logits = keep_min_p(logits, params.min_p)
    return logits


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the `k` most probable ids and ties of the last (Fan et al. 2018, arXiv:1805.04833).

    >>> keep_top_k(torch.tensor([1.0, 3.0, 2.0]), 2)
    tensor([-inf, 3., 2.])
    """
    if k >= len(logits):
        return logits
    return logits.masked_fill(logits < logits.topk(k).values[-1], float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest ids of a cumulative probability of at least `p` (Holtzman et al. 2020, arXiv:1904.09751).

    >>> keep_top_p(torch.tensor([0.2, 0.5, 0.3]).log(), 0.6).exp()
    tensor([0.0000, 0.5000, 0.3000])
    """
    ranked, order = logits.sort(descending=True, stable=True)
    probabilities = ranked.softmax(dim=-1)
    # An id goes when those before it are enough; the first has none before it and stays.
    enough = probabilities.cumsum(dim=-1) - probabilities >= p
    enough[0] = False
    return logits.masked_fill(torch.empty_like(enough).scatter_(0, order, enough), float("-inf"))


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep the ids of at least `p` times the highest probability (Nguyen et al. 2024, arXiv:2407.01082).

    >>> keep_min_p(torch.tensor([0.2, 0.5, 0.3]).log(), 0.5).exp()
    tensor([0.0000, 0.5000, 0.3000])
    """
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < p * probabilities.max(), float("-inf"))


def repetition_penalized(logits: Tensor, seen: list[int], penalty: float) -> Tensor:
    """Divide positive logits of `seen` ids by `penalty`, multiply negative ones (Keskar et al. 2019, arXiv:1909.05858).

    >>> repetition_penalized(torch.tensor([2.0, -2.0, 2.0]), [0, 1, 1], 2.0)
    tensor([ 1., -4.,  2.])
    """
    if penalty == 1:
        return logits
    ids = torch.tensor(seen, dtype=torch.long)
    values = logits[ids]
    return logits.index_put((ids,), torch.where(values > 0, values / penalty, values * penalty))


def greedy_batch(logits: Tensor) -> Tensor:
    """Return the most likely token ids (B, 1) of logits (B, V)."""
    return logits.argmax(dim=-1, keepdim=True)


def batch_sampler(temperature: float, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Return a function that samples token ids (B, 1) from logits (B, V)."""

    def choose(logits: Tensor) -> Tensor:
        # Inverse CDF: one random number per text, where torch.multinomial draws V.
        sums = (logits.cpu() / temperature).softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
        at = torch.rand(len(sums), 1, generator=generator, dtype=torch.float64) * sums[:, -1:]
        return torch.searchsorted(sums, at, right=True).to(logits.device)

    return choose


@torch.inference_mode()
def generate_batch(
    model: GPT, ids: Tensor, n_new: int, choose: Callable[[Tensor], Tensor] = greedy_batch, stop: int | None = None
) -> Tensor:
    """Return n_new ids (B, n_new) after each text of ids (B, P); a text that reached `stop` is filled with it.

    With `greedy_batch` each text equals what `generate` yields with `greedy`.
    """
    return torch.cat([_continue_batch(model, part, n_new, choose, stop) for part in ids.split(MAX_BATCH)])


def _continue_batch(
    model: GPT, ids: Tensor, n_new: int, choose: Callable[[Tensor], Tensor], stop: int | None
) -> Tensor:
    length, (B, P) = model.config.context_length, ids.shape
    cache = KVCache(model.config.n_layers, min(length, P + n_new)) if model.config.is_causal else None
    written, is_ended = ids.new_full((B, n_new), stop or 0), ids.new_zeros((B, 1), dtype=torch.bool)
    read = unread = ids[:, -length:]
    for at in range(n_new):
        if read.shape[1] > length:
            read = unread = read[:, -max(length // 2, 1) :]
            if cache:
                cache.length = 0
        new = choose(model.head(model.run_blocks(model.embedding(unread), cache)[:, -1]).float())
        if stop is not None:
            new = new.masked_fill(is_ended, stop)
            is_ended |= new == stop
            if bool(is_ended.all()):
                break
        written[:, at : at + 1], read = new, torch.cat([read, new], dim=1)
        unread = new if cache else read
    return written
