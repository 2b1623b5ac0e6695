"""Conversations as rows of ids, and the losses of their answers: what instruction and preference tasks share.

messages ──make_row──► ids, and the part of each: PROMPT, ANSWER or END ──token_losses──► nats of counted tokens
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.evaluate.bootstrap import ratio_with_interval
from llm.finetune.data.batches import by_length, pad
from llm.finetune.data.messages import Conversation
from llm.finetune.shared.chat import turn_ids
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

IGNORED = -100
PROMPT, ANSWER, END = range(3)  # parts of a row; END is the marker after an answer
Parts = frozenset[int]
ASSISTANT: Parts = frozenset({ANSWER, END})


@dataclass(frozen=True)
class Row:
    """A conversation, or the part of it that fits, up to the last token of its last answer.

    `parts` holds PROMPT, ANSWER or END for each id; `n_bytes` are the UTF-8 bytes of the answers.
    """

    messages: Conversation
    ids: list[int]
    parts: list[int]
    n_bytes: int

    @property
    def prompt_ids(self) -> list[int]:
        """The ids before the last answer."""
        return self.ids[: len(self.parts) - self.parts[::-1].index(PROMPT)]

    def target(self, counted: Parts) -> list[int]:
        """Return the ids of the `counted` parts, IGNORED for others and for the first id, which has no context."""
        pairs = zip(self.ids[1:], self.parts[1:], strict=True)
        return [IGNORED, *(token if part in counted else IGNORED for token, part in pairs)]

    def n_counted(self, counted: Parts) -> int:
        """Return how many targets are not IGNORED."""
        return sum(part in counted for part in self.parts[1:])


def make_row(tokenizer: Tokenizer, messages: Conversation, last_only: bool = False) -> Row:
    """Return the row of a conversation that ends in an answer; with `last_only` earlier answers are PROMPT."""
    ids, parts, n_bytes = [tokenizer.bos_id], [PROMPT], 0
    for number, message in enumerate(messages):
        opening, content, marker, rest = turn_ids(tokenizer, message)
        is_answer = message.role == "assistant" and (number == len(messages) - 1 or not last_only)
        ids += opening + content + marker + rest
        inside = [ANSWER] * len(content) + [END] if is_answer else [PROMPT] * (len(content) + 1)
        parts += [PROMPT] * len(opening) + inside + [PROMPT] * len(rest)
        n_bytes += len(message.content.encode()) if is_answer else 0
    end = end_of_answers(parts)
    return Row(messages, ids[:end], parts[:end], n_bytes)


def end_of_answers(parts: list[int]) -> int:
    """Return the number of tokens up to the last one of an answer or its end; 0 without one."""
    return max((end for end, part in enumerate(parts, start=1) if part != PROMPT), default=0)


def count_rows(rows: Mapping[str, Sequence[Any]], data: str, max_tokens: int) -> dict[str, int]:
    """Return the number of rows of each split; UserError for an empty one."""
    if empty := [split for split, part in rows.items() if not part]:
        raise UserError(f"{data}: expected rows of at most {max_tokens} tokens in {empty[0]}, got none")
    return {split: len(part) for split, part in rows.items()}


def token_losses(
    model: GPT,
    packs: list[list[Row]],
    counted: Parts,
    pad_id: int,
    machine: Machine,
    dropout_keys: Tensor | None = None,
) -> Tensor:
    """Return the loss in nats of every token of the `counted` parts, row after row: (tokens,).

    The rows of a pack are concatenated, and attention between them is masked.
    """
    ids = pad([[token for row in pack for token in row.ids] for pack in packs], pad_id)[:, :-1].to(machine.device)
    targets = pad([[token for row in pack for token in row.target(counted)] for pack in packs], IGNORED)[:, 1:]
    targets, segments = targets.to(machine.device), _segments(packs, machine)
    with machine.autocast():
        hidden = model.run_blocks(model.embedding(ids), dropout_keys=dropout_keys, segments=segments)
        # The head is the largest matrix: it is applied to counted tokens alone.
        is_counted = targets != IGNORED
        logits = model.head(hidden[is_counted])
    return nn.functional.cross_entropy(logits.float(), targets[is_counted], reduction="none")


def _segments(packs: list[list[Row]], machine: Machine) -> Tensor | None:
    """Return the number of each token's row in its pack; None where each row is alone."""
    if all(len(pack) == 1 for pack in packs):
        return None
    numbers = [[number for number, row in enumerate(pack) for _ in row.ids] for pack in packs]
    return pad(numbers, IGNORED)[:, :-1].to(machine.device)


def sums_by_row(losses: Tensor, rows: list[Row], counted: Parts) -> Tensor:
    """Return the result of `token_losses` summed by row: (rows,)."""
    return torch.stack([part.sum() for part in losses.split([row.n_counted(counted) for row in rows])])


@torch.no_grad()
def row_nats(
    model: GPT, rows: list[Row], counted: Parts, pad_id: int, batch_size: int, machine: Machine
) -> NDArray[np.float64]:
    """Return the loss in nats of the `counted` parts of each row, summed: (rows,)."""
    nats = np.empty(len(rows))
    for numbers in by_length([len(row.ids) for row in rows], batch_size):
        batch = [rows[number] for number in numbers]
        losses = token_losses(model, [[row] for row in batch], counted, pad_id, machine)
        nats[numbers] = sums_by_row(losses.cpu().double(), batch, counted).numpy()  # mps has no float64
    return nats


def answer_figures(
    model: GPT, rows: list[Row], pad_id: int, batch_size: int, machine: Machine, seed: int
) -> dict[str, float]:
    """Return bits per UTF-8 byte of the answers without their ends, with a 95% interval over rows; nats per token."""
    counted = frozenset({ANSWER})
    bits = row_nats(model, rows, counted, pad_id, batch_size, machine) / math.log(2)
    n_bytes = np.array([row.n_bytes for row in rows])
    figures = ratio_with_interval("answer_bits_per_byte", bits, n_bytes, np.random.default_rng(seed))
    nats_per_token = bits.sum() * math.log(2) / sum(row.n_counted(counted) for row in rows)
    return figures | {"answer_nats_per_token": round(float(nats_per_token), 5)}
