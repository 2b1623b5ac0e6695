"""An instruction task: conversations in, a model that answers out.

    conversations ──prepare_rows──► rows that fit ──make_objective──► the loss of a GPT on them

The loss is on answers and the markers that end them, with `loss_on: all` on prompts as well.
"""

from functools import partial
from typing import Any

from torch import Tensor

from llm.core.errors import UserError
from llm.finetune.data.batches import RowBatches
from llm.finetune.data.messages import Conversation, read_conversations
from llm.finetune.params import InstructTask
from llm.finetune.shared.chat import turn_ids
from llm.finetune.shared.job import Base, Job, Objective, Outcome, Run
from llm.finetune.shared.language import LanguageTask, merge_counts, open_models, run_language_task
from llm.finetune.shared.rows import (
    ANSWER,
    ASSISTANT,
    END,
    PROMPT,
    Row,
    count_rows,
    end_of_answers,
    make_row,
    row_nats,
    token_losses,
)
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

COUNTED = {"assistant": ASSISTANT, "all": frozenset({PROMPT, ANSWER, END})}
ANSWERS_SCORED = 100


def run(job: Job, task: InstructTask) -> Outcome:
    """Train, and score the answers of test before and after."""
    base, before = open_models(job)
    if task.packing and before.config.family == "gru":
        raise UserError("packing: expected false for a GRU, whose state continues across conversations")
    conversations, counts = read_conversations(job.data, task, job.seed)
    rows, own_counts, max_tokens = prepare_rows(conversations, task, base.tokenizer, before.config.context_length)
    task = task.model_copy(update={"max_tokens": max_tokens})
    objective = partial(make_objective, rows, task, base)
    own = LanguageTask(merge_counts(counts, own_counts), max_tokens, objective, rows["test"], ANSWERS_SCORED)
    return run_language_task(job, task, base, before, own)


def prepare_rows(
    conversations: dict[str, list[Conversation]], task: InstructTask, tokenizer: Tokenizer, context_length: int
) -> tuple[dict[str, list[Row]], dict[str, Any], int]:
    """Return rows of at most `max_tokens` by split, counts of conversations dropped, cut or split, and `max_tokens`."""
    every = {split: [make_row(tokenizer, messages) for messages in part] for split, part in conversations.items()}
    max_tokens = task.max_tokens_of([len(row.ids) for row in every["train"]], context_length)
    rows: dict[str, list[Row]] = {split: [] for split in conversations}
    n_dropped = n_changed = 0
    for split, row in ((split, row) for split, part in every.items() for row in part):
        if len(row.ids) <= max_tokens:
            rows[split].append(row)
            continue
        fitting, n = fit_row(row, task.on_overflow, max_tokens, tokenizer)
        rows[split] += fitting
        n_dropped, n_changed = n_dropped + n, n_changed + bool(fitting)
    counts = {"rows": count_rows(rows, task.data, max_tokens), "dropped": {"too_long": n_dropped}}
    name = {"truncate": "truncated", "split": "split"}.get(task.on_overflow)
    return rows, counts | ({name: n_changed} if name else {}), max_tokens


def fit_row(row: Row, on_overflow: str, max_tokens: int, tokenizer: Tokenizer) -> tuple[list[Row], int]:
    """Return rows made of a row that is too long, and how many conversations, or single turns, were dropped."""
    if on_overflow == "split":
        return split_row(row.messages, max_tokens, tokenizer)
    truncated = truncate_row(row, max_tokens, tokenizer) if on_overflow == "truncate" else None
    return ([truncated], 0) if truncated else ([], 1)


def truncate_row(row: Row, max_tokens: int, tokenizer: Tokenizer) -> Row | None:
    """Return the first `max_tokens` of a row up to the last token of an answer; None without an answer in them."""
    end = end_of_answers(row.parts[:max_tokens])
    ids, parts = row.ids[:end], row.parts[:end]
    if ANSWER not in parts:
        return None
    starts = [place for place in range(1, end) if parts[place] != PROMPT and parts[place - 1] == PROMPT]
    answers = [number for number, message in enumerate(row.messages) if message.role == "assistant"][: len(starts)]
    sizes = [len(row.messages[number].content.encode()) for number in answers]
    if parts[-1] == ANSWER:
        sizes[-1] = sum(len(tokenizer.token_bytes(token)) for token in ids[starts[-1] :])
    return Row(row.messages[: answers[-1] + 1], ids, parts, sum(sizes))


def split_row(messages: Conversation, max_tokens: int, tokenizer: Tokenizer) -> tuple[list[Row], int]:
    """Return rows of as many turns as fit behind the system message, and how many single turns are too long."""
    sizes = [sum(map(len, turn_ids(tokenizer, message))) for message in messages]
    n_system = int(messages[0].role == "system")
    # The row begins with a token and ends without the line end after its last answer.
    fixed = 1 + sum(sizes[:n_system]) - len(tokenizer.encode("\n"))
    chunks: list[Conversation] = [[]]
    used, n_dropped = fixed, 0
    for at in range(n_system, len(messages), 2):
        size = sum(sizes[at : at + 2])
        if chunks[-1] and used + size > max_tokens:
            chunks.append([])
            used = fixed
        if used + size > max_tokens:
            n_dropped += 1
        else:
            chunks[-1] += messages[at : at + 2]
            used += size
    return [make_row(tokenizer, [*messages[:n_system], *chunk]) for chunk in chunks if chunk], n_dropped


def make_objective(rows: dict[str, list[Row]], task: InstructTask, base: Base, run: Run) -> Objective[GPT]:
    """Return the mean loss of the counted tokens of train, in batches or packs, and of val."""
    counted, size, pad = COUNTED[task.loss_on], task.training.batch_size, base.tokenizer.pad
    lengths = [len(row.ids) for row in rows["train"]]
    batches = RowBatches(lengths, size, run.seed, task.max_tokens if task.packing else None)

    def step_loss(model: GPT, step: int) -> Tensor:
        packs = batches.at(step) if task.packing else [[number] for number in batches.at(step)]
        chosen = [[rows["train"][number] for number in pack] for pack in packs]
        return token_losses(model, chosen, counted, pad, run.machine, model.dropout_keys(run.seed, step)).mean()

    def val_loss(model: GPT) -> float:
        nats = row_nats(model, rows["val"], counted, pad, size, run.machine)
        return float(nats.sum()) / sum(row.n_counted(counted) for row in rows["val"])

    return Objective(base.load, step_loss, val_loss, batches.per_epoch)
