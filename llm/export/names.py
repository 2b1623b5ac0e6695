"""One map of weight names, read from left to right for export and from right to left for import.

blocks.3.attention.query.weight  ↔  model.layers.3.self_attn.q_proj.weight
"""

import re

# Ours, then Qwen3's in Transformers. `{}` is the number of the block.
QWEN3 = (
    ("embedding.weight", "model.embed_tokens.weight"),
    ("blocks.{}.attention_norm.weight", "model.layers.{}.input_layernorm.weight"),
    ("blocks.{}.attention.query.weight", "model.layers.{}.self_attn.q_proj.weight"),
    ("blocks.{}.attention.key.weight", "model.layers.{}.self_attn.k_proj.weight"),
    ("blocks.{}.attention.value.weight", "model.layers.{}.self_attn.v_proj.weight"),
    ("blocks.{}.attention.out.weight", "model.layers.{}.self_attn.o_proj.weight"),
    ("blocks.{}.attention.query_norm.weight", "model.layers.{}.self_attn.q_norm.weight"),
    ("blocks.{}.attention.key_norm.weight", "model.layers.{}.self_attn.k_norm.weight"),
    ("blocks.{}.feed_forward_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
    ("blocks.{}.feed_forward.gate.weight", "model.layers.{}.mlp.gate_proj.weight"),
    ("blocks.{}.feed_forward.up.weight", "model.layers.{}.mlp.up_proj.weight"),
    ("blocks.{}.feed_forward.down.weight", "model.layers.{}.mlp.down_proj.weight"),
    ("norm.weight", "model.norm.weight"),
    ("head.weight", "lm_head.weight"),
)

_BLOCK = re.compile(r"\.(\d+)\.")


def to_theirs(name: str) -> str:
    """Qwen3's name of one of our weights; KeyError for a name that is none."""
    return _translate(name, dict(QWEN3))


def to_ours(name: str) -> str:
    """Our name of one of Qwen3's weights; KeyError for a name that is none."""
    return _translate(name, {theirs: ours for ours, theirs in QWEN3})


def _translate(name: str, table: dict[str, str]) -> str:
    number = _BLOCK.search(name)
    return table[_BLOCK.sub(".{}.", name)].format(number and number[1])
