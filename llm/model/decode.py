"""One token at a time, in NumPy: the logits after one more id, from the keys and values of those before it.

    id, keys and values of the P before it → logits (V,); its own keys and values are kept for the next

A new token takes a hundred small products, one after the other. To call one costs torch more time than to compute
it, and NumPy far less. The mathematics is that of `llm.model.gpt` for a single position, and a test holds the
two together. Letters are those of `llm.model.attention`; an x here is one position's, (D,).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llm.model.attention import Attention
from llm.model.gpt import GPT, Block, Past
from llm.model.layers import GELU, LayerNorm, Linear, RMSNorm, SwiGLU

Floats = NDArray[np.float32]
Map = Callable[[Floats], Floats]
Rotation = tuple[Floats, Floats]
Places = int | NDArray[np.int64]


def can_decode(model: GPT) -> bool:
    """Whether NumPy can compute it: causal attention, in float32, in this machine's own memory."""
    weight = model.embedding.weight
    attends = model.config.family != "gru" and not model.sees_the_future
    return attends and weight.dtype == torch.float32 and weight.device.type == "cpu"


class Decoder:
    """The weights as arrays that share the model's memory, and room for the keys and values of a whole context."""

    def __init__(self, model: GPT):
        assert can_decode(model)
        self.config, self.length = model.config, 0
        self.embedding, self.head, self.norm = as_array(model.embedding.weight), linear(model.head), norm(model.norm)
        self.apply_positions = placer(model)
        self.blocks = [BlockDecoder(block, self.config.context_length) for block in model.blocks]

    def read(self, past: Past) -> None:
        """Go on behind what the model has read in one batch; nothing stays of what was decoded before."""
        self.length = past.length
        for block, kept in zip(self.blocks, past.layers, strict=True):
            for room, buffer in zip((block.keys, block.values), kept, strict=True):
                room[:, : past.length] = as_array(buffer)[0, :, : past.length]

    def step(self, token: int) -> Floats:
        """The logits (V,) after one more id."""
        place = self.length
        assert place < self.config.context_length, "more tokens than the context holds"
        x, rotation = self.apply_positions(self.embedding[token], place)
        for block in self.blocks:
            x = block(x, place, rotation)
        self.length += 1
        return self.head(self.norm(x))


class BlockDecoder:
    """A block, and the keys and values (K, room, C) of the positions that it has seen."""

    def __init__(self, block: nn.Module, room: int):
        assert isinstance(block, Block) and isinstance(block.attention, Attention)
        attention = block.attention
        self.attention_norm, self.feed_forward_norm = norm(block.attention_norm), norm(block.feed_forward_norm)
        self.query, self.key, self.value = map(linear, (attention.query, attention.key, attention.value))
        self.head_norm, self.out = head_norm(attention), linear(attention.out)
        self.feed_forward = feed_forward(block.feed_forward)
        self.keys = np.empty((attention.n_kv_heads, room, attention.head_dim), dtype=np.float32)
        self.values = np.empty_like(self.keys)

    def __call__(self, x: Floats, place: int, rotation: Rotation | None) -> Floats:
        """(D,) of the position `place`, counted from 0 → (D,)."""
        K, _, C = self.keys.shape
        normed = self.attention_norm(x)
        heads = self.head_norm(np.concatenate([self.query(normed), self.key(normed)]).reshape(-1, C))
        if rotation is not None:
            heads = rotate(heads, *rotation)
        self.keys[:, place], self.values[:, place] = heads[-K:], self.value(normed).reshape(K, C)
        seen = slice(place + 1)
        gathered = attend(heads[:-K].reshape(K, -1, C), self.keys[:, seen], self.values[:, seen])
        x = x + self.out(gathered.ravel())
        return x + self.feed_forward(self.feed_forward_norm(x))


def placer(model: GPT) -> Callable[[Floats, Places], tuple[Floats, Rotation | None]]:
    """What tells an embedding (D,) its place, or gives the angles for queries and keys; or many (B, D) theirs."""
    match model.config.position_scheme:
        case "rope":
            left, right = np.split(as_array(model.sin), 2, axis=-1)
            cos, sin = as_array(model.cos), np.concatenate([-left, right], axis=-1)
            return lambda x, place: (x, (cos[place][..., None, :], sin[place][..., None, :]))
        case "learned":
            learned = as_array(model.positions.weight)
            return lambda x, place: (x + learned[place], None)
        case "sinusoidal":
            waves, height = as_array(model.waves), math.sqrt(model.config.d_model)
            return lambda x, place: (x * height + waves[place], None)
    return lambda x, place: (x, None)


def attend(q: Floats, k: Floats, v: Floats) -> Floats:
    """The queries (K, G, C) of one position over keys and values (K, S, C) of all that it may see → (K, G, C)."""
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(0, 2, 1)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights @ v / weights.sum(axis=-1, keepdims=True)


def rotate(x: Floats, cos: Floats, sin: Floats) -> Floats:
    """Turn each head's pairs by the place's angle. x (..., H, C); cos and sin (..., 1, C), sin's left half negated."""
    halves_swapped = x.reshape(*x.shape[:-1], 2, -1)[..., ::-1, :].reshape(x.shape)
    return x * cos + halves_swapped * sin


def linear(module: Linear) -> Map:
    """W x, plus b where there is a bias."""
    weight = as_array(module.weight)
    if module.bias is None:
        return lambda x: weight @ x
    bias = as_array(module.bias)
    return lambda x: weight @ x + bias


def norm(module: nn.Module) -> Map:
    """RMSNorm or LayerNorm of (D,)."""
    assert isinstance(module, RMSNorm | LayerNorm)
    weight, eps, D = as_array(module.weight), module.eps, len(module.weight)

    def rms_norm(x: Floats) -> Floats:
        return x * (weight / math.sqrt(x @ x / D + eps))

    if isinstance(module, RMSNorm):
        return rms_norm
    bias = as_array(module.bias)
    return lambda x: rms_norm(x - x.mean()) + bias


def head_norm(attention: Attention) -> Map:
    """RMSNorm of each head of queries and then keys, (..., H + K, C), or nothing."""
    query, key = attention.query_norm, attention.key_norm
    if not isinstance(query, RMSNorm) or not isinstance(key, RMSNorm):
        return lambda x: x
    weight = np.repeat(
        [as_array(query.weight), as_array(key.weight)], [attention.n_heads, attention.n_kv_heads], axis=0
    )
    C, eps = attention.head_dim, query.eps

    def rms_norm(x: Floats) -> Floats:
        return x * (weight / np.sqrt(np.vecdot(x, x) / C + eps)[..., None])

    return rms_norm


def feed_forward(module: nn.Module) -> Map:
    """SwiGLU or GELU, both with the biases that they have."""
    if isinstance(module, SwiGLU):
        gate, up, down = linear(module.gate), linear(module.up), linear(module.down)

        def swiglu(x: Floats) -> Floats:
            gated = gate(x)
            return down(gated / (1 + np.exp(-gated)) * up(x))

        return swiglu
    assert isinstance(module, GELU)
    up, down = linear(module.up), linear(module.down)

    return lambda x: down(gelu(up(x)))


def gelu(x: Floats) -> Floats:
    """GPT-2's tanh formula."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def as_array(weight: Tensor) -> Floats:
    """The tensor's own memory as an array."""
    array: Floats = weight.detach().numpy()
    return array
