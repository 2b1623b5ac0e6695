"""Causal language models in local Hugging Face folders, or in our own words → bits per byte of the same texts.

    document ──the model's own tokenizer──► ids ──start id before, plan_spans──► overlapping windows ──► nats a token

Models cut a text into other tokens and end it in other ways. So the sum of nats is divided by the text's bytes, and
only a document's own tokens are scored, each once and after its own document alone: its end is not, since some models
learnt to predict it and others did not. `llm.evaluate.likelihood` scores the ends too: its figures stand apart.
"""

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.core.tables import iterate_rows
from llm.evaluate.likelihood import Span, plan_spans
from llm.model.gpt import GPT

# Logits of one forward pass, 1 GiB in float32: a vocabulary of 150,000 fills memory long before a batch is full.
MAX_LOGITS = 1 << 28
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}

OpenNative = Callable[[Path], GPT | None]  # our model of a folder that Transformers cannot load; None for all others


@dataclass(frozen=True)
class Score:
    """What a model needs for the texts, and its size."""

    bits_per_byte: float
    tokens: int  # of the texts, all scored
    bytes_per_token: float
    parameters: int  # a tied head counts once
    context: int  # tokens of a window
    lossy_documents: int  # whose tokens do not decode back to the text: bits per byte flatter


@dataclass(frozen=True)
class _Model:
    """What is asked of a model, whoever computes it."""

    logits: Callable[[torch.Tensor], torch.Tensor]  # of ids (B, T) → (B, T, V)
    vocab_size: int
    n_embeddings: int
    positions: int | None  # that it was made for; None where it has no such limit
    parameters: int


def read_texts(path: Path, max_bytes: int | None = None) -> list[str]:
    """The texts of a corpus table in order, up to `max_bytes` of UTF-8: the last one is cut between characters.

    UserError where the file is no such table, or holds no text.
    """
    texts, left = [], max_bytes
    for row in iterate_rows(path, ["text"]):
        if not isinstance(row.get("text"), str):
            raise UserError(f"{path}: wanted a column text of strings, given a row without")
        text = row["text"] if left is None else row["text"].encode()[:left].decode(errors="ignore")
        if text:
            texts.append(text)
        left = left if left is None else left - len(row["text"].encode())
        if left is not None and left <= 0:
            break
    if not texts:
        raise UserError(f"{path}: wanted text to score, given none")
    return texts


@torch.no_grad()
def score_folder(
    folder: Path,
    texts: list[str],
    machine: Machine,
    stride_share: float = 0.75,
    batch_size: int = 8,
    max_context: int = 1024,
    open_native: OpenNative = lambda folder: None,
) -> Score:
    """Score a folder that Transformers can load, or `open_native`: no custom code is run, nothing is fetched.

    A window has the model's context length, `max_context` at most, and scores `stride_share` of it anew. Before a
    document stands the tokenizer's BOS token or, where it has none, its EOS token. Special tokens inside a text are
    ordinary text. Weights are float32, matrices are multiplied in the machine's precision.

    UserError where the folder is no causal language model with its tokenizer.
    """
    n_bytes = sum(len(text.encode()) for text in texts)
    assert n_bytes, "no text to score"
    ours = open_native(folder) if (folder / "config.json").is_file() else None
    model, tokenizer = _load(folder, machine) if ours is None else (_ask_ours(ours, machine), _load_tokenizer(folder))
    start = _start_id(tokenizer, folder)
    documents, lossy = [], 0
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        lossy += tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text
        documents.append(torch.tensor([start, *ids]))
    if (highest := int(max(ids.max() for ids in documents))) >= model.n_embeddings:
        raise UserError(
            f"{folder}: wanted token ids below the model's {model.n_embeddings} embeddings, given {highest}"
        )
    if not (n_tokens := sum(len(ids) - 1 for ids in documents)):
        raise UserError(f"{folder}: wanted a tokenizer that has tokens for the texts, given none")
    _check_causal(model, start, folder, machine)
    context = min(model.positions or max_context, max_context)
    stride = max(round(stride_share * context), 1)
    nats = _total_nats(model, documents, context, stride, batch_size, machine, folder.name)
    return Score(
        bits_per_byte=round(nats / math.log(2) / n_bytes, 5),
        tokens=n_tokens,
        bytes_per_token=round(n_bytes / n_tokens, 4),
        parameters=model.parameters,
        context=context,
        lossy_documents=lossy,
    )


def compare(
    folders: list[Path], texts: list[str], machine: Machine, open_native: OpenNative = lambda folder: None
) -> str:
    """A table in plain text, a row a model, the lowest bits per byte first. UserError as `score_folder`."""
    scores = {folder: score_folder(folder, texts, machine, open_native=open_native) for folder in folders}
    width = max(len("model"), *(len(str(folder)) for folder in folders))
    head = ("bits per byte", "bytes a token", "tokens", "parameters", "context")
    lines = [f"{'model':<{width}}" + "".join(f"{name:>15}" for name in head)]
    for folder, score in sorted(scores.items(), key=lambda pair: pair[1].bits_per_byte):
        figures = f"{score.bits_per_byte:>15.4f}{score.bytes_per_token:>15.3f}"
        counts = (score.tokens, score.parameters, score.context)
        lines.append(f"{folder!s:<{width}}{figures}" + "".join(f"{count:>15,}" for count in counts))
    for folder, score in scores.items():
        if score.lossy_documents:
            lines.append(
                f"{folder}: the tokens of {score.lossy_documents:,} of {len(texts):,} documents do not hold all of "
                "the text, its bits per byte flatter"
            )
    n_bytes = sum(len(text.encode()) for text in texts)
    lines.append(f"{len(texts):,} documents, {n_bytes:,} bytes; the ends of documents are not scored")
    return "\n".join(lines)


def _load(folder: Path, machine: Machine) -> tuple[_Model, Any]:
    """A model that Transformers has an architecture for, and its tokenizer."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    # Without this a folder that is not there would be looked up as a name in the Hub's cache.
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: wanted a Hugging Face folder, it has no config.json")
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # a missing weight is said below, in one line
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, **LOCAL
        )
    except Exception as error:  # the library raises whatever its parts raise
        raise _unlike(folder, error) from None
    model, found = loaded
    # The library would draw missing weights at random and go on.
    if missing := sorted(found["missing_keys"]):
        raise UserError(f"{folder}: wanted all weights of a causal language model, {', '.join(missing[:3])} missing")
    tokenizer = _load_tokenizer(folder)
    model, shape = model.eval().to(machine.device), model.config.get_text_config()
    asked = _Model(
        # The mask is of ones, and only said so that the library does not guess one.
        logits=lambda ids: model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits,
        vocab_size=shape.vocab_size,
        n_embeddings=model.get_input_embeddings().weight.shape[0],
        positions=getattr(shape, "max_position_embeddings", None),
        parameters=sum(weight.numel() for weight in model.parameters()),
    )
    return asked, tokenizer


def _ask_ours(model: GPT, machine: Machine) -> _Model:
    model, shape = model.eval().to(machine.device), model.config
    return _Model(model, shape.vocab_size, shape.vocab_size, shape.context_length, model.n_parameters())


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, **LOCAL)
    except Exception as error:  # as above
        raise _unlike(folder, error) from None


def _unlike(folder: Path, error: Exception) -> UserError:
    problem = textwrap.shorten(str(error), 200)
    return UserError(f"{folder}: wanted a causal language model and its tokenizer, {problem}")


def _start_id(tokenizer: Any, folder: Path) -> int:
    """The id that stands before a document, so that its first token too has something to follow."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise UserError(f"{folder}: wanted a tokenizer with a BOS or an EOS token, given neither")


def _check_causal(model: _Model, start: int, folder: Path, machine: Machine) -> None:
    """A model that sees the tokens it has to predict scores next to nothing, and Transformers loads it all the same."""
    ids = torch.tensor([[start, 0], [start, 1]], device=machine.device)
    first, second = model.logits(ids)[:, 0]
    if not torch.allclose(first, second, atol=1e-4, rtol=1e-4):
        raise UserError(f"{folder}: wanted a causal language model, its predictions change with the tokens after them")


def _total_nats(
    model: _Model,
    documents: list[torch.Tensor],
    context: int,
    stride: int,
    batch_size: int,
    machine: Machine,
    label: str,
) -> float:
    """The cost of all ids of all documents but the first of each, in nats."""
    windows = [(ids, span) for ids in documents for span in plan_spans(len(ids), context, stride)]
    # The longest first: those of a batch are about as long as each other, and too large a batch fails at once.
    windows.sort(key=lambda window: -window[1].last)
    total, at = 0.0, 0
    with tqdm(total=sum(len(ids) - 1 for ids in documents), desc=label, unit=" tokens", unit_scale=True) as bar:
        while at < len(windows):
            n_rows = max(min(batch_size, MAX_LOGITS // (windows[at][1].last * model.vocab_size)), 1)
            batch = windows[at : at + n_rows]
            total += _batch_nats(model, batch, machine)
            bar.update(sum(span.last - span.first for _, span in batch))
            at += n_rows
    return total


def _batch_nats(model: _Model, batch: list[tuple[torch.Tensor, Span]], machine: Machine) -> float:
    """The cost of the new targets of a batch of windows; the first window is the longest."""
    ids = torch.zeros(len(batch), batch[0][1].last + 1, dtype=torch.int64)  # (B, T + 1)
    for row, (document, span) in zip(ids, batch, strict=True):
        tokens = document[span.start : span.start + span.last + 1]
        # A shorter window goes on to the others' length: nothing that comes later moves a score.
        row[: len(tokens)] = tokens
    ids = ids.to(machine.device)
    with machine.autocast():
        logits = model.logits(ids[:, :-1])
    total = 0.0
    for row, target, (_, span) in zip(logits, ids[:, 1:], batch, strict=True):
        new = slice(span.first, span.last)
        nats = torch.nn.functional.cross_entropy(row[new].float(), target[new], reduction="none")
        total += float(nats.sum(dtype=torch.float64))
    return total
