"""One table of module names, read from left to right for export and from right to left for import.

blocks.3.attention.query.weight  ↔  model.layers.3.self_attn.q_proj.weight
"""

import re
from collections.abc import Iterator
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor

Tensors = TypeVar("Tensors")

# Our module → its name in Transformers' Llama and Qwen, in its GPT-2, and in GGUF; in a block without its prefix.
_BLOCKS = ("model.layers.{}.", "transformer.h.{}.", "blk.{}.")
_NAMES = {
    "embedding": ("model.embed_tokens", "transformer.wte", "token_embd"),
    "positions": (None, "transformer.wpe", "position_embd"),
    "blocks.{}.attention_norm": ("input_layernorm", "ln_1", "attn_norm"),
    "blocks.{}.attention.query": ("self_attn.q_proj", "attn.c_attn", "attn_q"),
    "blocks.{}.attention.key": ("self_attn.k_proj", "attn.c_attn", "attn_k"),
    "blocks.{}.attention.value": ("self_attn.v_proj", "attn.c_attn", "attn_v"),
    "blocks.{}.attention.query_norm": ("self_attn.q_norm", None, "attn_q_norm"),
    "blocks.{}.attention.key_norm": ("self_attn.k_norm", None, "attn_k_norm"),
    "blocks.{}.attention.out": ("self_attn.o_proj", "attn.c_proj", "attn_output"),
    "blocks.{}.feed_forward_norm": ("post_attention_layernorm", "ln_2", "ffn_norm"),
    "blocks.{}.feed_forward.gate": ("mlp.gate_proj", None, "ffn_gate"),
    "blocks.{}.feed_forward.up": ("mlp.up_proj", "mlp.c_fc", "ffn_up"),
    "blocks.{}.feed_forward.down": ("mlp.down_proj", "mlp.c_proj", "ffn_down"),
    "norm": ("model.norm", "transformer.ln_f", "output_norm"),
    "head": ("lm_head", "lm_head", "output"),
}
# Our module → theirs. Several of ours with one name are stacked along their outputs.
LLAMA, GPT2, GGUF = (
    {ours: (block if "{}" in ours else "") + name for ours, names in _NAMES.items() if (name := names[column])}
    for column, block in enumerate(_BLOCKS)
)
TABLES = {"qwen3": LLAMA, "qwen2": LLAMA, "llama": LLAMA, "gpt2": GPT2}
# GPT-2's projections are `Conv1D` modules, whose weights are (d_in, d_out).
_TRANSPOSED = re.compile(r"transformer\..*\.c_\w+\.weight")
# Buffers in older files: causal masks and RoPE's frequencies. Both are computed here.
_BUFFERS = re.compile(
    r"transformer\.h\.\d+\.attn\.(masked_)?bias|model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", re.ASCII
)


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


def rename(modules: dict[str, str], n_layers: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return our weights under the names of a table, stacked where it asks for it."""
    pairs = [(ours, theirs) for ours, theirs in _parameters(modules, n_layers) if ours[0] in weights]
    assert {name for ours, _ in pairs for name in ours} == weights.keys()
    return {theirs: torch.cat([weights[name] for name in ours]) for ours, theirs in pairs}


def _parameters(modules: dict[str, str], n_layers: int) -> Iterator[tuple[list[str], str]]:
    for theirs, ours in groupby(modules, modules.__getitem__):
        names = list(ours)
        for layer in range(n_layers if "{}" in theirs else 1):
            for part in ("weight", "bias"):
                yield [f"{name}.{part}".format(layer) for name in names], f"{theirs}.{part}".format(layer)


def _transpose(name: str, weight: Tensor) -> Tensor:
    return weight.T if _TRANSPOSED.fullmatch(name) else weight


def with_current_names(family: str, stored: dict[str, Tensors]) -> dict[str, Tensors]:
    """Return a file's tensors under today's names, without buffers; the first release of GPT-2 has no prefix.

    >>> with_current_names("gpt2", {"h.0.attn.bias": 1, "h.0.attn.c_attn.bias": 2})
    {'transformer.h.0.attn.c_attn.bias': 2}
    """
    prefix = "transformer."
    bare = family == "gpt2" and not any(name.startswith(prefix) for name in stored)
    current = {f"{prefix}{name}" if bare and name != "lm_head.weight" else name: of for name, of in stored.items()}
    return {name: of for name, of in current.items() if not _BUFFERS.fullmatch(name)}
