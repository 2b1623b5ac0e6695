"""One map of weight names a family, read from left to right for export and from right to left for import.

blocks.3.attention.query.weight  ↔  model.layers.3.self_attn.q_proj.weight

Files of others name some weights otherwise, and hold what is no weight: `current_names` knows how.
"""

import re
from collections.abc import Collection
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor


class Row(NamedTuple):
    """Our names of what is one weight for Transformers. Several are stacked along their outputs.

    `{}` is the number of the block. `transposed`: theirs is (d_in, d_out), as GPT-2's projections are.
    """

    ours: tuple[str, ...]
    theirs: str
    transposed: bool = False


LLAMA = (
    Row(("embedding.weight",), "model.embed_tokens.weight"),
    Row(("blocks.{}.attention_norm.weight",), "model.layers.{}.input_layernorm.weight"),
    Row(("blocks.{}.attention.query.weight",), "model.layers.{}.self_attn.q_proj.weight"),
    Row(("blocks.{}.attention.key.weight",), "model.layers.{}.self_attn.k_proj.weight"),
    Row(("blocks.{}.attention.value.weight",), "model.layers.{}.self_attn.v_proj.weight"),
    Row(("blocks.{}.attention.out.weight",), "model.layers.{}.self_attn.o_proj.weight"),
    Row(("blocks.{}.feed_forward_norm.weight",), "model.layers.{}.post_attention_layernorm.weight"),
    Row(("blocks.{}.feed_forward.gate.weight",), "model.layers.{}.mlp.gate_proj.weight"),
    Row(("blocks.{}.feed_forward.up.weight",), "model.layers.{}.mlp.up_proj.weight"),
    Row(("blocks.{}.feed_forward.down.weight",), "model.layers.{}.mlp.down_proj.weight"),
    Row(("norm.weight",), "model.norm.weight"),
    Row(("head.weight",), "lm_head.weight"),
)
QWEN3 = (
    *LLAMA,
    Row(("blocks.{}.attention.query_norm.weight",), "model.layers.{}.self_attn.q_norm.weight"),
    Row(("blocks.{}.attention.key_norm.weight",), "model.layers.{}.self_attn.k_norm.weight"),
)
QWEN2 = (
    *LLAMA,
    Row(("blocks.{}.attention.query.bias",), "model.layers.{}.self_attn.q_proj.bias"),
    Row(("blocks.{}.attention.key.bias",), "model.layers.{}.self_attn.k_proj.bias"),
    Row(("blocks.{}.attention.value.bias",), "model.layers.{}.self_attn.v_proj.bias"),
)
_QUERY_KEY_VALUE = tuple(f"blocks.{{}}.attention.{part}" for part in ("query", "key", "value"))
GPT2 = (
    Row(("embedding.weight",), "transformer.wte.weight"),
    Row(("positions.weight",), "transformer.wpe.weight"),
    Row(("blocks.{}.attention_norm.weight",), "transformer.h.{}.ln_1.weight"),
    Row(("blocks.{}.attention_norm.bias",), "transformer.h.{}.ln_1.bias"),
    Row(tuple(f"{part}.weight" for part in _QUERY_KEY_VALUE), "transformer.h.{}.attn.c_attn.weight", transposed=True),
    Row(tuple(f"{part}.bias" for part in _QUERY_KEY_VALUE), "transformer.h.{}.attn.c_attn.bias"),
    Row(("blocks.{}.attention.out.weight",), "transformer.h.{}.attn.c_proj.weight", transposed=True),
    Row(("blocks.{}.attention.out.bias",), "transformer.h.{}.attn.c_proj.bias"),
    Row(("blocks.{}.feed_forward_norm.weight",), "transformer.h.{}.ln_2.weight"),
    Row(("blocks.{}.feed_forward_norm.bias",), "transformer.h.{}.ln_2.bias"),
    Row(("blocks.{}.feed_forward.up.weight",), "transformer.h.{}.mlp.c_fc.weight", transposed=True),
    Row(("blocks.{}.feed_forward.up.bias",), "transformer.h.{}.mlp.c_fc.bias"),
    Row(("blocks.{}.feed_forward.down.weight",), "transformer.h.{}.mlp.c_proj.weight", transposed=True),
    Row(("blocks.{}.feed_forward.down.bias",), "transformer.h.{}.mlp.c_proj.bias"),
    Row(("norm.weight",), "transformer.ln_f.weight"),
    Row(("norm.bias",), "transformer.ln_f.bias"),
    Row(("head.weight",), "lm_head.weight"),
)
TABLES = {"qwen3": QWEN3, "qwen2": QWEN2, "llama": LLAMA, "gpt2": GPT2}

# What older files hold beside the weights: causal masks, and RoPE's frequencies. Both are computed here.
_BUFFERS = re.compile(
    r"transformer\.h\.\d+\.attn\.(masked_)?bias|model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", re.ASCII
)
_GPT2_PREFIX = "transformer."


def current_names(family: str, stored: Collection[str]) -> dict[str, str]:
    """Today's names in Transformers → the names in a file, of all that may be a weight.

    The first release of GPT-2 has no prefix; causal masks and RoPE's frequencies in a file are left out.

    >>> current_names("gpt2", ["h.0.attn.bias", "h.0.attn.c_attn.bias"])
    {'transformer.h.0.attn.c_attn.bias': 'h.0.attn.c_attn.bias'}
    """
    bare = family == "gpt2" and not any(name.startswith(_GPT2_PREFIX) for name in stored)
    current = {name if not bare or name == "lm_head.weight" else f"{_GPT2_PREFIX}{name}": name for name in stored}
    return {name: in_file for name, in_file in current.items() if not _BUFFERS.fullmatch(name)}


def count_layers(family: str, names: Collection[str]) -> int:
    """How many blocks the names of a file are of, from block 0 up.

    >>> count_layers("llama", ["model.layers.0.input_layernorm.weight", "model.layers.1.input_layernorm.weight"])
    2
    """
    norm = next(row.theirs for row in TABLES[family] if row.ours == ("blocks.{}.attention_norm.weight",))
    return next(layer for layer in count() if norm.format(layer) not in names)


def to_theirs(family: str, n_layers: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under Transformers' names; KeyError for a name that is none of ours. A tied head may be missing."""
    left = dict(weights)
    named: dict[str, Tensor] = {}
    for row in _rows(family, n_layers):
        if row.ours[0] in left:
            whole = torch.cat([left.pop(name) for name in row.ours])
            named[row.theirs] = whole.T if row.transposed else whole
    if left:
        raise KeyError(*sorted(left))
    return named


def to_ours(family: str, n_layers: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Transformers' weights under our names; KeyError with the names that are none of theirs."""
    left = dict(weights)
    named: dict[str, Tensor] = {}
    for row in _rows(family, n_layers):
        if row.theirs in left:
            given = left.pop(row.theirs)
            whole = given.T if row.transposed else given
            named |= dict(zip(row.ours, whole.chunk(len(row.ours)), strict=False))
    if left:
        raise KeyError(*sorted(left))
    return named


def _rows(family: str, n_layers: int) -> list[Row]:
    """The family's table with a row for each block."""
    return [
        Row(tuple(name.format(layer) for name in row.ours), row.theirs.format(layer), row.transposed)
        for row in TABLES[family]
        for layer in (range(n_layers) if "{}" in row.theirs else (0,))
    ]
