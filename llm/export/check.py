"""Whether `export.formats` can be written of what params describe: known before anything is trained.

Nothing heavy is imported before a tokenizer that was brought along has to be looked at.
"""

from collections.abc import Sequence
from pathlib import Path

from llm.core.errors import UserError
from llm.export.hf.possible import PRE_TOKENIZERS, incompatibility_reason, missing_package
from llm.export.params import Format
from llm.model.config import ModelParams
from llm.tokens.params import TokenizeParams


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
    if tokenize.pretrained is None:
        from llm.tokens.bpe import PATTERNS

        names = [name for name, expression in PATTERNS.items() if tokenize.pattern in (name, expression)]
        if not PRE_TOKENIZERS.keys() & names:
            expected = ", ".join(PRE_TOKENIZERS)
            return f"expected tokenize.pattern {expected}, which llama.cpp has a name for, got {tokenize.pattern}"
        return None
    from llm.export.gguf import describe_vocabulary
    from llm.tokens.pretrained import read_pretrained

    try:
        describe_vocabulary(read_pretrained(Path(tokenize.pretrained), tokenize.pattern))
    except UserError as error:
        return f"tokenize.pretrained: {error}"
    return None
