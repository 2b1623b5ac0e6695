"""The batched decoder: each step appends one token to several texts, each with a KV cache of its own.

    prefill(cache, ids) → logits (1, V) after a prompt;  step(caches, tokens) → logits (V,) of each text

A step of a small model is a hundred small products, where a call of torch takes longer than its work: so on a CPU in
float32 one call of a kernel computes the whole step.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llm.model import kernels
from llm.model.attention import Attention
from llm.model.gpt import GPT
from llm.model.kv_cache import KVCache, LayerCache
from llm.model.layers import GELU, SwiGLU


class Decoder:
    """Prefill and step; a text's logits do not depend on the texts beside it, to the bit."""

    def __init__(self, model: GPT):
        self.model = model
        self._kernel = DecodeKernel(model) if fits_kernel(model) else None

    def new_cache(self, room: int) -> KVCache:
        """Return an empty cache of one text of at most `room` tokens."""
        config, cache = self.model.config, KVCache(self.model.config.n_layers, room)
        if self._kernel:
            shape = (1, config.n_key_heads, room, config.head_dim)
            cache.layers = [LayerCache(room, (torch.empty(shape), torch.empty(shape))) for _ in cache.layers]
        return cache

    @torch.inference_mode()
    def prefill(self, cache: KVCache | None, ids: Sequence[int], every: bool = False) -> Tensor:
        """Read ids, and return the logits (1, V) after them, or with `every` (T, V), in float32 on the CPU.

        They continue the text in `cache`; a model that is not causal takes None, and the whole text each time.
        """
        given = torch.tensor([ids], device=self.model.embedding.weight.device)
        hidden = self.model.run_blocks(self.model.embedding(given), cache)[0]
        logits = self.model.head(hidden) if every else self.model.head(hidden[-1])[None]
        return logits.float().cpu()

    @torch.inference_mode()
    def step(self, caches: Sequence[KVCache], tokens: Sequence[int]) -> list[Tensor]:
        """Append one token to each text; return the logits (V,) after each, in float32 on the CPU."""
        if self._kernel:
            return list(self._kernel.step(caches, tokens))
        return [self.prefill(cache, [token])[0] for cache, token in zip(caches, tokens, strict=True)]


def fits_kernel(model: GPT) -> bool:
    """Whether the kernel computes this model: causal attention and float32 on the CPU; adapters have to be merged."""
    attends = model.config.is_causal and model.config.family != "gru"
    return attends and model.embedding.weight.dtype == torch.float32 and kernels.fit(model.embedding.weight)


class DecodeKernel:
    """The kernel `decode` with a model's shape and the addresses of its weights."""

    def __init__(self, model: GPT):
        config = self.config = model.config
        self._embedding, scheme = model.embedding.weight.detach(), config.position_scheme
        factor = math.sqrt(config.d_model) if scheme == "sinusoidal" else 1.0
        added = model.positions.weight.detach() if scheme == "learned" else None
        added = model.waves if scheme == "sinusoidal" else added
        rotation = (model.cos, model.sin) if scheme == "rope" else (None, None)
        widths = config.n_query_heads, config.n_key_heads, config.head_dim, config.d_ff, config.vocab_size
        shape = torch.tensor([config.n_layers, config.d_model, *widths])
        self._weights = [None if weight is None else weight.detach() for weight in _weights(model)]
        self._model = (self._embedding, factor, added, *rotation, shape, config.norm_eps)
        self._addresses = kernels.addresses(self._weights)

    def step(self, caches: Sequence[KVCache], tokens: Sequence[int]) -> Tensor:
        """Return the logits (B, V) of each text."""
        lengths = [cache.length for cache in caches]
        assert max(lengths) < self.config.context_length, "more tokens than the context holds"
        assert min(tokens) >= 0 and max(tokens) < self.config.vocab_size  # C does not check
        logits = torch.empty(len(caches), self.config.vocab_size)
        layers = range(self.config.n_layers)
        keys, values = ([cache.addresses[n][part] for n in layers for cache in caches] for part in (0, 1))
        rooms = [cache.layers[0].room for cache in caches]
        places = (kernels.pointers(keys), kernels.pointers(values), *map(kernels.integers, (tokens, lengths, rooms)))
        kernels.run("decode", logits, *self._model, self._addresses, *places, len(caches))
        for cache in caches:
            cache.length += 1
        return logits


def _weights(model: GPT) -> Iterator[Tensor | None]:
    """Yield weight and bias of the parts in the order of the kernel; None where a part or a bias is missing."""
    parts: list[object] = []
    for block in model.blocks:
        attention, feed_forward = block.attention, block.feed_forward
        assert isinstance(attention, Attention) and isinstance(feed_forward, SwiGLU | GELU)
        parts += [block.attention_norm, attention.query, attention.key, attention.value]
        parts += [attention.query_norm, attention.key_norm, attention.out, block.feed_forward_norm]
        parts += [getattr(feed_forward, "gate", None), feed_forward.up, feed_forward.down]
    for part in [*parts, model.norm, model.head]:
        yield getattr(part, "weight", None)
        yield getattr(part, "bias", None)
