"""The `export` section of params.yaml, and whether its formats can be written of a model, before one is trained.

Nothing heavy is imported before a tokenizer of others has to be read.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from llm.core.errors import UserError
from llm.core.params import Section
from llm.export.hf.supported import unsupported_reason
from llm.model.config import ModelParams
from llm.tokens.params import TokenizeParams

Format = Literal["gguf-f32", "gguf-f16", "gguf-q8_0", "onnx"]
# Our split patterns → llama.cpp's names of the same ones. It has none for cl100k's.
PRE_TOKENIZERS = {"qwen2": "qwen2", "gpt2": "gpt-2", "llama3": "llama-bpe"}
PACKAGES = {"gguf": ("gguf",), "onnx": ("onnx", "onnxscript")}  # that write the format


def _are_unique(formats: list[Format]) -> list[Format]:
    if len(set(formats)) < len(formats):
        raise ValueError(f"expected each format once, got {', '.join(formats)}")
    return formats


class ExportParams(Section):
    """Formats that are written beside the Hugging Face folder."""

    formats: Annotated[list[Format], AfterValidator(_are_unique)]


def export_problems(formats: Sequence[Format], model: ModelParams, tokenize: TokenizeParams) -> list[str]:
    """Return a sentence for each reason why a model with these params cannot be written in `export.formats`."""
    return _problems(formats, model, lambda: _check_tokenizer(tokenize))


def folder_problems(formats: Sequence[Format], folder: Path) -> list[str]:
    """Return these sentences for a language model finetuned from a Hugging Face folder."""
    from llm.export.gguf import pre_tokenizer_of
    from llm.export.hf.base import read_tokenizer
    from llm.export.hf.folder import read_headers

    return _problems(formats, read_headers(folder)[0], lambda: pre_tokenizer_of(read_tokenizer(folder)[0]))


def _problems(formats: Sequence[Format], model: ModelParams, check_tokenizer: Callable[[], object]) -> list[str]:
    problems = [f"{name}: {reason}" for name in formats if (reason := incompatibility_reason(name, model))]
    if gguf := [name for name in formats if name != "onnx"]:
        try:
            check_tokenizer()
        except UserError as error:
            problems.append(f"{', '.join(gguf)}: {error}")
    return [f"export.formats: {problem}; or leave the format out" for problem in problems]


def incompatibility_reason(format_: Format, config: ModelParams) -> str | None:
    """Return why a shape cannot be written in a format on this machine, or None where it can."""
    reason = unsupported_reason(config)
    if format_ == "onnx":
        has_keys = config.family != "gru" and config.is_causal
        got = f"{config.family} with attention {config.attention}"
        reason = None if has_keys else f"expected a model with a cache of keys and values, got {got}"
    return reason or missing_package(*PACKAGES[format_.split("-")[0]])


def missing_package(*names: str) -> str | None:
    """Return the sentence for a package that is not installed, or None where all are."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            target = "setup" if name == "gguf" else "extras"
            return f"expected the package {name}, it is not installed (make {target})"
    return None


def _check_tokenizer(tokenize: TokenizeParams) -> None:
    """Raise UserError where llama.cpp cannot read the tokenizer that is trained or brought along."""
    from llm.tokens.bpe import PATTERNS

    if tokenize.kind != "bpe":
        raise UserError(f"expected tokenize.kind bpe, the only kind that llama.cpp reads, got {tokenize.kind}")
    if tokenize.pretrained is not None:
        from llm.export.gguf import pre_tokenizer_of
        from llm.tokens.pretrained import read_pretrained

        try:
            pre_tokenizer_of(read_pretrained(Path(tokenize.pretrained), tokenize.pattern))
        except UserError as error:
            raise UserError(f"tokenize.pretrained: {error}") from None
    elif not any(tokenize.pattern in (name, PATTERNS[name]) for name in PRE_TOKENIZERS):
        expected = f"{', '.join(PRE_TOKENIZERS)}, which llama.cpp has a name for"
        raise UserError(f"expected tokenize.pattern {expected}, got {tokenize.pattern}")
