"""Many texts at once, each in a slot of its own, all of them one token on in one step.

    read(slot, ids) → logits (1, V) after a prompt;  step(slots, tokens) → logits (B, V), a row for each slot

The step's mathematics is that of `llm.model.decode` with a row for each slot: one product a linear map for all rows,
and attention of each row over its own slot's keys and values. A row never depends on the rows beside it, to the last
bit: what a seed draws is the same on an empty server and on a full one. Letters are those of `llm.model.attention`;
B are the rows of a step.
"""

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from llm.model.attention import Attention
from llm.model.decode import Floats, Map, Rotation, as_array, attend, can_decode, gelu, head_norm, placer, rotate
from llm.model.gpt import GPT, Block, Past
from llm.model.layers import GELU, LayerNorm, Linear, RMSNorm, SwiGLU

# A matrix product's rounding depends on its shape, so there is one shape only: this many rows, the last of them
# perhaps idle, by a tile of the weights so small that the library multiplies it without packing it first.
N_ROWS, TILE_PRODUCTS = 2, 400_000


class Slots(Protocol):
    """Room for some texts, numbered from 0."""

    n_slots: int

    def read(self, slot: int, ids: list[int], every: bool = False) -> Tensor:
        """Begin a text anew: the logits (1, V) after its ids, or with `every` those after each of them, (T, V)."""

    def step(self, slots: list[int], tokens: list[int]) -> Tensor:
        """Let the texts of some slots, each named once, go on by a token: the logits (B, V) after it."""


def make_slots(model: GPT, n_slots: int) -> Slots:
    """Slots in NumPy where it can compute the model, else in torch."""
    return NumpySlots(model, n_slots) if can_decode(model) else TorchSlots(model, n_slots)


class TorchSlots:
    """Any model: the texts of a step are computed one after the other."""

    def __init__(self, model: GPT, n_slots: int):
        self.model, self.n_slots = model, n_slots
        self.texts: list[list[int]] = [[] for _ in range(n_slots)]
        self.pasts: list[Past | None] = [None] * n_slots

    def read(self, slot: int, ids: list[int], every: bool = False) -> Tensor:
        """Logits (1, V) or (T, V) of the prompt."""
        self.texts[slot] = list(ids)
        logits, self.pasts[slot] = read_text(self.model, ids, None, every)
        return logits

    def step(self, slots: list[int], tokens: list[int]) -> Tensor:
        """Logits (B, V). A model that sees the future reads the whole text again."""
        return torch.stack([self._step(slot, token) for slot, token in zip(slots, tokens, strict=True)])

    def _step(self, slot: int, token: int) -> Tensor:
        self.texts[slot].append(token)
        if self.model.sees_the_future:
            return read_text(self.model, self.texts[slot], None)[0][-1]
        logits, self.pasts[slot] = read_text(self.model, [token], self.pasts[slot])
        return logits[-1]


@torch.inference_mode()
def read_text(model: GPT, ids: list[int], past: Past | None, every: bool = False) -> tuple[Tensor, Past]:
    """The logits (1, V) after the ids or (T, V) after each, in float32 on the CPU, and what is kept of them."""
    hidden, kept = model.run_blocks(model.embedding(torch.tensor([ids], device=model.embedding.weight.device)), past)
    return model.head(hidden[0] if every else hidden[0, -1:]).float().cpu(), kept


class NumpySlots:
    """The weights, cut into tiles, and room for the keys and values of a whole context in each slot."""

    def __init__(self, model: GPT, n_slots: int):
        assert can_decode(model)
        self.model, self.config, self.n_slots = model, model.config, n_slots
        self.lengths = np.zeros(n_slots, dtype=np.int64)
        self.embedding, self.norm, self.head = as_array(model.embedding.weight), norm(model.norm), linear(model.head)
        self.apply_positions = placer(model)
        self.blocks = [BlockSlots(block, n_slots, self.config.context_length) for block in model.blocks]

    def read(self, slot: int, ids: list[int], every: bool = False) -> Tensor:
        """Logits (1, V) or (T, V) of the prompt, read in one batch by the model itself."""
        logits, past = read_text(self.model, ids, None, every)
        self.lengths[slot] = past.length
        for block, (keys, values) in zip(self.blocks, past.layers, strict=True):
            block.keys[slot, :, : past.length] = as_array(keys)[0, :, : past.length]
            block.values[slot, :, : past.length] = as_array(values)[0, :, : past.length]
        return logits

    def step(self, slots: list[int], tokens: list[int]) -> Tensor:
        """Logits (B, V)."""
        places = self.lengths[slots]
        assert places.max() < self.config.context_length, "more tokens than the context holds"
        x, rotation = self.apply_positions(self.embedding[tokens], places)
        for block in self.blocks:
            x = block(x, slots, places.tolist(), rotation)
        self.lengths[slots] += 1
        return torch.from_numpy(self.head(self.norm(x)))


class BlockSlots:
    """A block, and the keys and values (slots, K, room, C) of the positions that each slot has seen."""

    def __init__(self, block: nn.Module, n_slots: int, room: int):
        assert isinstance(block, Block) and isinstance(block.attention, Attention)
        attention = block.attention
        self.attention_norm, self.feed_forward_norm = norm(block.attention_norm), norm(block.feed_forward_norm)
        self.query_key_value = linear(attention.query, attention.key, attention.value)
        self.head_norm, self.out = head_norm(attention), linear(attention.out)
        self.feed_forward = feed_forward(block.feed_forward)
        self.keys = np.empty((n_slots, attention.n_kv_heads, room, attention.head_dim), dtype=np.float32)
        self.values = np.empty_like(self.keys)

    def __call__(self, x: Floats, slots: list[int], places: list[int], rotation: Rotation | None) -> Floats:
        """(B, D) of each slot's next position → (B, D)."""
        B, (_, K, _, C) = len(x), self.keys.shape
        mixed = self.query_key_value(self.attention_norm(x)).reshape(B, -1, C)
        heads, values = self.head_norm(mixed[:, :-K]), mixed[:, -K:]
        if rotation is not None:
            heads = rotate(heads, *rotation)
        queries, keys = heads[:, :-K].reshape(B, K, -1, C), heads[:, -K:]
        gathered = np.empty_like(queries)
        for row, (slot, place) in enumerate(zip(slots, places, strict=True)):
            seen_keys, seen_values = self.keys[slot, :, : place + 1], self.values[slot, :, : place + 1]
            seen_keys[:, place], seen_values[:, place] = keys[row], values[row]
            gathered[row] = attend(queries[row], seen_keys, seen_values)
        x = x + self.out(gathered.reshape(B, -1))
        return x + self.feed_forward(self.feed_forward_norm(x))


def linear(*modules: Linear) -> Map:
    """(B, I) → (B, O): the maps of one input side by side, in products of N_ROWS rows by one tile of the weights."""
    weight = np.concatenate([as_array(module.weight) for module in modules])
    O, I = weight.shape  # noqa: E741 (the outputs and inputs of the map)
    n_tiles = math.ceil(N_ROWS * O * I / TILE_PRODUCTS)
    width = math.ceil(O / n_tiles)
    padded = np.concatenate([weight, np.zeros((n_tiles * width - O, I), dtype=np.float32)])
    tiles = np.ascontiguousarray(padded.reshape(n_tiles, width, I).transpose(0, 2, 1))
    biases = [as_array(module.bias) for module in modules if module.bias is not None]
    bias = np.concatenate(biases) if biases else None

    def multiply(x: Floats) -> Floats:
        B = len(x)
        if B % N_ROWS:
            x = np.concatenate([x, np.zeros((-B % N_ROWS, I), dtype=np.float32)])
        product = x.reshape(-1, 1, N_ROWS, I) @ tiles  # (rows / N_ROWS, n_tiles, N_ROWS, width)
        y = product.transpose(0, 2, 1, 3).reshape(len(x), -1)[:B, :O]
        return y if bias is None else y + bias

    return multiply


def norm(module: nn.Module) -> Map:
    """RMSNorm or LayerNorm of the rows of (B, D)."""
    assert isinstance(module, RMSNorm | LayerNorm)
    weight, eps, D = as_array(module.weight), module.eps, len(module.weight)

    def rms_norm(x: Floats) -> Floats:
        return x * (weight / np.sqrt(np.vecdot(x, x) / D + eps)[:, None])

    if isinstance(module, RMSNorm):
        return rms_norm
    bias = as_array(module.bias)
    return lambda x: rms_norm(x - x.mean(axis=-1, keepdims=True)) + bias


def feed_forward(module: nn.Module) -> Map:
    """SwiGLU or GELU of the rows of (B, D)."""
    assert isinstance(module, SwiGLU | GELU)
    down, activate = linear(module.down), swiglu if isinstance(module, SwiGLU) else gelu
    wide = linear(module.gate, module.up) if isinstance(module, SwiGLU) else linear(module.up)
    return lambda x: down(activate(wide(x)))


def swiglu(x: Floats) -> Floats:
    """Gate and up side by side, (B, 2 F) → (B, F)."""
    gate, up = np.split(x, 2, axis=-1)
    return gate / (1 + np.exp(-gate)) * up
