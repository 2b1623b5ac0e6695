"""Train a small model on a text for some seconds, twice: how predictable the text is, and how fast it is learned.

data/corpus ──read_excerpt──► texts of train and val ──run_pilots──► bits per byte of val after few and more steps
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import trange

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.core.tables import SPLITS, read_table
from llm.evaluate.likelihood import plan_spans, score_tokens
from llm.experiments.planning_law import Pilots, Run
from llm.experiments.recipe import Recipe, recipe_of
from llm.model.config import ModelConfig, ModelParams
from llm.model.gpt import GPT
from llm.tokens.bpe import train_bpe
from llm.tokens.tokenize import Ids, token_lengths
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import Windows
from llm.train.batches import SegmentedBatches, WindowBatches
from llm.train.language import LanguageLoss
from llm.train.optimizers import Optimizer
from llm.train.params import OptimizerParams, ScheduleParams

TRAIN_BYTES, VAL_BYTES = 4_000_000, 500_000  # of the text at most
N_STEPS, BATCH_SIZE = (125, 500), 8  # as in the table of the law
SCHEDULE = ScheduleParams(kind="wsd", warmup_steps=None, decay_fraction=0.5, final_lr_fraction=0.0)


@dataclass(frozen=True)
class Excerpt:
    """Texts of a corpus, evenly spaced over it, and the bytes of all of its splits."""

    train: list[str]
    val: list[str]
    n_bytes: dict[str, int]


@dataclass(frozen=True)
class PilotShape:
    """What a pilot run is made of, besides the text."""

    model: ModelParams
    vocab_size: int
    pattern: str
    context_length: int
    optimizer: OptimizerParams
    seed: int


def read_excerpt(corpus: Path) -> Excerpt:
    """Read up to a few megabytes of a corpus; UserError where train or val is empty."""
    tables = {split: read_table(corpus / f"{split}.parquet", ["text", "n_bytes"]) for split in SPLITS}
    sizes = {split: sum(table.column("n_bytes").to_pylist()) for split, table in tables.items()}
    texts = {}
    for split, limit in (("train", TRAIN_BYTES), ("val", VAL_BYTES)):
        if not sizes[split]:
            raise UserError(f"prepare.split: expected text in {split}, which a plan is measured on, got none")
        texts[split] = shorten(tables[split].column("text").to_pylist(), limit)
    return Excerpt(texts["train"], texts["val"], sizes)


def shorten(texts: list[str], limit: int) -> list[str]:
    """Return evenly spaced texts of about `limit` characters in all, of a text longer than all of that its beginning.

    >>> shorten(["aaa", "bbb", "ccc", "ddd"], 6), shorten(["abcdef"], 4)
    (['aaa', 'ccc'], ['abcd'])
    """
    every = min(math.ceil(sum(map(len, texts)) / limit), len(texts))
    return [text[:limit] for text in texts[:: max(every, 1)]]


def run_pilots(excerpt: Excerpt, shape: PilotShape, machine: Machine) -> tuple[Pilots, float]:
    """Return the two runs on an excerpt, and the bytes of a token of train."""
    runs, bytes_per_token = train_runs(excerpt, shape, N_STEPS, machine)
    return Pilots(*runs), bytes_per_token


def train_runs(excerpt: Excerpt, shape: PilotShape, steps: Sequence[int], machine: Machine) -> tuple[list[Run], float]:
    """Train a tokenizer, and a model for each number of steps; return the runs, and the bytes of a token of train.

    Their unique tokens are those of all of train. Each is trained as a plan would train it.
    """
    machine.retain_freed_memory()
    tokenizer = Tokenizer.of(train_bpe(excerpt.train, shape.vocab_size, shape.pattern))
    streams = [_stream(excerpt.train, lambda texts: tokenizer.encode_batch(texts, machine.threads), tokenizer)]
    bytes_per_token = float(token_lengths(tokenizer)[streams[0]].sum()) / len(streams[0])
    unique_tokens = excerpt.n_bytes["train"] / bytes_per_token
    found = []
    for n_steps in steps:
        n_tokens = n_steps * BATCH_SIZE * shape.context_length
        recipe = recipe_of(n_tokens / unique_tokens)
        while recipe.merge_dropout and len(streams) <= recipe.segmentations:
            streams.append(_segment(excerpt.train, tokenizer, recipe.merge_dropout, shape.seed + len(streams)))
        gpt = _train(streams, tokenizer, n_steps, recipe, shape, machine)
        parameters = sum(weight.numel() for weight in [*gpt.blocks.parameters(), *gpt.norm.parameters()])
        found.append(Run(parameters, n_tokens, unique_tokens, _score(gpt, tokenizer, excerpt.val, machine)))
    return found, bytes_per_token


def _train(
    streams: list[NDArray[np.uint32]], tokenizer: Tokenizer, n_steps: int, recipe: Recipe, shape: PilotShape,
    machine: Machine,
) -> GPT:  # fmt: skip
    """Train on a text's plain stream, the first one, or on its segmentations and then on that."""
    model = shape.model.model_copy(update={"dropout": recipe.dropout})
    config = ModelConfig(**model.model_dump(), vocab_size=tokenizer.vocab_size, context_length=shape.context_length)
    gpt = GPT(config, torch.Generator().manual_seed(shape.seed)).to(machine.device)

    def batches(chosen: list[NDArray[np.uint32]]) -> WindowBatches:
        windows = [_windows(stream, shape.context_length) for stream in chosen]
        return WindowBatches(windows, shape.context_length, BATCH_SIZE, tokenizer.pad, shape.seed)

    segmentations = streams[1 : 1 + recipe.segmentations] if recipe.merge_dropout else []
    text = SegmentedBatches(batches(streams[:1]), batches(segmentations) if segmentations else None, n_steps, None)
    rates = {"adamw_lr": recipe.adamw_lr, "weight_decay": recipe.weight_decay}
    optimizer = Optimizer(gpt, shape.optimizer.model_copy(update=rates), machine.dtype, machine.device)
    loss = LanguageLoss(gpt, machine, compiled=False)
    for step in trange(n_steps, desc=f"pilot of {n_steps} steps", unit=" steps"):
        loss(*text.at(step), gpt.dropout_keys(shape.seed, step)).backward()
        optimizer.step(step, SCHEDULE.lr_factor(step, n_steps))
    return gpt.eval()


def _score(gpt: GPT, tokenizer: Tokenizer, texts: list[str], machine: Machine) -> float:
    """Return the bits per byte of texts."""
    stream = _stream(texts, lambda texts: tokenizer.encode_batch(texts, machine.threads), tokenizer)
    context = gpt.config.context_length
    scored = score_tokens(
        gpt, stream, plan_spans(len(stream), context, context * 3 // 4), 2 * BATCH_SIZE, machine, "pilot: score"
    )
    return float(scored.nats.sum()) / math.log(2) / float(token_lengths(tokenizer)[stream].sum())


def _segment(texts: list[str], tokenizer: Tokenizer, dropout: float, seed: int) -> NDArray[np.uint32]:
    rng = random.Random(seed)
    return _stream(
        texts, lambda texts: [np.array(tokenizer.encode_with_dropout(text, dropout, rng)) for text in texts], tokenizer
    )


def _stream(texts: list[str], encode: Callable[[list[str]], Ids], tokenizer: Tokenizer) -> NDArray[np.uint32]:
    """Return the ids of texts, each with the token for its end on both sides."""
    end = np.array([tokenizer.end_of_text], dtype=np.uint32)
    return np.concatenate([end, *(part for ids in encode(texts) for part in (ids, end))]).astype(np.uint32)


def _windows(stream: NDArray[np.uint32], context_length: int) -> Windows:
    starts = np.arange(0, max(len(stream) - 1, 1), context_length)
    lengths = np.minimum(context_length, len(stream) - 1 - starts).astype(np.int32)
    return Windows(stream, starts, lengths, np.ones(len(starts), dtype=np.float32))
