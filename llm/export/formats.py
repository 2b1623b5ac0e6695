"""Whether `export.formats` can be written of a model, known before anything is trained.

Nothing heavy is imported before a tokenizer of others has to be read.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llm.core.errors import UserError
from llm.export.hf.supported import unsupported_reason
from llm.export.params import Format
from llm.model.config import ModelParams
from llm.tokens.params import TokenizeParams

if TYPE_CHECKING:
    import tokenizers

# Our split patterns → llama.cpp's names of the same ones. It has none for cl100k's.
PRE_TOKENIZERS = {"qwen2": "qwen2", "gpt2": "gpt-2", "llama3": "llama-bpe"}
PACKAGES = {"gguf": ("gguf",), "onnx": ("onnx", "onnxscript")}  # that write the format


def export_problems(formats: Sequence[Format], model: ModelParams, tokenize: TokenizeParams) -> list[str]:
    """Return a sentence for each reason why a model with these params cannot be written in `export.formats`."""
    problems = [f"{name}: {reason}" for name in formats if (reason := incompatibility_reason(name, model))]
    gguf = [name for name in formats if name != "onnx"]
    if gguf and (reason := _tokenizer_reason(tokenize)):
        problems.append(f"{', '.join(gguf)}: {reason}")
    return [f"export.formats: {problem}; or leave the format out" for problem in problems]


def folder_problem(folder: Path, formats: Sequence[Format]) -> str | None:
    """Return why a language model finetuned from a Hugging Face folder could not be written in `formats`, or None."""
    from llm.export.hf.base import read_tokenizer
    from llm.export.hf.folder import read_config

    config = read_config(folder)
    for name in formats:
        reason = incompatibility_reason(name, config)
        if name != "onnx" and not reason:
            reason = _vocabulary_reason(lambda: read_tokenizer(folder)[0])
        if reason:
            return f"{folder}: export.formats: {name}: {reason}; or leave the format out"
    return None


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


def _tokenizer_reason(tokenize: TokenizeParams) -> str | None:
    """Return why llama.cpp cannot read the tokenizer that is trained or brought along, or None."""
    if tokenize.kind != "bpe":
        return f"expected tokenize.kind bpe, the only kind that llama.cpp reads, got {tokenize.kind}"
    if tokenize.pretrained is not None:
        from llm.tokens.pretrained import read_pretrained

        path = Path(tokenize.pretrained)
        reason = _vocabulary_reason(lambda: read_pretrained(path, tokenize.pattern))
        return reason and f"tokenize.pretrained: {reason}"
    from llm.tokens.bpe import PATTERNS

    if any(tokenize.pattern in (name, PATTERNS[name]) for name in PRE_TOKENIZERS):
        return None
    expected = ", ".join(PRE_TOKENIZERS)
    return f"expected tokenize.pattern {expected}, which llama.cpp has a name for, got {tokenize.pattern}"


def _vocabulary_reason(read: Callable[[], "tokenizers.Tokenizer"]) -> str | None:
    from llm.export.gguf import describe_vocabulary

    try:
        describe_vocabulary(read())
    except UserError as error:
        return str(error)
    return None
