"""Which formats a shape can be written in. Nothing heavy is imported, for `llm check` asks here."""

import importlib.util

from llm.export.params import Format
from llm.model.config import ModelParams

FAMILIES = ("qwen3", "qwen2", "llama", "gpt2")  # that Transformers and llama.cpp have an architecture for
# Our split patterns → llama.cpp's names of the same ones. It has none for cl100k's.
PRE_TOKENIZERS = {"qwen2": "qwen2", "gpt2": "gpt-2", "llama3": "llama-bpe"}
PACKAGES = {"gguf": ("gguf",), "onnx": ("onnx", "onnxscript")}


def why_native(config: ModelParams) -> str | None:
    """Why Transformers has no architecture for a shape, in one line that names the key; None where it has one."""
    where = "wanted a model that Transformers knows:"
    if config.family not in FAMILIES:
        return f"{where} model.family {', '.join(FAMILIES)}, given {config.family}"
    if config.sees_the_future:
        return f"{where} model.attention causal, multi_head or grouped, given {config.attention}"
    if config.position_scheme != config.parts.positions:
        return f"{where} model.positions {config.parts.positions} for {config.family}, given {config.position_scheme}"
    if config.family == "gpt2" and config.n_key_heads != config.n_query_heads:
        return f"{where} model.n_kv_heads {config.n_query_heads} as n_heads for gpt2, given {config.n_key_heads}"
    return None


def incompatibility_reason(format_: Format, config: ModelParams) -> str | None:
    """Return why a shape cannot be written in a format, or None where it can: llama.cpp has Transformers' shapes."""
    if format_ != "onnx":
        return why_native(config)
    if config.family == "gru" or config.sees_the_future:
        return (
            "expected a model that keeps keys and values: model.family other than gru, model.attention causal, "
            f"multi_head or grouped, got {config.family} with {config.attention}"
        )
    return None


def missing_package(format_: Format) -> str | None:
    """Return the sentence about a package that writing a format needs and that is not installed."""
    for name in PACKAGES[format_.split("-")[0]]:
        if importlib.util.find_spec(name) is None:
            target = "setup" if name == "gguf" else "extras"
            return f"expected the package {name}, it is not installed (make {target})"
    return None
