"""How long the rows of a task are in tokens, read as its stage reads them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.core.errors import UserError
from llm.finetune.data.labeled import read_classify
from llm.finetune.data.messages import Conversation, read_conversations
from llm.finetune.dpo.dpo import Preference, read_preferences
from llm.finetune.params import ClassifyTask, DPOTask, InstructTask
from llm.finetune.shared.answers import spread
from llm.tokens.tokenizer import Tokenizer

MEASURED_ROWS = 20_000  # of a split, evenly spread
# Special tokens and line ends around a part of a row.
FRAME_TOKENS = {"classify": 1, "instruct": 4, "dpo": 4}


@dataclass(frozen=True)
class TaskRows:
    """What a stage would read: counts, the parts of some rows of each split, and the rows of train of each label."""

    counts: dict[str, Any]
    parts: dict[str, list[list[str]]]
    rows_per_label: Counter[str]


def read_task_rows(path: Path, task: ClassifyTask | InstructTask | DPOTask, seed: int) -> TaskRows:
    """Read a file as the stage of a task does; UserError where that would refuse it."""
    rows: dict[str, list[Any]]
    rows_per_label: Counter[str] = Counter()
    to_parts: Callable[[Any], list[str]]
    match task:
        case ClassifyTask():
            labeled = read_classify(path, task, seed)
            by_split = labeled.table.groupby("split")
            rows, counts, to_parts = (
                {str(split): part["texts"].tolist() for split, part in by_split},
                labeled.counts,
                list,
            )
            rows_per_label.update(label for row in by_split.get_group("train")["labels"] for label in row)
        case InstructTask():
            rows, counts = read_conversations(path, task, seed)
            to_parts = _conversation_parts
        case DPOTask():
            rows, counts = read_preferences(path, task, seed)
            to_parts = _preference_parts
    if empty := [split for split, part in rows.items() if not part]:
        raise UserError(f"{path}: expected rows in {empty[0]}, got none")
    parts = {split: [to_parts(row) for row in spread(part, MEASURED_ROWS)] for split, part in rows.items()}
    n_rows = {split: len(rows[split]) for split in ("train", "val", "test")}
    return TaskRows({"rows": n_rows} | counts, parts, rows_per_label)


def _conversation_parts(messages: Conversation) -> list[str]:
    return [f"{message.role}\n{message.content}" for message in messages]


def _preference_parts(preference: Preference) -> list[str]:
    """The prompt and the longer answer."""
    answer = max(preference.chosen, preference.rejected, key=len)
    return [*_conversation_parts(preference.prompt), f"assistant\n{answer}"]


def count_tokens(parts: Sequence[list[str]], kind: str, tokenizer: Tokenizer | None) -> NDArray[np.int64]:
    """Return the tokens of each row, (rows,); without a tokenizer its bytes, of which a token is one at least."""
    texts = [text for row in parts for text in row]
    if tokenizer is None:
        lengths = [len(text.encode()) for text in texts]
    else:
        lengths = [len(ids) for ids in tokenizer.encode_batch(texts, n_threads=2)]
    ends = np.cumsum([len(row) for row in parts])
    sums = np.concatenate([[0], np.cumsum(lengths)])[ends]
    n_parts = np.array([len(row) for row in parts])
    return np.diff(sums, prepend=0) + FRAME_TOKENS[kind] * n_parts
