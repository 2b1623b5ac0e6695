"""The KV cache: keys and values of the tokens that were read, so that a new token costs one position.

hidden = model.run_blocks(x, cache)    # x (B, T, D) follow the cache.length tokens of each of the B rows
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass
class LayerCache:
    """The keys and values (B, K, S, C) of one attention layer; of a GRU layer, its state (B, R)."""

    room: int = 0  # positions that buffers are allocated for; 0 concatenates instead, which `torch.export` can trace
    tensors: tuple[Tensor, ...] = ()

    def extend(self, start: int, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """Add k and v (B, K, T, C) behind the first `start` positions; return those of all start + T positions."""
        new = (k, v)
        if not self.room:
            if self.tensors:
                new = (torch.cat([self.tensors[0], k], dim=2), torch.cat([self.tensors[1], v], dim=2))
            self.tensors = new
            return new
        if not self.tensors:
            B, K, _, C = k.shape
            self.tensors = (k.new_empty(B, K, self.room, C), v.new_empty(B, K, self.room, C))
        end = start + k.shape[2]
        for buffer, part in zip(self.tensors, new, strict=True):
            buffer[:, :, start:end] = part
        return tuple(buffer[:, :, :end] for buffer in self.tensors) if start else new


class KVCache:
    """The caches of all layers, and the number of tokens that they hold.

    It is written in place: from one cache, one continuation; `select` copies.
    """

    def __init__(self, n_layers: int, room: int = 0):
        self.length = 0
        self.layers = [LayerCache(room) for _ in range(n_layers)]

    def select(self, rows: Tensor) -> "KVCache":
        """Return a cache whose rows are copies of some of this one's, by their indices."""
        chosen = KVCache(len(self.layers))
        chosen.length = self.length
        chosen.layers = [LayerCache(0, tuple(tensor[rows] for tensor in layer.tensors)) for layer in self.layers]
        return chosen

    @cached_property
    def addresses(self) -> list[tuple[int, int]]:
        """Where the buffers of keys and of values of each layer begin."""
        return [(layer.tensors[0].data_ptr(), layer.tensors[1].data_ptr()) for layer in self.layers]
