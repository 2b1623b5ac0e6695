"""Rows of every kind become the same conversations, and what is wrong with one is named or counted."""

import json

import pandas as pd
import pytest
from pydantic import TypeAdapter

from llm.core.errors import UserError
from llm.finetune.data.labeled import Labeled
from llm.finetune.data.messages import (
    RowError,
    columns_of,
    read_rows,
    to_answer,
    to_conversation,
    to_prompt,
    user_message,
)
from llm.finetune.params import MessageRows
from llm.finetune.shared.chat import Message

ROWS = {
    "alpaca": {"kind": "alpaca", "instruction": "ask", "input": "given", "output": "said"},
    "prompt_completion": {"kind": "prompt_completion", "prompt": "ask", "completion": "said"},
    "messages": {"kind": "messages", "messages": "list"},
    "sharegpt": {"kind": "sharegpt", "conversations": "list"},
}
ASKED, ANSWERED = Message("user", "Add.\n\n1 2"), Message("assistant", "3")


def _rows(kind: str, **changes: object) -> MessageRows:
    return TypeAdapter(MessageRows).validate_python(ROWS[kind] | changes)


def _list(*said: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in said]


def _sharegpt(*said: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": sender, "value": value} for sender, value in said]


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("alpaca", {"ask": "Add.", "given": "1 2", "said": " 3\n"}),
        ("prompt_completion", {"ask": "Add.\n\n1 2", "said": " 3"}),
        ("messages", {"list": _list(("user", "Add.\n\n1 2"), ("assistant", "3"))}),
        ("messages", {"list": json.dumps(_list(("user", "Add.\n\n1 2"), ("Assistant", "3 ")))}),
        ("sharegpt", {"list": _sharegpt(("human", "Add.\n\n1 2"), ("gpt", "3"))}),
        ("sharegpt", {"list": json.dumps(_sharegpt(("user", "Add.\n\n1 2"), ("bing", "3")))}),
        ("sharegpt", {"list": _sharegpt(("human", "Add.\n\n1 2"), ("chatgpt", "3"))}),
    ],
)
def test_every_kind_of_row_is_the_same_conversation(kind, row):
    assert to_conversation(row, _rows(kind)) == [ASKED, ANSWERED]


def test_an_alpaca_row_without_an_input_is_the_instruction_alone():
    row = {"ask": "Add.", "given": "", "said": "3"}
    assert to_conversation(row, _rows("alpaca")) == [Message("user", "Add."), ANSWERED]
    assert to_conversation(row, _rows("alpaca", input=None)) == [Message("user", "Add."), ANSWERED]
    assert user_message("Sum up.", None) == user_message("Sum up.", "") == "Sum up."


@pytest.mark.parametrize("kind", ["prompt_completion", "sharegpt"])
def test_a_column_may_hold_the_system_message(kind):
    row = {"ask": "Add.\n\n1 2", "said": "3", "list": _sharegpt(("human", "Add.\n\n1 2"), ("gpt", "3"))}
    rows = _rows(kind, system="rules")
    assert to_conversation(row | {"rules": "Be brief."}, rows) == [Message("system", "Be brief."), ASKED, ANSWERED]
    assert to_conversation(row | {"rules": " "}, rows) == [ASKED, ANSWERED]
    assert columns_of(rows)[1] == frozenset({"rules"})


def test_a_system_message_and_many_turns_stay_in_order():
    said = [("system", "Be brief."), ("user", " a "), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    assert to_conversation({"list": _list(*said)}, _rows("messages")) == said
    senders = {"user": "human", "assistant": "gpt", "system": "system"}
    given = _sharegpt(*((senders[role], content) for role, content in said))
    assert to_conversation({"list": given}, _rows("sharegpt")) == said


def test_the_columns_are_those_of_the_kind():
    assert columns_of(_rows("alpaca")) == (["ask", "given", "said"], frozenset({"given"}))
    assert columns_of(_rows("alpaca", input=None)) == (["ask", "said"], frozenset())
    assert columns_of(_rows("prompt_completion")) == (["ask", "said"], frozenset())
    assert columns_of(_rows("messages")) == columns_of(_rows("sharegpt")) == (["list"], frozenset())


U, A, S = ("user", "a"), ("assistant", "b"), ("system", "s")
WRONG = {
    "list: wanted a list of messages, given text 'hello'": ("not_a_list", "hello"),
    "list: wanted a list of messages, given 3": ("not_a_list", 3),
    "list: wanted a list of messages, given text '[1'": ("not_a_list", "[1"),
    "list: message 1: wanted texts called role and content, given text 'x'": ("not_a_message", ["x"]),
    "list: message 1: wanted texts called role and content, given a mapping with the keys role": (
        "not_a_message",
        [{"role": "user"}],
    ),
    "list: message 2: wanted texts called role and content, given a mapping with the keys role, content": (
        "not_a_message",
        [*_list(U), {"role": "assistant", "content": None}],
    ),
    "list: message 2: role: wanted system, user, assistant, given 'tool'": ("unknown_role", _list(U, ("tool", "x"))),
    "list: message 2: wanted text, given none": ("empty_content", _list(U, ("assistant", " \n"))),
    "list: message 2: wanted one of the assistant's, given one of the user's": ("wrong_order", _list(U, U, A)),
    "list: message 3: wanted one of the user's, given one of the assistant's": ("wrong_order", _list(U, A, A)),
    "list: message 1: wanted one of the user's, given one of the assistant's": ("wrong_order", _list(A)),
    "list: message 2: wanted one of the user's, given one of the system's": ("wrong_order", _list(S, S, U, A)),
    "list: message 3: wanted one of the user's, given one of the system's": ("wrong_order", _list(U, A, S)),
    "list: wanted a last message of the assistant's, given one of the user's": ("no_answer", _list(S, U, A, U)),
    "list: wanted a last message of the assistant's, given one of the system's": ("no_answer", _list(S)),
    "list: wanted a last message of the assistant's, given none": ("no_answer", []),
}


@pytest.mark.parametrize(("message", "case"), WRONG.items(), ids=list(WRONG))
def test_what_is_wrong_is_one_line_and_has_a_reason_to_be_counted_under(message, case):
    reason, value = case
    with pytest.raises(RowError) as caught:
        to_conversation({"list": value}, _rows("messages"))
    assert (caught.value.reason, str(caught.value)) == (reason, message)


def test_a_list_where_a_text_is_wanted_is_no_text():
    with pytest.raises(RowError, match=r"^ask: wanted text, given \['a'\]$"):
        to_conversation({"ask": ["a"], "said": "b"}, _rows("prompt_completion"))


def _labeled(values: list) -> Labeled:
    splits = ["train", "val", "test"]
    rows = [{"list": value, "split": splits[number % 3], "row": number + 2} for number, value in enumerate(values)]
    return Labeled(pd.DataFrame(rows, dtype=object), {"skipped": {"no_split": 1}})


GOOD = _list(U, A)


def test_the_first_wrong_row_is_named_by_its_number(make_task):
    task = make_task("instruct", {"rows": ROWS["messages"]})
    with pytest.raises(
        UserError, match=r"^rows.csv: row 3: list: wanted a last message of the assistant's, given none$"
    ):
        read_rows(_labeled([GOOD, [], "x"]), task, lambda row: to_conversation(row, task.rows))


def test_wrong_rows_are_left_out_and_counted_where_the_task_says_so(make_task):
    task = make_task("instruct", {"rows": ROWS["messages"], "on_error": "skip"})
    labeled = _labeled([GOOD, [], "x", GOOD, GOOD, GOOD, []])
    kept, counts = read_rows(labeled, task, lambda row: to_conversation(row, task.rows))
    assert {split: len(part) for split, part in kept.items()} == {"train": 2, "val": 1, "test": 1}
    assert kept["val"] == [[Message(*U), Message(*A)]]
    assert counts == {"skipped": {"no_split": 1, "no_answer": 2, "not_a_list": 1}}
    assert labeled.counts == {"skipped": {"no_split": 1}}


def test_a_prompt_is_a_text_or_messages_up_to_a_question():
    assert to_prompt({"p": "[1, 2]"}, "p") == [Message("user", "[1, 2]")]
    assert to_prompt({"p": "["}, "p") == [Message("user", "[")]
    asked = _list(S, U, A, U)
    expected = [Message(**message) for message in asked]
    assert to_prompt({"p": asked}, "p") == to_prompt({"p": json.dumps(asked)}, "p") == expected
    with pytest.raises(RowError, match="p: wanted a last message of the user's, given one of the assistant's"):
        to_prompt({"p": _list(U, A)}, "p")
    with pytest.raises(RowError, match="p: message 1: wanted text, given none"):
        to_prompt({"p": " "}, "p")


def test_an_answer_is_a_text_that_says_something():
    assert to_answer({"c": " yes\n"}, "c") == "yes"
    with pytest.raises(RowError, match="c: wanted text, given none"):
        to_answer({"c": "\n"}, "c")
    with pytest.raises(RowError, match="c: wanted text, given 3"):
        to_answer({"c": 3}, "c")
