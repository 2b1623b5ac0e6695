"""An export through every client that it is for: how far each is from our own model, as one table.

models/export             model.safetensors  gguf/*.gguf  onnx/model.onnx  → a row each
models/finetuned/library  model.safetensors, of a classifier               → a row
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from llm.export.gguf import FILES
from llm.export.hf.base import open_model
from llm.export.hf.classifier import LANGUAGE_MODELS, read_classifier
from llm.export.hf.folder import CHAT_TEMPLATE
from llm.export.hf.possible import why_native
from llm.export.hf.tensors import SINGLE, read_object
from llm.export.llama_cpp import bounds_of, compare_with_llama_cpp
from llm.export.onnx import FILE, compare_with_onnxruntime, files_of
from llm.export.verify import (
    MOST_DIVERGENCE,
    Chat,
    Parity,
    compare_classifier_with_transformers,
    compare_with_transformers,
)
from llm.model.config import ModelConfig
from llm.tokens.tokenizer import Tokenizer

HEAD = (
    "file",
    "client",
    "bytes",
    "largest difference",
    "divergence",
    "at most",
    "other ids",
    "other texts",
    "bits lost",
)
NONE = "–"
Row = tuple[str, ...]
MakeChat = Callable[[Tokenizer], Chat]


def verify_export(folder: Path, seed: int, text: str = "", make_chat: MakeChat | None = None) -> tuple[str, list[str]]:
    """Load a Hugging Face folder, each GGUF file in its `gguf/` and the file in `onnx/`, with the clients they are for.

    The folder is of a language model or a classifier. Returns a table of how far each is from our own model, and the
    names of those that are too far. Where a `text` is given, its ids are compared, and what it costs in llama.cpp.
    `make_chat` is asked for a conversation where the folder has a chat template. UserError where there is no such
    folder, or files for llama.cpp or ONNX Runtime and the client is not installed.
    """
    found = list(_look(folder, seed, text, make_chat))
    rows = [HEAD, *(row for row, _, _ in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{row[0]} is not for {row[1]}: {reason}" for row, _, reason in found if reason]
    return "\n".join(lines), [row[0] for row, agrees, _ in found if not agrees]


def _look(folder: Path, seed: int, text: str, make_chat: MakeChat | None) -> Iterator[tuple[Row, bool, str | None]]:
    """A row of the table for each file, whether it is right, and why its client could not be asked."""
    if _is_classifier(folder):
        classifier, tokenizer, info = read_classifier(folder)
        compare = partial(compare_classifier_with_transformers, folder, classifier, tokenizer, info)
        yield _ask_transformers(folder, classifier.trunk.config, lambda: compare(seed, text))
        return
    model, tokenizer = open_model(folder)
    chat = make_chat(tokenizer) if make_chat and (folder / CHAT_TEMPLATE).exists() else None
    yield _ask_transformers(folder, model.config, lambda: compare_with_transformers(folder, model, seed, text, chat))
    formats = {name: format_ for format_, name in FILES.items()}
    for file in sorted(folder.glob("gguf/*.gguf")):
        bounds = bounds_of(model.config.family, formats.get(file.name))
        llama = compare_with_llama_cpp(file, model, tokenizer, seed, bounds, text, chat=chat)
        row = _row(file.name, "llama.cpp", [file], llama, bounds.divergence)
        lost = NONE if llama.bits_per_byte_lost is None else f"{llama.bits_per_byte_lost:z.5f}"
        yield (*row[:-1], lost), llama.agrees(bounds.divergence), None
    if (folder / "onnx" / FILE).exists():
        onnx = compare_with_onnxruntime(folder / "onnx" / FILE, model, seed)
        yield _row(FILE, "ONNX Runtime", files_of(folder / "onnx"), onnx, MOST_DIVERGENCE), onnx.agrees(), None


def _is_classifier(folder: Path) -> bool:
    path = folder / "config.json"
    architectures = read_object(path).get("architectures") if path.exists() else None
    return isinstance(architectures, list) and any(given in list(LANGUAGE_MODELS) for given in architectures)


def _ask_transformers(folder: Path, config: ModelConfig, compare: Callable[[], Parity]) -> tuple[Row, bool, str | None]:
    """The row of the folder's own weights; Transformers is not asked for what it has no architecture for."""
    if reason := why_native(config):
        return (SINGLE, "Transformers", *[NONE] * (len(HEAD) - 2)), True, reason
    parity = compare()
    files = sorted(folder.glob("*.safetensors"))
    return _row(SINGLE, "Transformers", files, parity, MOST_DIVERGENCE), parity.agrees(), None


def _row(name: str, client: str, files: list[Path], parity: Parity, most: float) -> Row:
    size = f"{sum(file.stat().st_size for file in files):,}"
    figures = f"{parity.max_logit_difference:.2g}", f"{parity.divergence:.2g}", f"{most:g}"
    ids = f"{parity.tokenization_mismatches} of {parity.texts}" if parity.texts else NONE
    others = f"{parity.generation_mismatches} of {parity.continuations}" if parity.continuations else NONE
    return name, client, size, *figures, ids, others, NONE
