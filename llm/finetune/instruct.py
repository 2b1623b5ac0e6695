"""A pretrained model and instructions with answers → a model that answers.

The loss is on the answer's tokens and the marker that ends it; the prompt is read, not learned.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from llm.errors import UserError
from llm.finetune.batches import RowBatches, in_order, pad
from llm.finetune.chat import prompt_ids, user_message
from llm.finetune.fit import Fitted, fit
from llm.finetune.params import InstructTask
from llm.model.generate import generate, greedy
from llm.model.gpt import GPT
from llm.runtime import Machine
from llm.text.tables import SPLITS
from llm.text.tokenizer import END_OF_TEXT, IM_END, Tokenizer

IGNORED = -100


@dataclass(frozen=True)
class Row:
    """A prompt and its answer: texts, and token ids (the answer's without the marker that ends it)."""

    user: str
    answer: str
    prompt_ids: list[int]
    answer_ids: list[int]

    @property
    def length(self) -> int:
        """Tokens of prompt, answer and end marker."""
        return len(self.prompt_ids) + len(self.answer_ids) + 1


def prepare_rows(
    table: pd.DataFrame, task: InstructTask, tokenizer: Tokenizer, context_length: int
) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """Rows by split that fit `max_tokens`, and how many were kept and dropped."""
    if task.max_tokens > context_length:
        raise UserError(f"max_tokens: wanted at most the base's context of {context_length}, given {task.max_tokens}")
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
    too_long = 0
    for record in table.to_dict("records"):
        given = record[task.rows.input] if task.rows.input else None
        user, answer = user_message(record[task.rows.instruction], given), record[task.rows.output].strip()
        row = Row(user, answer, prompt_ids(tokenizer, user), tokenizer.encode(answer))
        if row.length > task.max_tokens:
            too_long += 1
        else:
            rows[record["split"]].append(row)
    for split in SPLITS:
        if not rows[split]:
            raise UserError(f"{task.data}: wanted rows of at most {task.max_tokens} tokens in {split}, given none")
    return rows, {"rows": {split: len(part) for split, part in rows.items()}, "dropped_too_long": too_long}


def train_instruct(
    load_base: Callable[[], GPT],
    rows: dict[str, list[Row]],
    task: InstructTask,
    tokenizer: Tokenizer,
    seed: int,
    machine: Machine,
    scratch: Path,
) -> Fitted[GPT]:
    """Train on the answers of train; the weights with the lowest loss on val's answers stay."""
    training = task.training
    end = tokenizer.special[IM_END]
    batches = RowBatches([row.length for row in rows["train"]], training.batch_size, seed)

    def batch_loss(model: GPT, chosen: list[Row]) -> Tensor:
        losses = _answer_losses(model, chosen, tokenizer.pad, end, machine)
        return losses.mean()

    def val_loss(model: GPT) -> float:
        with torch.no_grad():
            total, count = 0.0, 0
            for numbers in in_order([row.length for row in rows["val"]], training.batch_size):
                losses = _answer_losses(model, [rows["val"][n] for n in numbers], tokenizer.pad, end, machine)
                total, count = total + float(losses.sum()), count + len(losses)
        return total / count

    return fit(
        lambda: load_base().to(machine.device),
        lambda model, step: batch_loss(model, [rows["train"][number] for number in batches.at(step)]),
        val_loss,
        max(1, round(training.epochs * batches.per_epoch)),
        training,
        machine,
        scratch,
        "instruct",
    )


@torch.no_grad()
def answer_bits_per_byte(model: GPT, rows: list[Row], tokenizer: Tokenizer, batch_size: int, machine: Machine) -> float:
    """Bits for each UTF-8 byte of the answers, given the prompts; the end marker is no part of the text."""
    nats = 0.0
    for numbers in in_order([row.length for row in rows], batch_size):
        nats += float(_answer_losses(model, [rows[n] for n in numbers], tokenizer.pad, None, machine).sum())
    return round(nats / math.log(2) / sum(len(row.answer.encode()) for row in rows), 5)


def answer(model: GPT, user: str, tokenizer: Tokenizer, max_new_tokens: int) -> str:
    """The greedy answer to a user's message."""
    stop = frozenset({tokenizer.special[IM_END], tokenizer.special[END_OF_TEXT]})
    return tokenizer.decode(generate(model, prompt_ids(tokenizer, user), max_new_tokens, greedy, stop)).strip()


def _answer_losses(model: GPT, rows: list[Row], pad_id: int, end: int | None, machine: Machine) -> Tensor:
    """The loss in nats of every answer token of a batch, in one row; with the `end` marker's, where one is given."""
    tail = [] if end is None else [end]
    whole = [[*row.prompt_ids, *row.answer_ids, *tail] for row in rows]
    target = [[IGNORED] * len(row.prompt_ids) + row.answer_ids + tail for row in rows]
    ids, wanted = pad(whole, pad_id)[:, :-1].to(machine.device), pad(target, IGNORED)[:, 1:].to(machine.device)
    with machine.autocast():
        hidden, _ = model.run_blocks(model.embedding(ids))
        # The head is the largest matrix: it is asked only where an answer is learned.
        learned = wanted != IGNORED
        logits = model.head(hidden[learned])
    return nn.functional.cross_entropy(logits.float(), wanted[learned], reduction="none")
