"""The batched decoder: each step appends one token to several texts, each with a KV cache of its own.

    prefill(cache, ids) → logits (1, V) after a prompt;  step(caches, tokens) → logits (V,) of each text

A step of a small model is a hundred small products, where a call of torch takes longer than its work: so on a CPU in
float32 a step is computed in NumPy, on the memory of the same caches. Shapes are those of `llm.model.attention`.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llm.model.attention import Attention
from llm.model.gpt import GPT, Block
from llm.model.kv_cache import KVCache, LayerCache
from llm.model.layers import GELU, LayerNorm, Linear, RMSNorm, SwiGLU

Floats = NDArray[np.float32]
Map = Callable[[Floats], Floats]
Rotation = tuple[Floats, Floats]

# The rounding of a matrix product depends on its shape. So there is one shape only: N_ROWS rows, padded, by a tile of
# the weights that is small enough for the library to multiply it without packing.
N_ROWS, TILE_PRODUCTS = 2, 400_000


class Decoder:
    """Prefill and step for one text, in the model's memory; or for a batch, with copies of the weights.

    With `batched` a text's logits do not depend on the texts beside it, to the bit.
    """

    def __init__(self, model: GPT, batched: bool = False):
        self.model = model
        self._numpy = NumpyDecoder(model, batched) if runs_in_numpy(model) else None

    def new_cache(self, room: int) -> KVCache:
        """Return an empty cache of one text of at most `room` tokens."""
        config, cache = self.model.config, KVCache(self.model.config.n_layers, room)
        if self._numpy:
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

    def step(self, caches: Sequence[KVCache], tokens: Sequence[int]) -> list[Tensor]:
        """Append one token to each text; return the logits (V,) after each, in float32 on the CPU."""
        if self._numpy:
            return [torch.from_numpy(row) for row in self._numpy.step(caches, tokens)]
        return [self.prefill(cache, [token])[0] for cache, token in zip(caches, tokens, strict=True)]


def runs_in_numpy(model: GPT) -> bool:
    """Whether NumPy can compute a step: causal attention, in float32, in the memory of the CPU."""
    weight, config = model.embedding.weight, model.config
    attends = config.is_causal and config.family != "gru"
    return attends and weight.dtype == torch.float32 and weight.device.type == "cpu"


class NumpyDecoder:
    """The forward pass for one position of each text: x (B, D), or of the only text (D,), whose calls are faster."""

    def __init__(self, model: GPT, batched: bool):
        self.config, self.embedding, self.batched = model.config, as_array(model.embedding.weight), batched
        self.blocks = [NumpyBlock(block, batched) for block in model.blocks]
        self.norm, self.head = norm(model.norm), linear(batched, model.head)
        self.apply_positions = position_encoder(model)

    def step(self, caches: Sequence[KVCache], tokens: Sequence[int]) -> Sequence[Floats]:
        """Return the logits (V,) of each text."""
        positions = [cache.length for cache in caches]
        assert max(positions) < self.config.context_length, "more tokens than the context holds"
        assert self.batched or len(caches) == 1
        which, where = (tokens, positions) if self.batched else (tokens[0], positions[0])
        x, rotation = self.apply_positions(self.embedding[which], where)
        layers = zip(*(cache.arrays for cache in caches), strict=True)  # of each, keys and values of each text
        for block, keys_values in zip(self.blocks, layers, strict=True):
            x = block(x, rotation, keys_values, positions)
        for cache in caches:
            cache.length += 1
        logits = self.head(self.norm(x))
        return list(logits) if self.batched else [logits]


class NumpyBlock:
    """A block of the model."""

    def __init__(self, block: nn.Module, batched: bool):
        assert isinstance(block, Block) and isinstance(block.attention, Attention)
        attention = block.attention
        self.attention_norm, self.feed_forward_norm = norm(block.attention_norm), norm(block.feed_forward_norm)
        self.n_kv_heads, self.head_dim = attention.n_kv_heads, attention.head_dim
        self.query_key_value = linear(batched, attention.query, attention.key, attention.value)
        self.head_norm, self.out = head_norm(attention), linear(batched, attention.out)
        self.feed_forward = feed_forward(block.feed_forward, batched)

    def __call__(
        self, x: Floats, rotation: Rotation | None, caches: Sequence[tuple[Floats, ...]], positions: list[int]
    ) -> Floats:
        """(..., D) → (..., D)."""
        K = self.n_kv_heads
        mixed = self.query_key_value(self.attention_norm(x)).reshape(*x.shape[:-1], -1, self.head_dim)
        heads, values = self.head_norm(mixed[..., :-K, :]), mixed[..., -K:, :]
        if rotation is not None:
            heads = rotate(heads, *rotation)
        if x.ndim == 1:
            gathered = self.attend(heads, values, caches[0], positions[0])
        else:
            gathered = np.stack([self.attend(*row) for row in zip(heads, values, caches, positions, strict=True)])
        x = x + self.out(gathered)
        return x + self.feed_forward(self.feed_forward_norm(x))

    def attend(self, heads: Floats, values: Floats, cache: tuple[Floats, ...], position: int) -> Floats:
        """Cache keys and values (K, C) of one text at its position; attend with its queries (H, C) → (H · C,)."""
        K, seen = self.n_kv_heads, slice(position + 1)
        cache[0][:, position], cache[1][:, position] = heads[-K:], values
        return attend(heads[:-K].reshape(K, -1, self.head_dim), cache[0][:, seen], cache[1][:, seen]).ravel()


def position_encoder(model: GPT) -> Callable[[Floats, int | list[int]], tuple[Floats, Rotation | None]]:
    """Return a map that adds positions to embeddings (..., D), or returns RoPE's cos and sin (..., 1, 2, C / 2)."""
    match model.config.position_scheme:
        case "rope":
            shape = (model.config.context_length, 1, 2, -1)
            cos, sin = as_array(model.cos).reshape(shape), as_array(model.sin).reshape(shape).copy()
            sin[:, :, 0] *= -1
            return lambda x, positions: (x, (cos[positions], sin[positions]))
        case "learned":
            learned = as_array(model.positions.weight)
            return lambda x, positions: (x + learned[positions], None)
        case "sinusoidal":
            waves, scale = as_array(model.waves), math.sqrt(model.config.d_model)
            return lambda x, positions: (x * scale + waves[positions], None)
    return lambda x, positions: (x, None)


def attend(q: Floats, k: Floats, v: Floats) -> Floats:
    """Attend with the queries (K, G, C) of one position to keys and values (K, S, C) → (K, G, C)."""
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(0, 2, 1)
    weights = np.exp(scores - np.maximum.reduce(scores, axis=-1, keepdims=True))
    total: Floats = np.add.reduce(weights, axis=-1, keepdims=True)
    return weights @ v / total


def rotate(x: Floats, cos: Floats, sin: Floats) -> Floats:
    """Turn each head's pairs by their angle. x (..., H, C); cos and sin (..., 1, 2, C / 2), the left sin negated."""
    halves = x.reshape(*x.shape[:-1], 2, -1)
    return (halves * cos + halves[..., ::-1, :] * sin).reshape(x.shape)


def linear(batched: bool, *modules: Linear) -> Map:
    """Return y = x Wᵀ + b of several maps side by side, (B, I) → (B, O); or (I,) → (O,), without a copy of weights."""
    weights = [as_array(module.weight) for module in modules]
    biases = [as_array(module.bias) for module in modules if module.bias is not None]
    if batched:
        multiply = tiled_product(np.concatenate(weights))
    elif len(weights) == 1:
        multiply = weights[0].dot
    else:
        multiply = lambda x: np.concatenate([weight.dot(x) for weight in weights])  # noqa: E731
    if not biases:
        return multiply
    bias = np.concatenate(biases)
    return lambda x: multiply(x) + bias


def tiled_product(weight: Floats) -> Map:
    """Return x Wᵀ of a weight (O, I), in products of N_ROWS rows by one tile: no row depends on another, to the bit."""
    O, I = weight.shape  # noqa: E741 (the outputs and inputs of the map)
    n_tiles = math.ceil(N_ROWS * O * I / TILE_PRODUCTS)
    width = math.ceil(O / n_tiles)
    padded = np.concatenate([weight, np.zeros((n_tiles * width - O, I), dtype=np.float32)])
    tiles = np.ascontiguousarray(padded.reshape(n_tiles, width, I).transpose(0, 2, 1))

    def multiply(x: Floats) -> Floats:
        B = len(x)
        if B % N_ROWS:
            x = np.concatenate([x, np.zeros((-B % N_ROWS, I), dtype=np.float32)])
        tiled = x.reshape(-1, 1, N_ROWS, I) @ tiles  # (rows / N_ROWS, n_tiles, N_ROWS, width)
        return tiled.transpose(0, 2, 1, 3).reshape(len(x), -1)[:B, :O]

    return multiply


def rms_norm(weight: Floats, eps: float) -> Map:
    """Return RMSNorm over the last axis of (..., D), with a weight (D,) or one for each head (H, D)."""
    D = weight.shape[-1]

    def normalize(x: Floats) -> Floats:
        if x.ndim == 1:  # the same numbers by scalars, which are faster than arrays of one
            return x * (weight / math.sqrt(x.dot(x) / D + eps))
        return x * (weight / np.sqrt(np.vecdot(x, x) / D + eps)[..., None])

    return normalize


def norm(module: nn.Module) -> Map:
    """Return RMSNorm or LayerNorm over the last axis of (..., D)."""
    assert isinstance(module, RMSNorm)
    normalize = rms_norm(as_array(module.weight), module.eps)
    if not isinstance(module, LayerNorm):
        return normalize
    bias = as_array(module.bias)
    return lambda x: normalize(x - x.mean(axis=-1, keepdims=True)) + bias


def head_norm(attention: Attention) -> Map:
    """Return the RMSNorm of each head of queries and then keys (..., H + K, C), or the identity."""
    query, key = attention.query_norm, attention.key_norm
    if not isinstance(query, RMSNorm) or not isinstance(key, RMSNorm):
        return lambda x: x
    n_heads = [attention.n_heads, attention.n_kv_heads]
    return rms_norm(np.repeat([as_array(query.weight), as_array(key.weight)], n_heads, axis=0), query.eps)


def gelu(x: Floats) -> Floats:
    """Apply GPT-2's tanh formula."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def feed_forward(module: nn.Module, batched: bool) -> Map:
    """Return SwiGLU or GELU of (..., D)."""
    assert isinstance(module, SwiGLU | GELU)
    up, down = linear(batched, module.up), linear(batched, module.down)
    if isinstance(module, GELU):
        return lambda x: down(gelu(up(x)))
    gate = linear(batched, module.gate)

    def swiglu(x: Floats) -> Floats:
        gated = gate(x)
        scale = np.exp(-gated)
        scale += 1
        gated /= scale  # in place: new arrays would cost as much as the arithmetic
        gated *= up(x)
        return down(gated)

    return swiglu


def as_array(weight: Tensor) -> Floats:
    """Return the tensor's own memory as an array."""
    array: Floats = weight.detach().numpy()
    return array
