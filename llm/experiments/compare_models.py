"""Compare causal language models on the same texts by bits per byte, each with its own tokenizer.

    document ──the model's tokenizer──► ids ──start id before, plan_spans──► overlapping windows ──► nats per token

Tokenizers cut a text differently, so the sum of nats is divided by the text's bytes. Only a document's own tokens are
scored, each once and after its own document alone. Its end is not, since some models have not learned to predict one:
the figures of `llm.evaluate.likelihood`, which include ends, do not compare.
"""

import math
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.core.tables import iterate_rows
from llm.evaluate.likelihood import Span, plan_spans
from llm.export.hf.base import is_ours
from llm.model.weights import load_model
from llm.report.tables import Table
from llm.tokens.special import END_OF_TEXT

# Windows have the model's context length, at most MAX_CONTEXT, and a fraction of their tokens is new.
STRIDE_FRACTION, BATCH_SIZE, MAX_CONTEXT = 0.75, 8, 1024
# Logits of one forward pass, 1 GiB in float32: a vocabulary of 150,000 fills memory long before a batch is full.
MAX_LOGITS = 1 << 28
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
TOKENIZER = Path("data/tokenizer/tokenizer.json")

Window = tuple[Tensor, Span]  # the ids of a document, and a part of them


class Score(NamedTuple):
    """The bits per byte of a model on the texts, and its size."""

    bits_per_byte: float
    bytes_per_token: float
    tokens: int  # of the texts, all scored
    parameters: int  # a tied head counts once
    context: int  # tokens of a window
    lossy_documents: int  # whose tokens do not decode to the text, which flatters bits per byte


class _Model(NamedTuple):
    """A model and its tokenizer, whichever library computes it."""

    logits: Callable[[Tensor], Tensor]  # ids (B, T) → (B, T, V)
    tokenizer: Any
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
        texts.append(row["text"] if len(encoded) <= left else encoded[: int(left)].decode(errors="ignore"))
        left -= len(encoded)
        if left <= 0:
            break
    if not any(texts):
        raise UserError(f"{path}: expected text to score, got none")
    return [text for text in texts if text]


@torch.no_grad()
def score_folder(folder: Path, texts: list[str], machine: Machine, tokenizer_file: Path = TOKENIZER) -> Score:
    """Score a Hugging Face folder, or weights such as models/pretrained with `tokenizer_file`. No custom code runs.

    A document is preceded by the tokenizer's BOS token, or else its EOS token; special tokens in a text are ordinary
    text. Weights are float32, products in the machine's precision. UserError for anything but a causal language model.
    """
    model = _load(folder, tokenizer_file, machine)
    documents, n_lossy = _encode(model, texts, folder)
    # Transformers loads models that see their targets all the same; their loss is meaningless.
    start = int(documents[0][0])
    first, second = model.logits(torch.tensor([[start, 0], [start, 1]], device=machine.device))[:, 0]
    if not torch.allclose(first, second, atol=1e-4, rtol=1e-4):
        problem = "its predictions change with the tokens after them"
        raise UserError(f"{folder}: expected a causal language model, {problem}")
    context = min(model.context_length or MAX_CONTEXT, MAX_CONTEXT)
    stride = max(round(STRIDE_FRACTION * context), 1)
    windows = [(ids, span) for ids in documents for span in plan_spans(len(ids), context, stride)]
    batches = list(_batches(windows, model.n_embeddings))
    nats = sum(_batch_nats(model, batch, machine) for batch in tqdm(batches, desc=folder.name, unit=" batches"))
    n_bytes, n_tokens = sum(len(text.encode()) for text in texts), sum(len(ids) - 1 for ids in documents)
    bits_per_byte, bytes_per_token = round(nats / math.log(2) / n_bytes, 5), round(n_bytes / n_tokens, 4)
    return Score(bits_per_byte, bytes_per_token, n_tokens, model.parameters, context, n_lossy)


def compare(folders: list[Path], texts: list[str], machine: Machine, tokenizer_file: Path = TOKENIZER) -> str:
    """Return a table as text, the lowest bits per byte first. UserError as `score_folder`."""
    scores = {str(folder): score_folder(folder, texts, machine, tokenizer_file) for folder in folders}
    rows = [
        [folder, f"{of.bits_per_byte:.4f}", f"{of.bytes_per_token:.3f}", of.tokens, of.parameters, of.context]
        for folder, of in sorted(scores.items(), key=lambda pair: pair[1].bits_per_byte)
    ]
    table = Table(["model", "bits per byte", "bytes per token", "tokens", "parameters", "context"], rows)
    problem = f"of {len(texts):,} documents do not decode to the text, which flatters bits per byte"
    notes = [
        f"{folder}: the tokens of {of.lossy_documents:,} {problem}"
        for folder, of in scores.items()
        if of.lossy_documents
    ]
    n_bytes = sum(len(text.encode()) for text in texts)
    last = f"{len(texts):,} documents, {n_bytes:,} bytes; the ends of documents are not scored"
    return "\n".join([str(table), *notes, last])


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
        return _Model(gpt, own, gpt.config.vocab_size, gpt.config.context_length, gpt.n_parameters())
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # missing weights are reported below, in one line
    try:
        options = LOCAL | {"dtype": torch.float32, "output_loading_info": True}
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
    except Exception as error:  # the library raises whatever its parts raise
        problem = textwrap.shorten(str(error), 200)
        raise UserError(f"{folder}: expected a causal language model and its tokenizer, got: {problem}") from None
    model, found = loaded
    if missing := sorted(found["missing_keys"]):  # the library would draw them at random
        raise UserError(f"{folder}: expected all weights of a causal language model, {', '.join(missing[:3])} missing")
    model = model.eval().to(machine.device)
    return _Model(
        # The mask is all ones, and given only so that the library does not guess one.
        logits=lambda ids: model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits,
        tokenizer=tokenizer,
        n_embeddings=model.get_input_embeddings().weight.shape[0],
        context_length=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        parameters=sum(weight.numel() for weight in model.parameters()),
    )


def _encode(model: _Model, texts: list[str], folder: Path) -> tuple[list[Tensor], int]:
    """Return the ids of each text after a start id, and how many texts the ids do not decode to."""
    tokenizer, documents, n_lossy = model.tokenizer, [], 0
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if start is None:
        raise UserError(f"{folder}: expected a tokenizer with a BOS or an EOS token, got neither")
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        n_lossy += tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text
        documents.append(torch.tensor([start, *ids]))
    if (highest := int(max(ids.max() for ids in documents))) >= model.n_embeddings:
        expected = f"token ids below the model's {model.n_embeddings} embeddings"
        raise UserError(f"{folder}: expected {expected}, got {highest}")
    if all(len(ids) == 1 for ids in documents):
        raise UserError(f"{folder}: expected a tokenizer that has tokens for the texts, got none")
    return documents, n_lossy


def _batches(windows: list[Window], n_embeddings: int) -> Iterator[list[Window]]:
    """Yield the longest windows first: a batch then has like lengths, and one that is too large fails at once."""
    windows = sorted(windows, key=lambda window: -window[1].last)
    while windows:
        n_rows = max(min(BATCH_SIZE, MAX_LOGITS // (windows[0][1].last * n_embeddings)), 1)
        yield windows[:n_rows]
        windows = windows[n_rows:]


def _batch_nats(model: _Model, batch: list[Window], machine: Machine) -> float:
    """Return the sum of nats of the new targets of a batch."""
    rows = [document[span.start : span.start + span.last + 1] for document, span in batch]
    ids = pad_sequence(rows, batch_first=True).to(machine.device)  # padding comes later and so changes no score
    with machine.autocast():
        logits = model.logits(ids[:, :-1])
    total = 0.0
    for row, target, (_, span) in zip(logits, ids[:, 1:], batch, strict=True):
        new = slice(span.first, span.last)
        nats = cross_entropy(row[new].float(), target[new], reduction="none").cpu()  # mps has no float64
        total += float(nats.sum(dtype=torch.float64))
    return total
