"""One table of module names, read from left to right for export and from right to left for import.

blocks.3.attention.query.weight  ↔  model.layers.3.self_attn.q_proj.weight
"""

import re
from collections.abc import Collection, Iterator
from itertools import count, groupby
from typing import TypeVar

import torch
from torch import Tensor

Tensors = TypeVar("Tensors")

# Our module → its name in Transformers' Llama and Qwen, in its GPT-2, and in GGUF. `{}` is the number of the block.
_NAMES = {
    "embedding": ("model.embed_tokens", "transformer.wte", "token_embd"),
    "positions": (None, "transformer.wpe", "position_embd"),
    "blocks.{}.attention_norm": ("model.layers.{}.input_layernorm", "transformer.h.{}.ln_1", "blk.{}.attn_norm"),
    "blocks.{}.attention.query": ("model.layers.{}.self_attn.q_proj", "transformer.h.{}.attn.c_attn", "blk.{}.attn_q"),
    "blocks.{}.attention.key": ("model.layers.{}.self_attn.k_proj", "transformer.h.{}.attn.c_attn", "blk.{}.attn_k"),
    "blocks.{}.attention.value": ("model.layers.{}.self_attn.v_proj", "transformer.h.{}.attn.c_attn", "blk.{}.attn_v"),
    "blocks.{}.attention.query_norm": ("model.layers.{}.self_attn.q_norm", None, "blk.{}.attn_q_norm"),
    "blocks.{}.attention.key_norm": ("model.layers.{}.self_attn.k_norm", None, "blk.{}.attn_k_norm"),
    "blocks.{}.attention.out": (
        "model.layers.{}.self_attn.o_proj",
        "transformer.h.{}.attn.c_proj",
        "blk.{}.attn_output",
    ),
    "blocks.{}.feed_forward_norm": (
        "model.layers.{}.post_attention_layernorm",
        "transformer.h.{}.ln_2",
        "blk.{}.ffn_norm",
    ),
    "blocks.{}.feed_forward.gate": ("model.layers.{}.mlp.gate_proj", None, "blk.{}.ffn_gate"),
    "blocks.{}.feed_forward.up": ("model.layers.{}.mlp.up_proj", "transformer.h.{}.mlp.c_fc", "blk.{}.ffn_up"),
    "blocks.{}.feed_forward.down": ("model.layers.{}.mlp.down_proj", "transformer.h.{}.mlp.c_proj", "blk.{}.ffn_down"),
    "norm": ("model.norm", "transformer.ln_f", "output_norm"),
    "head": ("lm_head", "lm_head", "output"),
}
# Our module → theirs. Several of ours with one name are stacked along their outputs.
Modules = dict[str, str]
LLAMA, GPT2, GGUF = (
    {ours: name for ours, names in _NAMES.items() if (name := names[column]) is not None} for column in range(3)
)
TABLES = {"qwen3": LLAMA, "qwen2": LLAMA, "llama": LLAMA, "gpt2": GPT2}

# GPT-2's projections are `Conv1D` modules, whose weights are (d_in, d_out).
_TRANSPOSED = re.compile(r"transformer\..*\.c_\w+\.weight")
# Buffers in older files: causal masks and RoPE's frequencies. Both are computed here.
_BUFFERS = re.compile(
    r"transformer\.h\.\d+\.attn\.(masked_)?bias|model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", re.ASCII
)
_GPT2_PREFIX = "transformer."


def to_theirs(family: str, n_layers: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return our weights under Transformers' names; a tied head may be missing."""
    named = rename(TABLES[family], n_layers, weights)
    return {name: _transpose(name, weight) for name, weight in named.items()}


def to_ours(family: str, n_layers: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return Transformers' weights under our names."""
    named: dict[str, Tensor] = {}
    for ours, theirs in _parameters(TABLES[family], n_layers):
        if theirs in weights:
            named |= zip(ours, _transpose(theirs, weights[theirs]).chunk(len(ours)), strict=True)
    return named


def rename(modules: Modules, n_layers: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return our weights under the names of a table, stacked where it asks for it."""
    pairs = [(ours, theirs) for ours, theirs in _parameters(modules, n_layers) if ours[0] in weights]
    assert {name for ours, _ in pairs for name in ours} == weights.keys()
    return {theirs: torch.cat([weights[name] for name in ours]) for ours, theirs in pairs}


def _parameters(modules: Modules, n_layers: int) -> Iterator[tuple[list[str], str]]:
    for theirs, ours in groupby(modules, modules.__getitem__):
        names = list(ours)
        for layer in range(n_layers if "{}" in theirs else 1):
            for part in ("weight", "bias"):
                yield [f"{name}.{part}".format(layer) for name in names], f"{theirs}.{part}".format(layer)


def _transpose(name: str, weight: Tensor) -> Tensor:
    return weight.T if _TRANSPOSED.fullmatch(name) else weight


def with_current_names(family: str, stored: dict[str, Tensors]) -> dict[str, Tensors]:
    """Return the tensors of a file under today's names in Transformers, without buffers.

    The first release of GPT-2 has no prefix.

    >>> with_current_names("gpt2", {"h.0.attn.bias": 1, "h.0.attn.c_attn.bias": 2})
    {'transformer.h.0.attn.c_attn.bias': 2}
    """
    bare = family == "gpt2" and not any(name.startswith(_GPT2_PREFIX) for name in stored)
    current = {
        f"{_GPT2_PREFIX}{name}" if bare and name != "lm_head.weight" else name: of for name, of in stored.items()
    }
    return {name: of for name, of in current.items() if not _BUFFERS.fullmatch(name)}


def count_layers(family: str, names: Collection[str]) -> int:
    """Count the blocks that the names of a file belong to, from block 0 up.

    >>> count_layers("llama", ["model.layers.0.input_layernorm.weight", "model.layers.1.input_layernorm.weight"])
    2
    """
    norm = TABLES[family]["blocks.{}.attention_norm"]
    return next(layer for layer in count() if f"{norm}.weight".format(layer) not in names)
