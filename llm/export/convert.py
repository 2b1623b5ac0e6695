"""A language model in `export.formats`, each file loaded by its client before it is given out.

gguf/model-f16.gguf  gguf/Modelfile  for llama.cpp and Ollama
onnx/model.onnx                      for ONNX Runtime
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llm.core.errors import UserError
from llm.core.outputs import write_json
from llm.export.formats import missing_package
from llm.export.gguf import MODELFILE, write_gguf, write_modelfile
from llm.export.hf.folder import SKIPPED
from llm.export.llama_cpp import bounds_of, compare_with_llama_cpp
from llm.export.onnx import compare_with_onnxruntime, files_of, write_onnx
from llm.export.params import Format
from llm.export.verify import Chat, Parity
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

Figures = dict[str, Any]


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
    """Write the folders `gguf` and `onnx`; return their figures: bytes and parity of each file.

    A file is `unverified` where its client is not installed. A Modelfile that Ollama would read otherwise is `skipped`.
    With a `chat_template` the files are of a model that answers messages, and `chat` goes through the template.
    UserError for a format that the model cannot be written in, or that its client reads as another model.
    """
    tokenizer = Tokenizer.load(tokenizer_file)
    found: dict[str, Figures] = {}
    files: list[Path] = []
    for format_ in formats:
        try:
            if format_ == "onnx":
                compare = partial(compare_with_onnxruntime, write_onnx(onnx, model), model, seed)
                found[format_] = _describe(files_of(onnx), "onnxruntime", compare)
            else:
                files.append(write_gguf(gguf, model, tokenizer_file, format_, chat_template=chat_template))
                bounds = bounds_of(model.config.family, format_)
                compare = partial(compare_with_llama_cpp, files[-1], model, tokenizer, seed, bounds, chat=chat)
                found[format_] = _describe(files[-1:], "xllamacpp", compare)
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


def _describe(files: list[Path], package: str, compare: Callable[[], Parity]) -> Figures:
    figures = {"bytes": sum(path.stat().st_size for path in files)}
    if reason := missing_package(package):
        return figures | {"unverified": reason}
    parity = compare()
    if not parity.agrees:
        raise UserError(parity.describe())
    return figures | parity.figures()


def explain_empty(folder: Path, reason: str) -> None:
    """Write the reason into a folder without files; DVC warns of an empty one."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        write_json(folder / SKIPPED, {"skipped": reason})
