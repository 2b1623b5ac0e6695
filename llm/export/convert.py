"""A language model in `export.formats`, and an export compared with our model by every client that it is for.

hf/model.safetensors                 Transformers
gguf/model-f16.gguf  gguf/Modelfile  llama.cpp, Ollama
onnx/model.onnx                      ONNX Runtime
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llm.core.errors import UserError
from llm.core.outputs import write_json
from llm.export.formats import Format, missing_package
from llm.export.gguf import MODELFILE, write_gguf, write_modelfile
from llm.export.hf.base import open_model
from llm.export.hf.classifier import is_classifier, read_classifier
from llm.export.hf.folder import CHAT_TEMPLATE, SKIPPED, read_config_file
from llm.export.hf.tensors import SINGLE
from llm.export.llama_cpp import compare_with_llama_cpp
from llm.export.onnx import FILE, compare_with_onnxruntime, files_of, write_onnx
from llm.export.verify import Chat, Parity, compare_classifier_with_transformers, compare_with_transformers
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

HEAD = ["file", "client", "bytes", "largest difference", "divergence", "at most"]
HEAD += ["other ids", "other texts", "bits lost"]
NONE = "–"
Figures = dict[str, Any]
MakeChat = Callable[[Tokenizer], Chat]


def convert(
    model: GPT,
    tokenizer_file: Path,
    formats: Sequence[Format],
    seed: int,
    gguf: Path,
    onnx: Path,
    *,
    chat_template: str | None = None,
    chat: Chat | None = None,
) -> dict[str, Figures]:
    """Write the folders `gguf` and `onnx`; return bytes and parity of each file.

    A file is `unverified` where its client is not installed. A Modelfile that Ollama would read otherwise is `skipped`.
    UserError for a format that the model cannot be written in, or that its client reads as another model.
    """
    tokenizer = Tokenizer.load(tokenizer_file)
    found: dict[str, Figures] = {}
    files: list[Path] = []
    for format_ in formats:
        try:
            if format_ == "onnx":
                write_onnx(onnx, model)
                found[format_] = _verify(files_of(onnx), model, tokenizer, seed, None)
            else:
                files.append(write_gguf(gguf, model, tokenizer_file, format_, chat_template=chat_template))
                found[format_] = _verify(files[-1:], model, tokenizer, seed, chat)
        except UserError as error:
            raise UserError(f"export.formats: {format_}: {error}") from None
    if files:
        try:
            write_modelfile(files[0], model.config, tokenizer_file, chat=chat_template is not None)
        except UserError as error:
            found[MODELFILE] = {"skipped": str(error)}
    for name, figures in found.items():
        for state in figures.keys() & {"skipped", "unverified"}:
            print(f"export: {name} {state}: {figures[state]}", file=sys.stderr)
    explain_empty(gguf, "gguf is not in export.formats")
    explain_empty(onnx, "onnx is not in export.formats")
    return {"gguf": {name: of for name, of in found.items() if name != "onnx"}, "onnx": found.get("onnx", {})}


def _verify(files: list[Path], model: GPT, tokenizer: Tokenizer, seed: int, chat: Chat | None) -> Figures:
    figures = {"bytes": sum(path.stat().st_size for path in files)}
    if reason := missing_package("onnxruntime" if files[0].name == FILE else "xllamacpp"):
        return figures | {"unverified": reason}
    return figures | _compare_file(files[0], model, tokenizer, seed, "", chat).figures(files[0])


def _compare_file(file: Path, model: GPT, tokenizer: Tokenizer, seed: int, text: str, chat: Chat | None) -> Parity:
    if file.name == FILE:
        return compare_with_onnxruntime(file, model, seed)
    return compare_with_llama_cpp(file, model, tokenizer, seed, text, chat=chat)


def explain_empty(folder: Path, reason: str) -> None:
    """Write the reason into a folder without files; DVC warns of an empty one."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        write_json(folder / SKIPPED, {"skipped": reason})


def hf_folder(folder: Path) -> Path:
    """Return the Hugging Face folder of an export: its subfolder hf, or the folder itself."""
    return folder / "hf" if (folder / "hf").is_dir() else folder


def verify_export(
    folder: Path, seed: int, text: str = "", make_chat: MakeChat | None = None, converted: Path | None = None
) -> tuple[str, list[str]]:
    """Compare each file of a folder, and of `converted`, with our model in its client.

    Returns a table of the differences, and the names of the files that do not agree. UserError where the folder holds
    no model, or the client of a file is not installed.
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
    for files in [*([file] for file in sorted(converted.glob("gguf/*.gguf"))), files_of(converted / "onnx")]:
        if files:
            yield files, _compare_file(files[0], model, tokenizer, seed, text, chat)


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
