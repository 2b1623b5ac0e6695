"""Rows of every kind become the same conversations; an invalid row is named or counted."""

import json

import pandas as pd
import pytest
from pydantic import TypeAdapter

from llm.core.errors import UserError
from llm.finetune.data.labeled import Labeled
from llm.finetune.data.messages import RowError, parse_rows, to_answer, to_conversation, to_prompt
from llm.finetune.params import MessageRows
from llm.finetune.shared.chat import Message

ROWS = {
    "alpaca": {"kind": "alpaca", "instruction": "ask", "input": "given", "output": "said"},
    "prompt_completion": {"kind": "prompt_completion", "prompt": "ask", "completion": "said"},
    "messages": {"kind": "messages", "messages": "list"},
    "sharegpt": {"kind": "sharegpt", "conversations": "list"},
}
QUESTION = "Add.\n\n1 2"
EXPECTED = [Message("user", QUESTION), Message("assistant", "3")]


def columns(kind: str, **changes: object) -> MessageRows:
    return TypeAdapter(MessageRows).validate_python(ROWS[kind] | changes)


def messages(*turns: tuple[str, str], keys: tuple[str, str] = ("role", "content")) -> list[dict[str, str]]:
    return [dict(zip(keys, turn, strict=True)) for turn in turns]


SENDER = {"keys": ("from", "value")}


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("alpaca", {"ask": "Add.", "given": "1 2", "said": " 3\n"}),
        ("alpaca", {"ask": QUESTION, "given": "", "said": "3"}),
        ("prompt_completion", {"ask": QUESTION, "said": " 3"}),
        ("messages", {"list": messages(("user", QUESTION), ("assistant", "3"))}),
        ("messages", {"list": json.dumps(messages(("user", QUESTION), ("Assistant", "3 ")))}),
        ("sharegpt", {"list": messages(("human", QUESTION), ("gpt", "3"), **SENDER)}),
        ("sharegpt", {"list": json.dumps(messages(("user", QUESTION), ("bing", "3"), **SENDER))}),
    ],
)
def test_every_kind_of_row_is_the_same_conversation(kind, row):
    rows, with_system = columns(kind), columns(kind, system="rules")
    assert to_conversation(row, rows) == EXPECTED
    assert to_conversation(row | {"rules": "Be brief."}, with_system) == [Message("system", "Be brief."), *EXPECTED]
    assert to_conversation(row | {"rules": " "}, with_system) == EXPECTED
    assert {*rows.columns} == row.keys()
    assert with_system.optional == {"rules"} | ({"given"} & row.keys())


U, A, S = ("user", "a"), ("assistant", "b"), ("system", "s")
INVALID = [
    ("not_a_list", "hello", "list: expected a list of messages, got text 'hello'"),
    ("not_a_list", "[1", "list: expected a list of messages, got text '[1'"),
    ("not_a_message", ["x"], "list: message 1: expected the texts role and content, got text 'x'"),
    ("not_a_message", [{"role": "user"}], "list: message 1: expected the texts role and content, got a mapping"),
    ("unknown_role", messages(U, ("tool", "x")), "list: message 2: role: expected system, user, assistant, got 'tool'"),
    ("empty_content", messages(U, ("assistant", " \n")), "list: message 2: expected text, got nothing"),
    ("wrong_order", messages(U, U, A), "list: message 2: expected the role assistant, got user"),
    ("wrong_order", messages(A), "list: message 1: expected the role user, got assistant"),
    ("wrong_order", messages(S, S, U, A), "list: message 2: expected the role user, got system"),
    ("no_answer", messages(S, U, A, U), "list: expected a last message of the assistant, got user"),
    ("no_answer", messages(S), "list: expected a last message of the assistant, got system"),
    ("no_answer", [], "list: expected a last message of the assistant, got no message"),
]


@pytest.mark.parametrize(("reason", "value", "line"), INVALID)
def test_an_invalid_row_has_a_reason_and_one_line(reason, value, line):
    with pytest.raises(RowError) as caught:
        to_conversation({"list": value}, columns("messages"))
    assert caught.value.reason == reason
    assert str(caught.value).startswith(line)


def test_invalid_rows_are_named_or_counted(make_task):
    good, splits = messages(U, A), ["train", "val", "test"]
    values = [good, [], "x", good, good, good, []]
    rows = [{"list": value, "split": splits[n % 3], "row": n + 2} for n, value in enumerate(values)]
    labeled = Labeled(pd.DataFrame(rows, dtype=object), {"dropped": {"no_split": 1}})
    fail = make_task("instruct", {"rows": ROWS["messages"]})
    with pytest.raises(
        UserError, match=r"^rows.csv: row 3: list: expected a last message of the assistant, got no mess"
    ):
        parse_rows(labeled, fail, lambda row: to_conversation(row, fail.rows))
    skip = make_task("instruct", {"rows": ROWS["messages"], "on_error": "skip"})
    kept, counts = parse_rows(labeled, skip, lambda row: to_conversation(row, skip.rows))
    assert {split: len(part) for split, part in kept.items()} == {"train": 2, "val": 1, "test": 1}
    assert counts == {"dropped": {"no_split": 1, "no_answer": 2, "not_a_list": 1}}


def test_a_prompt_is_text_or_messages_up_to_a_question():
    assert to_prompt({"p": "[1, 2]"}, "p") == [Message("user", "[1, 2]")]
    assert to_prompt({"p": "Add.", "q": "1"}, "p", "q") == [Message("user", "Add.\n\n1")]
    asked = messages(S, U, A, U)
    assert to_prompt({"p": asked}, "p") == to_prompt({"p": json.dumps(asked)}, "p") == [S, U, A, U]
    with pytest.raises(RowError, match="p: expected a last message of the user, got assistant"):
        to_prompt({"p": messages(U, A)}, "p")

    assert to_answer({"c": " yes\n"}, "c") == "yes"
    for value, problem in (("\n", "c: expected text, got nothing"), (3, "c: expected text, got 3")):
        with pytest.raises(RowError, match=problem):
            to_answer({"c": value}, "c")
