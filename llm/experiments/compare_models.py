"""Compare causal language models on the same texts by bits per byte, each with its own tokenizer.

    document ──the model's tokenizer──► ids ──start id before, plan_spans──► overlapping windows ──► nats per token

Tokenizers cut a text differently, so the sum of nats is divided by the text's bytes. Only a document's own tokens are
scored, each once and after its own document alone. Its end is not, since some models have not learned to predict one:
the figures of `llm.evaluate.likelihood`, which include ends, do not compare.
"""

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.core.tables import iterate_rows
from llm.evaluate.likelihood import Span, plan_spans
from llm.export.hf.base import is_ours
from llm.model.weights import load_model
from llm.tokens.special import END_OF_TEXT

# Logits of one forward pass, 1 GiB in float32: a vocabulary of 150,000 fills memory long before a batch is full.
MAX_LOGITS = 1 << 28
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
TOKENIZER = Path("data/tokenizer/tokenizer.json")


@dataclass(frozen=True)
class Score:
    """The bits per byte of a model on the texts, and its size."""

    bits_per_byte: float
    tokens: int  # of the texts, all scored
    bytes_per_token: float
    parameters: int  # a tied head counts once
    context: int  # tokens of a window
    lossy_documents: int  # whose tokens do not decode to the text, which flatters bits per byte


@dataclass(frozen=True)
class _Model:
    """A model and its tokenizer, whichever library computes it."""

    logits: Callable[[Tensor], Tensor]  # ids (B, T) → (B, T, V)
    tokenizer: Any
    vocab_size: int
    n_embeddings: int
    context_length: int | None  # None where positions have no limit
    parameters: int


def read_texts(path: Path, max_bytes: int | None = None) -> list[str]:
    """Return the texts of a corpus table in order, up to `max_bytes` of UTF-8: the last one is cut between characters.

    UserError for another table, or without text.
    """
    texts, left = [], math.inf if max_bytes is None else max_bytes
    for row in iterate_rows(path, ["text"]):
        if not isinstance(row.get("text"), str):
            raise UserError(f"{path}: expected a column text of strings, got a row without")
        encoded = row["text"].encode()
        if text := row["text"] if len(encoded) <= left else encoded[: int(left)].decode(errors="ignore"):
            texts.append(text)
        left -= len(encoded)
        if left <= 0:
            break
    if not texts:
        raise UserError(f"{path}: expected text to score, got none")
    return texts


@torch.no_grad()
def score_folder(
    folder: Path,
    texts: list[str],
    machine: Machine,
    stride_fraction: float = 0.75,
    batch_size: int = 8,
    max_context: int = 1024,
    tokenizer_file: Path = TOKENIZER,
) -> Score:
    """Score a Hugging Face folder, or weights such as models/pretrained with `tokenizer_file`. No custom code runs.

    A window has the model's context length, at most `max_context`, and `stride_fraction` of it are new. A document is
    preceded by the tokenizer's BOS token, or else its EOS token; special tokens in a text are ordinary text. Weights
    are float32, products in the machine's precision. UserError for anything but a causal language model.
    """
    n_bytes = sum(len(text.encode()) for text in texts)
    assert n_bytes, "no text to score"
    model = _load(folder, tokenizer_file, machine)
    special = (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id)
    if (start := next((token for token in special if token is not None), None)) is None:
        raise UserError(f"{folder}: expected a tokenizer with a BOS or an EOS token, got neither")
    documents, lossy = [], 0
    for text in texts:
        ids = model.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        lossy += model.tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text
        documents.append(torch.tensor([start, *ids]))
    if (highest := int(max(ids.max() for ids in documents))) >= model.n_embeddings:
        raise UserError(
            f"{folder}: expected token ids below the model's {model.n_embeddings} embeddings, got {highest}"
        )
    if not (n_tokens := sum(len(ids) - 1 for ids in documents)):
        raise UserError(f"{folder}: expected a tokenizer that has tokens for the texts, got none")
    _check_causal(model, start, folder, machine)
    context = min(model.context_length or max_context, max_context)
    windows = [
        (ids, span)
        for ids in documents
        for span in plan_spans(len(ids), context, max(round(stride_fraction * context), 1))
    ]
    nats = _total_nats(model, windows, batch_size, machine, folder.name)
    return Score(
        bits_per_byte=round(nats / math.log(2) / n_bytes, 5),
        tokens=n_tokens,
        bytes_per_token=round(n_bytes / n_tokens, 4),
        parameters=model.parameters,
        context=context,
        lossy_documents=lossy,
    )


def compare(folders: list[Path], texts: list[str], machine: Machine, tokenizer_file: Path = TOKENIZER) -> str:
    """Return a table as text, the lowest bits per byte first. UserError as `score_folder`."""
    import pandas as pd

    scores = {folder: score_folder(folder, texts, machine, tokenizer_file=tokenizer_file) for folder in folders}
    best_first = sorted(scores.items(), key=lambda pair: pair[1].bits_per_byte)
    rows = [
        [
            f"{of.bits_per_byte:.4f}",
            f"{of.bytes_per_token:.3f}",
            f"{of.tokens:,}",
            f"{of.parameters:,}",
            f"{of.context:,}",
        ]
        for _, of in best_first
    ]
    columns = pd.Index(["bits per byte", "bytes per token", "tokens", "parameters", "context"], name="model")
    table = pd.DataFrame(rows, index=[str(folder) for folder, _ in best_first], columns=columns)
    lossy = [
        f"{folder}: the tokens of {of.lossy_documents:,} of {len(texts):,} documents do not decode to the text, which "
        "flatters bits per byte"
        for folder, of in scores.items()
        if of.lossy_documents
    ]
    n_bytes = sum(len(text.encode()) for text in texts)
    last = f"{len(texts):,} documents, {n_bytes:,} bytes; the ends of documents are not scored"
    return "\n".join([table.to_string(), *lossy, last])


def _load(folder: Path, tokenizer_file: Path, machine: Machine) -> _Model:
    """Load our own weights, which have no tokenizer beside them, or a folder that Transformers can load."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import logging

    # Without this check a missing folder would be looked up as a name in the Hub's cache.
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: expected a Hugging Face folder, got no config.json")
    if is_ours(folder):
        gpt = load_model(folder).eval().to(machine.device)
        own = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file), eos_token=END_OF_TEXT)
        size, context = gpt.config.vocab_size, gpt.config.context_length
        return _Model(gpt, own, size, size, context, gpt.n_parameters())
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # missing weights are reported below, in one line
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, **LOCAL
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
    except Exception as error:  # the library raises whatever its parts raise
        problem = textwrap.shorten(str(error), 200)
        raise UserError(f"{folder}: expected a causal language model and its tokenizer, got: {problem}") from None
    model, found = loaded
    # The library would draw missing weights at random and continue.
    if missing := sorted(found["missing_keys"]):
        raise UserError(f"{folder}: expected all weights of a causal language model, {', '.join(missing[:3])} missing")
    model, shape = model.eval().to(machine.device), model.config.get_text_config()
    return _Model(
        # The mask is all ones, and given only so that the library does not guess one.
        logits=lambda ids: model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits,
        tokenizer=tokenizer,
        vocab_size=shape.vocab_size,
        n_embeddings=model.get_input_embeddings().weight.shape[0],
        context_length=getattr(shape, "max_position_embeddings", None),
        parameters=sum(weight.numel() for weight in model.parameters()),
    )


def _check_causal(model: _Model, start: int, folder: Path, machine: Machine) -> None:
    """Refuse a model that sees its targets: its loss is meaningless, and Transformers loads it all the same."""
    first, second = model.logits(torch.tensor([[start, 0], [start, 1]], device=machine.device))[:, 0]
    if not torch.allclose(first, second, atol=1e-4, rtol=1e-4):
        raise UserError(
            f"{folder}: expected a causal language model, its predictions change with the tokens after them"
        )


def _total_nats(
    model: _Model, windows: list[tuple[Tensor, Span]], batch_size: int, machine: Machine, label: str
) -> float:
    """Return the sum of nats of the new targets of all windows."""
    # The longest first: a batch then has windows of like lengths, and one that is too large fails at once.
    windows = sorted(windows, key=lambda window: -window[1].last)
    total, at = 0.0, 0
    n_targets = sum(span.last - span.first for _, span in windows)
    with tqdm(total=n_targets, desc=label, unit=" tokens", unit_scale=True) as bar:
        while at < len(windows):
            n_rows = max(min(batch_size, MAX_LOGITS // (windows[at][1].last * model.vocab_size)), 1)
            batch = windows[at : at + n_rows]
            total += _batch_nats(model, batch, machine)
            bar.update(sum(span.last - span.first for _, span in batch))
            at += n_rows
    return total


def _batch_nats(model: _Model, batch: list[tuple[Tensor, Span]], machine: Machine) -> float:
    """Return the sum of nats of the new targets of a batch, whose first window is the longest."""
    ids = torch.zeros(len(batch), batch[0][1].last + 1, dtype=torch.int64)  # (B, T + 1)
    for row, (document, span) in zip(ids, batch, strict=True):
        tokens = document[span.start : span.start + span.last + 1]
        row[: len(tokens)] = tokens  # padding comes later and so changes no score
    ids = ids.to(machine.device)
    with machine.autocast():
        logits = model.logits(ids[:, :-1])
    total = 0.0
    for row, target, (_, span) in zip(logits, ids[:, 1:], batch, strict=True):
        new = slice(span.first, span.last)
        nats = torch.nn.functional.cross_entropy(row[new].float(), target[new], reduction="none")
        total += float(nats.sum(dtype=torch.float64))
    return total
