"""An export through every client that it is for: how far each is from our own model, as one table."""

from math import inf
from pathlib import Path

from llm.export.gguf import FILES
from llm.export.huggingface import read_folder
from llm.export.llama_cpp import compare_with_llama_cpp, most_difference
from llm.export.onnx import FILE, compare_with_onnxruntime, files_of
from llm.export.verify import compare_with_transformers
from llm.text.tokenizer import Tokenizer


def verify_export(folder: Path, seed: int) -> tuple[str, list[str]]:
    """Load a Hugging Face folder, each GGUF file in its `gguf/` and the file in `onnx/`, with the clients they are for.

    Returns a table of how far each is from our own model, and the names of those that are too far. UserError where
    there is no such folder, or files for llama.cpp or ONNX Runtime and the client is not installed.
    """
    model, tokenizer = read_folder(folder), Tokenizer.load(folder / "tokenizer.json")
    transformers = compare_with_transformers(folder, model, seed)
    ids = f"{transformers.texts_with_other_ids} of {transformers.texts}"
    rows = [("file", "client", "bytes", "difference", "at most", "other ids", "other continuations")]
    weights = folder / "model.safetensors"
    difference, most = transformers.max_logit_difference, transformers.most
    rows.append((weights.name, "Transformers", *_figures([weights], difference, most), ids, "–"))
    wrong = [] if transformers.agrees else [weights.name]
    formats = {name: format_ for format_, name in FILES.items()}
    for file in sorted(folder.glob("gguf/*.gguf")):
        most = most_difference(model.config.family, formats.get(file.name))
        parity = compare_with_llama_cpp(file, model, tokenizer, seed, most)
        ids = f"{parity.texts_with_other_ids} of {parity.texts}"
        others = f"{parity.other_continuations} of {parity.continuations}"
        rows.append((file.name, "llama.cpp", *_figures([file], parity.max_logprob_difference, most), ids, others))
        wrong += [] if parity.agrees(most) else [file.name]
    if (folder / "onnx" / FILE).exists():
        onnx = compare_with_onnxruntime(folder / "onnx" / FILE, model, seed)
        others = f"{onnx.other_continuations} of {onnx.continuations}"
        figures = _figures(files_of(folder / "onnx"), onnx.max_logit_difference, onnx.most)
        rows.append((FILE, "ONNX Runtime", *figures, "–", others))
        wrong += [] if onnx.agrees else [FILE]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines), wrong


def _figures(files: list[Path], difference: float, most: float) -> tuple[str, str, str]:
    return f"{sum(file.stat().st_size for file in files):,}", f"{difference:.2g}", "–" if most == inf else f"{most:g}"
