"""An export through every client that it is for: how far each is from our own model, as one table.

models/export             model.safetensors  gguf/*.gguf  onnx/model.onnx  → a row each
models/finetuned/library  model.safetensors, of a classifier               → a row
"""

from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import torch

from llm.export.classifier import LANGUAGE_MODELS, read_classifier
from llm.export.gguf import FILES
from llm.export.huggingface import read_folder
from llm.export.llama_cpp import compare_with_llama_cpp, most_difference
from llm.export.native import why_native
from llm.export.onnx import FILE, compare_with_onnxruntime, files_of
from llm.export.tensors import SINGLE, read_object
from llm.export.verify import HOSTILE_TEXTS, N_TEXTS, Parity, compare_with_transformers, hush
from llm.model.classifier import Classifier
from llm.model.config import ModelConfig
from llm.text.frame import frame
from llm.text.tokenizer import Tokenizer

HEAD = ("file", "client", "bytes", "difference", "at most", "other ids", "other continuations", "bits a byte lost")
NONE = "–"
Row = tuple[str, ...]


def verify_export(folder: Path, seed: int, text: str = "") -> tuple[str, list[str]]:
    """Load a Hugging Face folder, each GGUF file in its `gguf/` and the file in `onnx/`, with the clients they are for.

    The folder is of a language model or a classifier. Returns a table of how far each is from our own model, and the
    names of those that are too far. Where a `text` is given, its ids are compared, and what it costs in llama.cpp.
    UserError where there is no such folder, or files for llama.cpp or ONNX Runtime and the client is not installed.
    """
    found = list(_look(folder, seed, text))
    rows = [HEAD, *(row for row, _, _ in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{row[0]} is not for {row[1]}: {reason}" for row, _, reason in found if reason]
    return "\n".join(lines), [row[0] for row, agrees, _ in found if not agrees]


def _look(folder: Path, seed: int, text: str) -> Iterator[tuple[Row, bool, str | None]]:
    """A row of the table for each file, whether it is right, and why its client could not be asked."""
    if _is_classifier(folder):
        classifier, tokenizer, info = read_classifier(folder)
        compare = partial(compare_classifier_with_transformers, folder, classifier, tokenizer, info.max_tokens)
        yield _ask_transformers(folder, classifier.trunk.config, lambda: compare(seed, text))
        return
    model, tokenizer = read_folder(folder), Tokenizer.load(folder / "tokenizer.json")
    yield _ask_transformers(folder, model.config, lambda: compare_with_transformers(folder, model, seed, text))
    formats = {name: format_ for format_, name in FILES.items()}
    for file in sorted(folder.glob("gguf/*.gguf")):
        most = most_difference(model.config.family, formats.get(file.name))
        llama = compare_with_llama_cpp(file, model, tokenizer, seed, most, text)
        lost = NONE if llama.bits_per_byte_lost is None else f"{llama.bits_per_byte_lost:z.5f}"
        ids = f"{llama.texts_with_other_ids} of {llama.texts}"
        others = f"{llama.other_continuations} of {llama.continuations}"
        figures = _figures([file], llama.max_logprob_difference, most)
        yield (file.name, "llama.cpp", *figures, ids, others, lost), llama.agrees(most), None
    if (folder / "onnx" / FILE).exists():
        onnx = compare_with_onnxruntime(folder / "onnx" / FILE, model, seed)
        others = f"{onnx.other_continuations} of {onnx.continuations}"
        figures = _figures(files_of(folder / "onnx"), onnx.max_logit_difference, onnx.most)
        yield (FILE, "ONNX Runtime", *figures, NONE, others, NONE), onnx.agrees, None


def _is_classifier(folder: Path) -> bool:
    path = folder / "config.json"
    architectures = read_object(path).get("architectures") if path.exists() else None
    return isinstance(architectures, list) and any(given in list(LANGUAGE_MODELS) for given in architectures)


def _ask_transformers(folder: Path, config: ModelConfig, compare: Callable[[], Parity]) -> tuple[Row, bool, str | None]:
    """The row of the folder's own weights; Transformers is not asked for what it has no architecture for."""
    if reason := why_native(config):
        return (SINGLE, "Transformers", *[NONE] * (len(HEAD) - 2)), True, reason
    parity = compare()
    ids = f"{parity.texts_with_other_ids} of {parity.texts}"
    others = f"{parity.other_continuations} of {parity.continuations}" if parity.continuations else NONE
    figures = _figures(sorted(folder.glob("*.safetensors")), parity.max_logit_difference, parity.most)
    return (SINGLE, "Transformers", *figures, ids, others, NONE), parity.agrees, None


def _figures(files: list[Path], difference: float, most: float) -> tuple[str, str, str]:
    return f"{sum(file.stat().st_size for file in files):,}", f"{difference:.2g}", NONE if most == inf else f"{most:g}"


@torch.no_grad()
def compare_classifier_with_transformers(
    folder: Path, model: Classifier, tokenizer: Tokenizer, max_tokens: int, seed: int, text: str = ""
) -> Parity:
    """Scores of random texts of several lengths in one batch through both models in float32; nothing goes on.

    Hostile texts, and a `text` as a whole where one is given, go through both tokenizers, with their frame and the cut
    at `max_tokens`.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    hush()
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    config, pad = model.trunk.config, tokenizer.pad
    drawn = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, config.vocab_size - 1, (N_TEXTS, config.context_length), generator=drawn)
    ids += ids >= pad  # every token but that one
    lengths = torch.linspace(1, config.context_length, N_TEXTS).long()
    is_text = torch.arange(config.context_length) < lengths[:, None]  # (B, T)
    ids[~is_text] = pad
    ours = model.float().cpu().eval()(ids, lengths)
    difference = (ours - theirs(ids, attention_mask=is_text.long()).logits).abs().max().item()
    their_tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    texts = [*HOSTILE_TEXTS, *([text] if text else [])]
    other = sum(
        their_tokenizer(text, truncation=True)["input_ids"]
        != frame([tokenizer.encode(text)], tokenizer.special, max_tokens)
        for text in texts
    )
    return Parity(difference, ours.abs().max().item(), other, len(texts), 0, 0)
