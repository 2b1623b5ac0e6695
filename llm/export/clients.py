"""An export through every client that it is for: the differences from our own model, as one table.

models/export             hf/model.safetensors  gguf/*.gguf  onnx/model.onnx  → a line each
models/finetuned/library  model.safetensors, of a classifier                  → a line
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from llm.export.gguf import FILES
from llm.export.hf.base import open_model
from llm.export.hf.classifier import is_classifier, read_classifier
from llm.export.hf.folder import CHAT_TEMPLATE, read_config_file
from llm.export.hf.tensors import SINGLE
from llm.export.llama_cpp import bounds_of, compare_with_llama_cpp
from llm.export.onnx import FILE, compare_with_onnxruntime, files_of
from llm.export.verify import Chat, Parity, compare_classifier_with_transformers, compare_with_transformers
from llm.tokens.tokenizer import Tokenizer

HEAD = ["file", "client", "bytes", "largest difference", "divergence", "at most"]
HEAD += ["other ids", "other texts", "bits lost"]
NONE = "–"
MakeChat = Callable[[Tokenizer], Chat]


def hf_folder(folder: Path) -> Path:
    """Return the Hugging Face folder of an export: its subfolder hf, or the folder itself."""
    return folder / "hf" if (folder / "hf").is_dir() else folder


def verify_export(
    folder: Path, seed: int, text: str = "", make_chat: MakeChat | None = None, converted: Path | None = None
) -> tuple[str, list[str]]:
    """Load a language model or a classifier, and each file in its or `converted`'s gguf and onnx, with its client.

    Returns a table of the differences from our model, and the names of the files that do not agree. Where a `text` is
    given, its ids are compared, and its cost in llama.cpp; `make_chat` makes the conversation for a folder with a chat
    template. UserError where the folder holds no model, or the client of a file is not installed.
    """
    found = list(_compare(folder, seed, text, make_chat, converted or folder))
    lines = [HEAD, *(_line(files, parity) for files, parity in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join(table), [files[0].name for files, parity in found if not parity.agrees]


def _compare(
    folder: Path, seed: int, text: str, make_chat: MakeChat | None, converted: Path
) -> Iterator[tuple[list[Path], Parity]]:
    hf = hf_folder(folder)
    weights = sorted(hf.glob("*.safetensors"), key=lambda path: path.name != SINGLE)
    if is_classifier(read_config_file(hf)):
        yield weights, compare_classifier_with_transformers(hf, *read_classifier(hf), seed, text)
        return
    model, tokenizer = open_model(hf)
    chat = make_chat(tokenizer) if make_chat and (hf / CHAT_TEMPLATE).exists() else None
    yield weights, compare_with_transformers(hf, model, seed, text, chat)
    for file in sorted(converted.glob("gguf/*.gguf")):
        format_ = next((format_ for format_, name in FILES.items() if name == file.name), None)
        bounds = bounds_of(model.config.family, format_)
        yield [file], compare_with_llama_cpp(file, model, tokenizer, seed, bounds, text, chat=chat)
    if files := files_of(converted / "onnx"):
        yield files, compare_with_onnxruntime(converted / "onnx" / FILE, model, seed)


def _line(files: list[Path], parity: Parity) -> list[str]:
    return [
        files[0].name,
        parity.client,
        f"{sum(file.stat().st_size for file in files):,}",
        f"{parity.max_difference:.2g}",
        f"{parity.divergence:.2g}",
        f"{parity.max_divergence:g}",
        f"{parity.tokenization_mismatches} of {parity.texts}" if parity.texts else NONE,
        f"{parity.generation_mismatches} of {parity.continuations}" if parity.continuations else NONE,
        NONE if parity.bits_per_byte_lost is None else f"{parity.bits_per_byte_lost:z.5f}",
    ]
