"""A pretrained model and conversations → a model that answers.

    messages ──prepare_rows──► ids, and what each of them is: read, answer, or an answer's end ──train_instruct──► GPT

The loss is on the answers' tokens and the markers that end them; prompts are read, and with loss_on: all learned too.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.core.tables import SPLITS
from llm.evaluate.bootstrap import ratio_interval
from llm.finetune.data.batches import RowBatches, in_order, pad
from llm.finetune.data.messages import Conversation
from llm.finetune.data.packing import PackedBatches
from llm.finetune.params import InstructTask, TrainingParams
from llm.finetune.shared.chat import Turn, turn_ids
from llm.finetune.shared.language import Trained, train_language_model
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

IGNORED = -100
# What a token of a row is.
READ, ANSWER, END = range(3)
LEARNED = {"assistant": frozenset({ANSWER, END}), "all": frozenset({READ, ANSWER, END})}


@dataclass(frozen=True)
class Row:
    """A conversation, or the part of one that fits, up to the last token of its last answer.

    `parts` says of each id whether it is READ, of an ANSWER, or an answer's END. `n_bytes` are the answers' in UTF-8.
    """

    messages: Conversation
    ids: list[int]
    parts: list[int]
    n_bytes: int

    @property
    def prompt_ids(self) -> list[int]:
        """All that comes before the last answer."""
        return self.ids[: len(self.parts) - self.parts[::-1].index(READ)]

    def target(self, counted: frozenset[int]) -> list[int]:
        """The ids of the `counted` parts, IGNORED for the others and for the first, which nothing could predict."""
        pairs = zip(self.ids, self.parts, strict=True)
        return [token if part in counted and place else IGNORED for place, (token, part) in enumerate(pairs)]


def make_row(messages: Conversation, turns: list[Turn], begin: int, last_only: bool = False) -> Row:
    """The row of a whole conversation whose last message is an answer; with `last_only` the others are read only.

    `begin` is the id that it begins with.
    """
    ids: list[int] = [begin]
    parts: list[int] = [READ]
    n_bytes = 0
    for message, turn in zip(messages, turns, strict=True):
        is_answer = message.role == "assistant" and (message is messages[-1] or not last_only)
        ids += [*turn.opening, *turn.content, *turn.end, *turn.rest]
        inside = [ANSWER if is_answer else READ] * len(turn.content) + [END if is_answer else READ]
        parts += [READ] * len(turn.opening) + inside + [READ] * len(turn.rest)
        n_bytes += len(message.content.encode()) if is_answer else 0
    n_kept = _up_to_the_last_answer(parts)
    return Row(messages, ids[:n_kept], parts[:n_kept], n_bytes)


def cut_row(row: Row, max_tokens: int, tokenizer: Tokenizer) -> Row | None:
    """The first `max_tokens` of a row, as far as there is an answer in them; None where there is none."""
    n_kept = _up_to_the_last_answer(row.parts[:max_tokens])
    ids, parts = row.ids[:n_kept], row.parts[:n_kept]
    if ANSWER not in parts:
        return None
    began = [place for place in range(1, n_kept) if parts[place] != READ and parts[place - 1] == READ]
    answers = [number for number, message in enumerate(row.messages) if message.role == "assistant"]
    messages = row.messages[: answers[len(began) - 1] + 1]
    whole = sum(len(messages[number].content.encode()) for number in answers[: len(began) - 1])
    if parts[-1] == END:
        return Row(messages, ids, parts, whole + len(messages[-1].content.encode()))
    return Row(messages, ids, parts, whole + sum(len(tokenizer.token_bytes(token)) for token in ids[began[-1] :]))


def split_row(messages: Conversation, turns: list[Turn], begin: int, max_tokens: int) -> tuple[list[Row], int]:
    """Rows that each begin with the system message and a question, and how many single turns are too long for one.

    Each row takes as many turns, a question and its answer, as fit.
    """
    n_system = int(messages[0].role == "system")
    numbers = list(range(n_system, len(messages)))

    def row_of(kept: list[int]) -> Row:
        chosen = [*range(n_system), *kept]
        return make_row([messages[number] for number in chosen], [turns[number] for number in chosen], begin)

    rows: list[Row] = []
    kept: list[int] = []
    n_dropped = 0
    for at in range(0, len(numbers), 2):
        turn = numbers[at : at + 2]
        if kept and len(row_of([*kept, *turn]).ids) > max_tokens:
            rows.append(row_of(kept))
            kept = []
        if len(row_of([*kept, *turn]).ids) > max_tokens:
            n_dropped += 1
        else:
            kept = [*kept, *turn]
    return [*rows, *([row_of(kept)] if kept else [])], n_dropped


def prepare_rows(
    conversations: dict[str, list[Conversation]], task: InstructTask, tokenizer: Tokenizer, base: ModelConfig
) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """Rows by split that fit `max_tokens`, and how many were kept, dropped, cut and split."""
    check_length(task.max_tokens, base)
    if task.packing and base.family == "gru":
        raise UserError("packing: wanted false, for a GRU's state runs on from one conversation into the next")
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
    counts = Counter({"dropped_too_long": 0})
    if task.on_overflow != "drop":
        counts[f"{task.on_overflow}_too_long"] = 0
    for split in SPLITS:
        for messages in conversations[split]:
            turns = [turn_ids(tokenizer, message) for message in messages]
            row = make_row(messages, turns, tokenizer.bos_id)
            if len(row.ids) <= task.max_tokens:
                rows[split].append(row)
                continue
            fitting: list[Row] = []
            n_dropped = 1
            if task.on_overflow == "split":
                fitting, n_dropped = split_row(messages, turns, tokenizer.bos_id, task.max_tokens)
            elif task.on_overflow == "truncate" and (cut := cut_row(row, task.max_tokens, tokenizer)):
                fitting, n_dropped = [cut], 0
            rows[split] += fitting
            counts["dropped_too_long"] += n_dropped
            if fitting:
                counts[f"{task.on_overflow}_too_long"] += 1
    check_splits({split: len(part) for split, part in rows.items()}, task.data, task.max_tokens)
    return rows, {"rows": {split: len(part) for split, part in rows.items()}, **counts}


def check_length(max_tokens: int, base: ModelConfig) -> None:
    """UserError where rows may be longer than what the base reads."""
    if max_tokens > base.context_length:
        raise UserError(f"max_tokens: wanted at most the base's context of {base.context_length}, given {max_tokens}")


def check_splits(n_rows: dict[str, int], data: str, max_tokens: int) -> None:
    """UserError where nothing is left of a split."""
    for split, n in n_rows.items():
        if not n:
            raise UserError(f"{data}: wanted rows of at most {max_tokens} tokens in {split}, given none")


def train_instruct(
    load_base: Callable[[], GPT],
    rows: dict[str, list[Row]],
    task: InstructTask,
    training: TrainingParams,
    pad_id: int,
    seed: int,
    machine: Machine,
    scratch: Path,
    name: str,
) -> Trained:
    """Train on the rows of train; the weights with the lowest loss a learned token of val stay."""
    learned = LEARNED[task.loss_on]
    lengths = [len(row.ids) for row in rows["train"]]
    if task.packing:
        packed = PackedBatches(lengths, task.max_tokens, training.batch_size, seed)
        packs, per_epoch = packed.at, packed.per_epoch
    else:
        batches = RowBatches(lengths, training.batch_size, seed)
        packs, per_epoch = (lambda step: [[number] for number in batches.at(step)]), batches.per_epoch

    def step_loss(model: GPT, step: int) -> Tensor:
        chosen = [[rows["train"][number] for number in pack] for pack in packs(step)]
        return token_losses(model, chosen, learned, pad_id, machine, model.dropout_keys(seed, step)).mean()

    def val_loss(model: GPT) -> float:
        nats = row_nats(model, rows["val"], learned, pad_id, training.batch_size, machine)
        return float(nats.sum()) / sum(_n_counted(row, learned) for row in rows["val"])

    n_steps = max(1, round(training.epochs * per_epoch))
    return train_language_model(
        load_base, step_loss, val_loss, n_steps, task.method, training, seed, machine, scratch, name
    )


def token_losses(
    model: GPT,
    packs: list[list[Row]],
    counted: frozenset[int],
    pad_id: int,
    machine: Machine,
    dropout_keys: Tensor | None = None,
) -> Tensor:
    """The loss in nats of every token of the `counted` parts, row after row, in one row of numbers.

    The rows of a pack stand behind one another, and none of them sees another.
    """
    ids = pad([[token for row in pack for token in row.ids] for pack in packs], pad_id)[:, :-1]
    wanted = pad([[token for row in pack for token in row.target(counted)] for pack in packs], IGNORED)[:, 1:]
    segments = None
    if any(len(pack) > 1 for pack in packs):
        numbers = [[number for number, row in enumerate(pack) for _ in row.ids] for pack in packs]
        segments = pad(numbers, IGNORED)[:, :-1].to(machine.device)
    ids, wanted = ids.to(machine.device), wanted.to(machine.device)
    with machine.autocast():
        hidden, _ = model.run_blocks(model.embedding(ids), dropout_keys=dropout_keys, segments=segments)
        # The head is the largest matrix: it is asked only where a token counts.
        counts = wanted != IGNORED
        logits = model.head(hidden[counts])
    return nn.functional.cross_entropy(logits.float(), wanted[counts], reduction="none")


def sums_by_row(losses: Tensor, rows: list[Row], counted: frozenset[int]) -> Tensor:
    """What `token_losses` gave, summed for each row: (rows,)."""
    parts = losses.split([_n_counted(row, counted) for row in rows])
    return torch.stack([part.sum() for part in parts])


@torch.no_grad()
def row_nats(
    model: GPT, rows: list[Row], counted: frozenset[int], pad_id: int, batch_size: int, machine: Machine
) -> NDArray[np.float64]:
    """The loss in nats of each row's tokens of the `counted` parts, summed: (rows,)."""
    nats = np.empty(len(rows))
    for numbers in in_order([len(row.ids) for row in rows], batch_size):
        chosen = [rows[number] for number in numbers]
        losses = token_losses(model, [[row] for row in chosen], counted, pad_id, machine)
        nats[numbers] = sums_by_row(losses.double(), chosen, counted).cpu().numpy()
    return nats


def answer_figures(
    model: GPT, rows: list[Row], pad_id: int, batch_size: int, machine: Machine, seed: int
) -> dict[str, float]:
    """Bits for each UTF-8 byte of the answers, given what comes before them, with its 95% interval; nats a token.

    The markers that end answers are no part of the text. The interval is of other rows of the kind.
    """
    counted = frozenset({ANSWER})
    bits = row_nats(model, rows, counted, pad_id, batch_size, machine) / math.log(2)
    n_bytes = np.array([row.n_bytes for row in rows])
    figures = {"answer_bits_per_byte": bits.sum() / n_bytes.sum()}
    if interval := ratio_interval(bits, n_bytes, np.random.default_rng(seed)):
        figures |= dict(zip(("answer_bits_per_byte_low", "answer_bits_per_byte_high"), interval, strict=True))
    figures["answer_nats_per_token"] = bits.sum() * math.log(2) / sum(_n_counted(row, counted) for row in rows)
    return {name: round(float(value), 5) for name, value in figures.items()}


def _n_counted(row: Row, counted: frozenset[int]) -> int:
    return sum(part in counted for part in row.parts[1:])


def _up_to_the_last_answer(parts: list[int]) -> int:
    """How many tokens there are up to the last one that is of an answer, or ends one; 0 where none is."""
    return max((place for place, part in enumerate(parts, start=1) if part != READ), default=0)
