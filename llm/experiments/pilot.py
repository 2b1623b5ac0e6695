"""Train a small model on a text for some seconds: how predictable the text is, before a run is planned.

data/corpus ──read_excerpt──► texts of train and val ──run_pilot──► bits per byte of val, bytes of a token
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import trange

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.core.tables import read_table
from llm.evaluate.likelihood import plan_spans, score_tokens
from llm.model.config import ModelConfig, ModelParams
from llm.model.gpt import GPT
from llm.tokens.bpe import train_bpe
from llm.tokens.tokenize import token_lengths
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import Windows
from llm.train.batches import WindowBatches
from llm.train.language import LanguageLoss
from llm.train.optimizers import Optimizer
from llm.train.params import OptimizerParams, ScheduleParams

TRAIN_BYTES, VAL_BYTES = 4_000_000, 200_000  # of the text at most
N_STEPS, BATCH_SIZE = 250, 8
SCHEDULE = ScheduleParams(kind="wsd", warmup_steps=None, decay_fraction=0.5, final_lr_fraction=0.0)


@dataclass(frozen=True)
class Excerpt:
    """Texts of a corpus, evenly spaced over it, and the bytes of all of its splits."""

    train: list[str]
    val: list[str]
    n_bytes: dict[str, int]


@dataclass(frozen=True)
class Pilot:
    """The result of a pilot run: N, D, bits per byte of val, and the bytes of a token of train."""

    parameters: int
    tokens: int
    bits_per_byte: float
    bytes_per_token: float


def read_excerpt(corpus: Path) -> Excerpt:
    """Read up to a few megabytes of a corpus; UserError where train or val is empty."""
    texts, sizes = {}, {}
    for split, limit in (("train", TRAIN_BYTES), ("val", VAL_BYTES)):
        table = read_table(corpus / f"{split}.parquet", ["text", "n_bytes"])
        sizes[split] = sum(table.column("n_bytes").to_pylist())
        if not sizes[split]:
            raise UserError(f"prepare.split: expected text in {split}, which a plan is measured on, got none")
        texts[split] = shorten(table.column("text").to_pylist(), limit)
    return Excerpt(texts["train"], texts["val"], sizes)


def shorten(texts: list[str], limit: int) -> list[str]:
    """Return evenly spaced texts of about `limit` characters in all, of a text longer than all of that its beginning.

    >>> shorten(["aaa", "bbb", "ccc", "ddd"], 6), shorten(["abcdef"], 4)
    (['aaa', 'ccc'], ['abcd'])
    """
    every = max(1, math.ceil(sum(map(len, texts)) / limit))
    every = min(every, len(texts))
    return [text[:limit] for text in texts[::every]]


def run_pilot(excerpt: Excerpt, vocab_size: int, pattern: str, model: ModelParams, optimizer: OptimizerParams,
              context_length: int, seed: int, machine: Machine) -> Pilot:  # fmt: skip
    """Train a tokenizer and a model on an excerpt, and score its held-out text."""
    tokenizer = Tokenizer.of(train_bpe(excerpt.train, vocab_size, pattern))
    train, val = (_stream(tokenizer, texts) for texts in (excerpt.train, excerpt.val))
    config = ModelConfig(**model.model_dump(), vocab_size=tokenizer.vocab_size, context_length=context_length)
    gpt = GPT(config, torch.Generator().manual_seed(seed)).to(machine.device)
    starts = np.arange(0, max(len(train) - 1, 1), context_length)
    lengths = np.minimum(context_length, len(train) - 1 - starts).astype(np.int32)
    windows = Windows(train, starts, lengths, np.ones(len(starts), dtype=np.float32))
    batches = WindowBatches([windows], context_length, BATCH_SIZE, tokenizer.pad, seed)
    loss, steps = LanguageLoss(gpt, machine, compiled=False), Optimizer(gpt, optimizer, machine.dtype, machine.device)
    for step in trange(N_STEPS, desc="pilot", unit=" steps"):
        loss(*batches.at(step)).backward()
        steps.step(step, SCHEDULE.lr_factor(step, N_STEPS))
    gpt.eval()
    spans = plan_spans(len(val), context_length, context_length * 3 // 4)
    nats = score_tokens(gpt, val, spans, 2 * BATCH_SIZE, machine, "pilot: score").nats
    sizes = token_lengths(tokenizer)
    bits = float(nats.sum()) / math.log(2) / float(sizes[val].sum())
    parameters = sum(weight.numel() for weight in [*gpt.blocks.parameters(), *gpt.norm.parameters()])
    bytes_per_token = float(sizes[train].sum()) / len(train)
    return Pilot(parameters, N_STEPS * BATCH_SIZE * context_length, bits, bytes_per_token)


def _stream(tokenizer: Tokenizer, texts: list[str]) -> NDArray[np.uint32]:
    """Return the ids of texts, each with the token for its end on both sides."""
    end = np.array([tokenizer.end_of_text], dtype=np.uint32)
    return np.concatenate([end, *(part for ids in tokenizer.encode_batch(texts, 2) for part in (ids, end))])
