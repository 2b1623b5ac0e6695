"""Which formats a shape and a tokenizer can be written in: known from params, before anything is trained.

Nothing heavy is imported, for `llm check` asks here.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from llm.errors import UserError
from llm.export.params import Format
from llm.model.config import ModelParams
from llm.text.params import TokenizeParams

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


def export_problems(formats: Sequence[Format], model: ModelParams, tokenize: TokenizeParams) -> list[str]:
    """Return why `export.formats` cannot be written of a model with these params, a sentence a problem."""
    problems = []
    for format_ in formats:
        if reason := incompatibility_reason(format_, model) or missing_package(format_):
            problems.append(f"export.formats: {format_}: {reason}")
    gguf = [format_ for format_ in formats if format_.startswith("gguf")]
    if gguf and (reason := _tokenizer_reason(tokenize)):
        problems.append(f"export.formats: {', '.join(gguf)}: {reason}")
    return [f"{problem}; or leave the format out" for problem in problems]


def _tokenizer_reason(tokenize: TokenizeParams) -> str | None:
    if tokenize.kind != "bpe":
        return f"expected tokenize.kind bpe, the only kind that llama.cpp reads, got {tokenize.kind}"
    if tokenize.origin is None:
        from llm.text.bpe import PATTERNS

        names = [name for name, expression in PATTERNS.items() if tokenize.pattern in (name, expression)]
        if not PRE_TOKENIZERS.keys() & names:
            expected = ", ".join(PRE_TOKENIZERS)
            return f"expected tokenize.pattern {expected}, which llama.cpp has a name for, got {tokenize.pattern}"
        return None
    from llm.export.gguf import describe_vocabulary
    from llm.text.given import read_given

    try:
        describe_vocabulary(read_given(Path(tokenize.origin), tokenize.pattern))
    except UserError as error:
        return f"tokenize.from: {error}"
    return None
