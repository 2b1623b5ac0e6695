r"""Rows of four kinds in, conversations out.

    {"instruction": "Add.", "input": "1 2", "output": "3"}                                alpaca
    {"prompt": "Add.\n\n1 2", "completion": "3"}                                          prompt_completion
    {"messages": [{"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", …}]}  messages
    {"conversations": [{"from": "human", "value": "Add.\n\n1 2"}, {"from": "gpt", …}]}    sharegpt

        → [Message("user", "Add.\n\n1 2"), Message("assistant", "3")]

A list may also be JSON text, as in a cell of a CSV. A conversation begins with at most one system message; then user
and assistant alternate, and the assistant is last.
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
from llm.finetune.params import AlpacaRows, DPOTask, InstructTask, MessageRows, MessagesRows, PromptRows, ShareGPTRows
from llm.finetune.shared.chat import Message

Conversation = list[Message]
Parsed = TypeVar("Parsed")
Row = Mapping[Any, Any]
Counts = dict[str, Any]

ROLES = {role: role for role in ("system", "user", "assistant")}
# ShareGPT files name the sender by the model that answered.
SENDERS = ROLES | {"human": "user"} | dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "bot"), "assistant")


class RowError(Exception):
    """An invalid row: a `reason` to count it under, and what was expected and found."""

    def __init__(self, reason: str, problem: str):
        super().__init__(problem)
        self.reason = reason


def read_conversations(path: Path, task: InstructTask, seed: int) -> tuple[dict[str, list[Conversation]], Counts]:
    """Return the conversations of a file by split, and counts of the rows that were dropped."""
    labeled = read_records(path, task, task.rows.columns, seed, task.rows.optional)
    return parse_rows(labeled, task, lambda row: to_conversation(row, task.rows))


def parse_rows(
    labeled: Labeled, task: InstructTask | DPOTask, parse: Callable[[Row], Parsed]
) -> tuple[dict[str, list[Parsed]], Counts]:
    """Return each row parsed, by split, and counts; an invalid row is a UserError, or with on_error: skip counted."""
    parsed: dict[str, list[Parsed]] = {split: [] for split in SPLITS}
    dropped = Counter(labeled.counts["dropped"])
    for record in labeled.table.to_dict("records"):
        try:
            parsed[record["split"]].append(parse(record))
        except RowError as error:
            if task.on_error == "fail":
                raise UserError(f"{task.data}: row {record['row']}: {error}") from None
            dropped[error.reason] += 1
    return parsed, labeled.counts | {"dropped": dict(sorted(dropped.items()))}


def to_conversation(row: Row, rows: MessageRows) -> Conversation:
    """Return the conversation of a row, answers stripped of surrounding whitespace; RowError for an invalid one."""
    match rows:
        case AlpacaRows():
            turns = [_user(row, rows.instruction, rows.input), Message("assistant", _text(row, rows.output))]
        case PromptRows():
            turns = [_user(row, rows.prompt), Message("assistant", _text(row, rows.completion))]
        case MessagesRows():
            turns = _messages(row, rows.messages)
        case ShareGPTRows():
            turns = _messages(row, rows.conversations, "from", "value", SENDERS)
    if rows.system is not None and (system := _text(row, rows.system)).strip():
        turns = [Message("system", system), *turns]
    _check(turns, "assistant", rows.columns[-1])
    return [Message(role, content.strip() if role == "assistant" else content) for role, content in turns]


def to_prompt(row: Row, column: str, input_column: str | None = None) -> Conversation:
    """Return a text, with the text of `input_column` appended, as a user message; or a list of messages as it is."""
    items = _parse_json(row[column])
    # A prompt may be JSON by chance, such as [1, 2].
    is_messages = isinstance(items, list) and items and all(isinstance(of, dict) and "role" in of for of in items)
    is_text = isinstance(row[column], str) and not is_messages
    turns = [_user(row, column, input_column)] if is_text else _messages(row, column)
    _check(turns, "user", column)
    return turns


def to_answer(row: Row, column: str) -> str:
    """Return a text without surrounding whitespace; RowError for an empty one."""
    if text := _text(row, column).strip():
        return text
    raise RowError("empty_content", f"{column}: expected text, got nothing")


def _user(row: Row, column: str, input_column: str | None = None) -> Message:
    texts = [_text(row, column), _text(row, input_column) if input_column else ""]
    return Message("user", "\n\n".join(texts) if texts[1] else texts[0])


def _text(row: Row, column: str) -> str:
    if isinstance(value := row[column], str):
        return value
    raise RowError("not_a_text", f"{column}: expected text, got {params.describe(value)}")


def _messages(
    row: Row, column: str, sender: str = "role", content: str = "content", roles: Mapping[str, str] = ROLES
) -> Conversation:
    """Return the messages of a list of mappings, or of its JSON, with the roles of their senders."""
    items, turns = _parse_json(row[column]), []
    if not isinstance(items, list):
        raise RowError("not_a_list", f"{column}: expected a list of messages, got {params.describe(row[column])}")
    for number, item in enumerate(items, start=1):
        where = f"{column}: message {number}"
        if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in (sender, content)):
            problem = f"expected the texts {sender} and {content}, got {params.describe(item)}"
            raise RowError("not_a_message", f"{where}: {problem}")
        if (role := roles.get(item[sender].lower())) is None:
            raise RowError("unknown_role", f"{where}: {sender}: expected {', '.join(roles)}, got {item[sender]!r}")
        turns.append(Message(role, item[content]))
    return turns


def _check(turns: Conversation, last: str, column: str) -> None:
    """Raise RowError unless user and assistant alternate after an optional system message, and nothing is empty."""
    n_system = int(bool(turns) and turns[0].role == "system")
    for number, (role, content) in enumerate(turns, 1 - n_system):
        expected = ("assistant", "user")[number % 2] if number else "system"
        where = f"{column}: message {number + n_system}"
        if not content.strip():
            raise RowError("empty_content", f"{where}: expected text, got nothing")
        if role != expected:
            raise RowError("wrong_order", f"{where}: expected the role {expected}, got {role}")
    if len(turns) == n_system or turns[-1].role != last:
        reason = "no_answer" if last == "assistant" else "no_question"
        found = turns[-1].role if turns else "no message"
        raise RowError(reason, f"{column}: expected a last message of the {last}, got {found}")


def _parse_json(value: Any) -> Any:
    """Return the value of JSON text, None for other text, and anything else as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None
