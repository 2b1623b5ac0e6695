"""Score the continuations of prompts: each prompt is read once into a KV cache, for all of its continuations.

prompts, continuations, all as ids → score_continuations → log-probabilities in nats (N, L)
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from llm.model.gpt import GPT
from llm.model.kv_cache import KVCache

ROWS_AT_ONCE = 256  # a row of a batch is one continuation of one prompt


@torch.no_grad()
def score_continuations(
    model: GPT, prompts: Sequence[list[int]], continuations: Sequence[list[int]]
) -> NDArray[np.float32]:
    """Return (N, L): after each of N prompts the log-probability of each of L continuations, summed over its ids.

    Prompts of one length are batched. Neither a prompt nor a continuation may be empty.
    """
    device = model.embedding.weight.device
    targets = pad_sequence([torch.tensor(ids) for ids in continuations], batch_first=True)  # (L, T)
    is_target = torch.arange(targets.shape[1]) < torch.tensor([len(ids) for ids in continuations])[:, None]
    targets, is_target = targets.to(device), is_target.to(device)
    by_length = defaultdict[int, list[int]](list)
    for number, prompt in enumerate(prompts):
        by_length[len(prompt)].append(number)
    scores = np.zeros((len(prompts), len(continuations)), dtype=np.float32)
    at_once = max(1, ROWS_AT_ONCE // len(continuations))
    for numbers in by_length.values():
        for at in range(0, len(numbers), at_once):
            batch = numbers[at : at + at_once]
            ids = torch.tensor([prompts[number] for number in batch], device=device)
            scores[batch] = _score_batch(model, ids, targets, is_target).cpu().numpy()
    return scores


def _score_batch(model: GPT, prompts: Tensor, targets: Tensor, is_target: Tensor) -> Tensor:
    """Return (B, L) for prompts (B, P) and continuations (L, T), padded where `is_target` (L, T) is false."""
    B, L = len(prompts), len(targets)
    cache = KVCache(model.config.n_layers)
    if prompts.shape[1] > 1:
        model.run_blocks(model.embedding(prompts[:, :-1]), cache)
    scores = torch.empty(B * L, device=prompts.device)
    for rows in torch.arange(B * L, device=prompts.device).split(ROWS_AT_ONCE):
        prompt, continuation = rows // L, rows % L  # (R,)
        counts, expected = is_target[continuation], targets[continuation]  # (R, T)
        # The model reads the prompt's last id, and all ids of the continuation but the last.
        ids = torch.cat([prompts[prompt, -1:], expected[:, :-1]], dim=1)
        hidden = model.run_blocks(model.embedding(ids), cache.select(prompt))
        logits = model.head(hidden[counts]).float()
        nats = torch.zeros(ids.shape, device=ids.device)
        nats[counts] = nn.functional.cross_entropy(logits, expected[counts], reduction="none")
        scores[rows] = -nats.sum(dim=1)
    return scores.view(B, L)
