"""Which shapes Transformers has an architecture for. Imports no torch, so that `llm check` stays fast."""

from llm.model.config import ModelParams

FAMILIES = ("qwen3", "qwen2", "llama", "gpt2")  # llama.cpp has them too


def unsupported_reason(config: ModelParams) -> str | None:
    """Return why Transformers has no architecture for a shape, in one line that names the key; None if it has one."""
    equal_heads = config.family == "gpt2"
    for key, got, expected in (
        ("family", config.family, FAMILIES),
        ("attention", config.attention, ("causal", "multi_head", "grouped")),
        ("positions", config.position_scheme, (config.parts.positions,)),
        ("n_kv_heads", config.n_key_heads, (config.n_query_heads if equal_heads else config.n_key_heads,)),
    ):
        if got not in expected:
            choices = ", ".join(map(str, expected))
            return f"expected model.{key} {choices}, for which Transformers has an architecture, got {got}"
    return None
