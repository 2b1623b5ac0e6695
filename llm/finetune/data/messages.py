r"""Rows of four kinds in, conversations out: who says what, one after the other.

    {"instruction": "Add.", "input": "1 2", "output": "3"}                                alpaca
    {"prompt": "Add.\n\n1 2", "completion": "3"}                                          prompt_completion
    {"messages": [{"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", …}]}  messages
    {"conversations": [{"from": "human", "value": "Add.\n\n1 2"}, {"from": "gpt", …}]}    sharegpt

        → [Message("user", "Add.\n\n1 2"), Message("assistant", "3")]

A list may also be its JSON text, as in a cell of a CSV. A conversation begins with a system message or none; then
user and assistant take turns, and the assistant has the last word.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from llm.core import params
from llm.core.errors import UserError
from llm.core.tables import SPLITS
from llm.finetune.data.labeled import Labeled, read_records
from llm.finetune.params import (
    AlpacaRows,
    DPOTask,
    InstructTask,
    MessageRows,
    MessagesRows,
    PromptRows,
    ShareGPTRows,
)
from llm.finetune.shared.chat import Message

Conversation = list[Message]
Parsed = TypeVar("Parsed")

ROLES = {role: role for role in ("system", "user", "assistant")}
# Files of the kind sharegpt name the sender by the model that once answered.
SENDERS = ROLES | {"human": "user"} | dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "bot"), "assistant")


class RowError(Exception):
    """What is wrong with a row: a `reason` to count it under, and what was wanted and given."""

    def __init__(self, reason: str, what: str):
        super().__init__(what)
        self.reason = reason


def columns_of(rows: MessageRows) -> tuple[list[str], frozenset[str]]:
    """The columns that rows of a kind are made of, and those of them that may be empty."""
    system = [] if rows.system is None else [rows.system]
    match rows:
        case AlpacaRows():
            given = [] if rows.input is None else [rows.input]
            return [*system, rows.instruction, *given, rows.output], frozenset([*system, *given])
        case PromptRows():
            columns = [rows.prompt, rows.completion]
        case MessagesRows():
            columns = [rows.messages]
        case ShareGPTRows():
            columns = [rows.conversations]
    return [*system, *columns], frozenset(system)


def read_conversations(
    path: Path, task: InstructTask, seed: int
) -> tuple[dict[str, list[Conversation]], dict[str, Any]]:
    """Read the conversations of a file by split, and the counts of what is left out."""
    columns, may_be_empty = columns_of(task.rows)
    labeled = read_records(path, task, columns, seed, may_be_empty)
    return read_rows(labeled, task, lambda row: to_conversation(row, task.rows))


def read_rows(
    labeled: Labeled, task: InstructTask | DPOTask, parse: Callable[[Mapping[str, Any]], Parsed]
) -> tuple[dict[str, list[Parsed]], dict[str, Any]]:
    """What `parse` makes of each row, by split, and the counts of what is left out.

    A row with which something is wrong is a UserError that names its number, or with on_error: skip it is counted.
    """
    parsed: dict[str, list[Parsed]] = {split: [] for split in SPLITS}
    skipped = Counter(labeled.counts["skipped"])
    for record in labeled.table.to_dict("records"):
        try:
            parsed[record["split"]].append(parse({str(name): value for name, value in record.items()}))
        except RowError as error:
            if task.on_error == "fail":
                raise UserError(f"{task.data}: row {record['row']}: {error}") from None
            skipped[error.reason] += 1
    return parsed, labeled.counts | {"skipped": dict(sorted(skipped.items()))}


def to_conversation(row: Mapping[str, Any], rows: MessageRows) -> Conversation:
    """The conversation of a row. RowError where it is none; answers have no whitespace around them."""
    match rows:
        case AlpacaRows():
            asked = user_message(_text(row, rows.instruction), _text(row, rows.input) if rows.input else None)
            said = [Message("user", asked), Message("assistant", _text(row, rows.output))]
        case PromptRows():
            said = [Message("user", _text(row, rows.prompt)), Message("assistant", _text(row, rows.completion))]
        case MessagesRows():
            said = _messages(row[rows.messages], rows.messages, "role", "content", ROLES)
        case ShareGPTRows():
            said = _messages(row[rows.conversations], rows.conversations, "from", "value", SENDERS)
    if rows.system is not None and (system := _text(row, rows.system)).strip():
        said = [Message("system", system), *said]
    _check(said, "assistant", columns_of(rows)[0][-1])
    return [Message(role, content.strip() if role == "assistant" else content) for role, content in said]


def to_prompt(row: Mapping[str, Any], column: str, input_column: str | None = None) -> Conversation:
    """A text as one message of the user's, or a list of messages of which the last is the user's. RowError for else.

    Behind a text comes that of `input_column`, if there is one.
    """
    value = row[column]
    if isinstance(value, str) and not _is_list_of_messages(value):
        said = [Message("user", user_message(value, _text(row, input_column) if input_column else None))]
    else:
        said = _messages(value, column, "role", "content", ROLES)
    _check(said, "user", column)
    return said


def to_answer(row: Mapping[str, Any], column: str) -> str:
    """A text without the whitespace around it. RowError where it is none, or empty."""
    text = _text(row, column).strip()
    if not text:
        raise RowError("empty_content", f"{column}: wanted text, given none")
    return text


def user_message(instruction: str, given: str | None) -> str:
    r"""An instruction and its input, if there is one, as one message.

    >>> user_message("Add.", "1 2")
    'Add.\n\n1 2'
    """
    return f"{instruction}\n\n{given}" if given else instruction


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if not isinstance(value, str):
        raise RowError("not_a_text", f"{column}: wanted text, given {params.describe(value)}")
    return value


def _messages(value: Any, column: str, sender: str, content: str, roles: Mapping[str, str]) -> Conversation:
    """The messages of a list of mappings, with the roles that their senders are."""
    items = _parse_json(value) if isinstance(value, str) else value
    if not isinstance(items, list):
        raise RowError("not_a_list", f"{column}: wanted a list of messages, given {params.describe(value)}")
    said = []
    for number, item in enumerate(items, start=1):
        where = f"{column}: message {number}"
        if not isinstance(item, Mapping) or not all(isinstance(item.get(key), str) for key in (sender, content)):
            raise RowError(
                "not_a_message", f"{where}: wanted texts called {sender} and {content}, given {params.describe(item)}"
            )
        role = roles.get(item[sender].lower())
        if role is None:
            raise RowError("unknown_role", f"{where}: {sender}: wanted {', '.join(roles)}, given {item[sender]!r}")
        said.append(Message(role, item[content]))
    return said


def _check(said: Conversation, last: str, column: str) -> None:
    """RowError unless user and assistant take turns, behind a system message or none, and nothing is empty."""
    for number, message in enumerate(said, start=1):
        if not message.content.strip():
            raise RowError("empty_content", f"{column}: message {number}: wanted text, given none")
    n_system = int(bool(said) and said[0].role == "system")
    for number, message in enumerate(said[n_system:], start=n_system + 1):
        wanted = "user" if (number - n_system) % 2 else "assistant"
        if message.role != wanted:
            words = f"wanted one of the {wanted}'s, given one of the {message.role}'s"
            raise RowError("wrong_order", f"{column}: message {number}: {words}")
    if len(said) == n_system or said[-1].role != last:
        given = f"one of the {said[-1].role}'s" if said else "none"
        reason = "no_answer" if last == "assistant" else "no_question"
        raise RowError(reason, f"{column}: wanted a last message of the {last}'s, given {given}")


def _is_list_of_messages(text: str) -> bool:
    items = _parse_json(text) if text.lstrip().startswith("[") else None
    return isinstance(items, list) and bool(items) and all(isinstance(item, dict) and "role" in item for item in items)


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
