"""What is wrong with a request is told in OpenAI's words, and what a client library adds is as good as absent."""

import json

import pytest
from pydantic import ValidationError

from llm.serve.errors import RequestError
from llm.serve.schema import MAX_ITEMS, ChatRequest, CompletionRequest, parse_request

USER = {"role": "user", "content": "a"}
OWN_ANSWER = {  # as OpenAI's client writes it out: every field of its class
    "role": "assistant",
    "content": "b",
    "refusal": None,
    "annotations": [],
    "audio": None,
    "function_call": None,
    "tool_calls": None,
}


def _parse(kind, **asked):
    return parse_request(kind, json.dumps({"model": "talker"} | asked).encode())


def _refused(kind, **asked):
    with pytest.raises(RequestError) as caught:
        _parse(kind, **asked)
    error = caught.value.body["error"]
    assert (caught.value.status, error["type"]) == (400, "invalid_request_error")
    return error["param"], error["code"], error["message"]


@pytest.mark.parametrize(
    ("asked", "param", "code", "message"),
    [
        ({}, "prompt", "missing_required_parameter", "Missing required parameter: 'prompt'."),
        ({"prompt": None}, "prompt", "missing_required_parameter", "Missing required parameter: 'prompt'."),
        (
            {"prompt": 5},
            "prompt",
            "invalid_type",
            "Invalid type for 'prompt': expected one of a string, array of strings, array of integers or array of "
            "arrays of integers, but got an integer instead.",
        ),
        (
            {"prompt": [1, "a"]},
            "prompt[1]",
            "invalid_type",
            "Invalid type for 'prompt[1]': expected an integer, but got a string instead.",
        ),
        (
            {"prompt": ["a", [1]]},
            "prompt[1]",
            "invalid_type",
            "Invalid type for 'prompt[1]': expected a string, but got an array instead.",
        ),
        (
            {"prompt": [[1], [True]]},
            "prompt[1][0]",
            "invalid_type",
            "Invalid type for 'prompt[1][0]': expected an integer, but got a boolean instead.",
        ),
        (
            {"prompt": []},
            "prompt",
            "empty_array",
            "Invalid 'prompt': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        ),
        (
            {"prompt": ["a"] * 9, "n": 128 * 2},
            "n",
            "integer_above_max_value",
            "Invalid 'n': integer above maximum value. Expected a value <= 128, but got 256 instead.",
        ),
        (
            {"prompt": ["a"] * 17, "n": 128},
            "prompt",
            "array_above_max_length",
            "Invalid 'prompt': array too long. Expected an array with maximum length 16 for n = 128, but got an array "
            "with length 17 instead.",
        ),
        (
            {"prompt": "a", "stop": ["a"] * 5},
            "stop",
            "array_above_max_length",
            "Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length 5 "
            "instead.",
        ),
        (
            {"prompt": "a", "stop": ["a", ""]},
            "stop[1]",
            "empty_string",
            "Invalid 'stop[1]': empty string. Expected a string with minimum length 1, but got an empty string "
            "instead.",
        ),
        (
            {"prompt": "a", "stop": 5},
            "stop",
            "invalid_type",
            "Invalid type for 'stop': expected one of a string or array of strings, but got an integer instead.",
        ),
        (
            {"prompt": "a", "stop": [None]},
            "stop[0]",
            "invalid_type",
            "Invalid type for 'stop[0]': expected a string, but got null instead.",
        ),
        (
            {"prompt": "a", "temperature": "1"},
            "temperature",
            "invalid_type",
            "Invalid type for 'temperature': expected a decimal, but got a string instead.",
        ),
        (
            {"prompt": "a", "temperature": 3},
            "temperature",
            "decimal_above_max_value",
            "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.",
        ),
        (
            {"prompt": "a", "top_p": 0},
            "top_p",
            "decimal_below_min_value",
            "Invalid 'top_p': decimal below minimum value. Expected a value > 0, but got 0 instead.",
        ),
        (
            {"prompt": "a", "seed": 2**63},
            "seed",
            "integer_above_max_value",
            f"Invalid 'seed': integer above maximum value. Expected a value < {2**63}, but got {2**63} instead.",
        ),
        (
            {"prompt": "a", "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            "invalid_type",
            "Invalid type for 'stream_options.include_usage': expected a boolean, but got an integer instead.",
        ),
        (
            {"prompt": "a", "best_of": 5},
            "best_of",
            "unsupported_value",
            "Unsupported value: 'best_of' does not support 5 with this model. Only n (1) is supported.",
        ),
        (
            {"prompt": "a", "best_of": 1, "n": 2},
            "best_of",
            "invalid_value",
            "You requested that the server return more choices than it will generate (HINT: best_of must be greater "
            "than or equal to n, but got best_of 1 and n 2).",
        ),
        (
            {"prompt": "a", "suffix": "b"},
            "suffix",
            "unsupported_parameter",
            "Unsupported parameter: 'suffix' is not supported with this model.",
        ),
        ({"prompt": "a", "promt": "b"}, "promt", "unknown_parameter", "Unknown parameter: 'promt'."),
    ],
)
def test_what_is_wrong_with_a_completion(asked, param, code, message):
    assert _refused(CompletionRequest, **asked) == (param, code, message)


@pytest.mark.parametrize(
    ("message", "param", "code", "words"),
    [
        (
            {"content": 5},
            "content",
            "invalid_type",
            "Invalid type for 'messages[1].content': expected one of a string or array of objects, but got an integer "
            "instead.",
        ),
        (
            {"content": ["a"]},
            "content[0]",
            "invalid_type",
            "Invalid type for 'messages[1].content[0]': expected an object, but got a string instead.",
        ),
        (
            {"content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "a"}}]},
            "content[1].type",
            "invalid_value",
            "Invalid value: 'image_url'. Supported values are: 'text'.",
        ),
        (
            {"content": [{"type": "text"}]},
            "content[0].text",
            "missing_required_parameter",
            "Missing required parameter: 'messages[1].content[0].text'.",
        ),
        (
            {"content": None},
            "content",
            "missing_required_parameter",
            "Missing required parameter: 'messages[1].content'.",
        ),
        (
            {"role": "tool"},
            "role",
            "invalid_value",
            "Invalid value: 'tool'. Supported values are: 'system', 'developer', 'user' or 'assistant'.",
        ),
        (
            {"tool_calls": [{"id": "a"}]},
            "tool_calls",
            "unsupported_parameter",
            "Unsupported parameter: 'messages[1].tool_calls' is not supported with this model.",
        ),
    ],
)
def test_what_is_wrong_with_a_message(message, param, code, words):
    asked = {"messages": [USER, USER | message]}
    assert _refused(ChatRequest, **asked) == (f"messages[1].{param}", code, words)


@pytest.mark.parametrize(
    ("messages", "code", "words"),
    [
        (
            [],
            "empty_array",
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        ),
        (USER, "invalid_type", "Invalid type for 'messages': expected an array, but got an object instead."),
        (
            [USER] * (MAX_ITEMS + 1),
            "array_above_max_length",
            "Invalid 'messages': array too long. Expected an array with maximum length 2048, but got an array with "
            "length 2049 instead.",
        ),
    ],
)
def test_what_is_wrong_with_messages(messages, code, words):
    assert _refused(ChatRequest, messages=messages) == ("messages", code, words)


@pytest.mark.parametrize("nothing", [{}, {"refusal": None, "tool_calls": None}, {"tool_calls": []}, OWN_ANSWER])
def test_an_answer_passed_back_with_its_empty_fields_is_the_answer(nothing):
    asked = _parse(ChatRequest, messages=[USER, {**nothing, "role": "assistant", "content": "b"}, USER])
    assert [message.turn for message in asked.messages] == [("user", "a"), ("assistant", "b"), ("user", "a")]


def test_null_is_as_good_as_absent_at_every_depth():
    asked = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": None}], "name": None}],
        "stream_options": {"include_usage": None, "later": None},
        "stop": None,
        "n": None,
        "temperature": None,
        "never_heard_of": None,
    }
    parts = [{"type": "text", "text": "a"}]
    assert _parse(ChatRequest, **asked) == _parse(
        ChatRequest, messages=[{"role": "user", "content": parts}], stream_options={}
    )


def test_a_developer_is_who_system_was():
    assert _parse(ChatRequest, messages=[{"role": "developer", "content": "a"}]).messages[0].turn == ("system", "a")


def test_best_of_as_many_as_are_wanted_changes_nothing():
    assert _parse(CompletionRequest, prompt="a", n=3, best_of=3).n == 3


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"model": "talker", "prompt": "a\\ud83d"}', "half of a surrogate pair is not a character"),
        (b'{"model": "\\ude00", "prompt": "a"}', "half of a surrogate pair is not a character"),
        (b'{"model": "talker", "prompt": "a", "\\ud83d": 1}', "half of a surrogate pair is not a character"),
        (b'{"model": "talker", "prompt": "a", "stop": ["\\ud83d"]}', "half of a surrogate pair is not a character"),
        (b'{"model": "talker", "prompt": "\xed\xa0\xbd"}', "invalid unicode code point"),
        (b'{"model": "talker", "prompt": "\xff"}', "invalid unicode code point"),
        (b'{"model": ' + b"[" * 100_000, "recursion limit exceeded"),
        (b"", "EOF"),
        (b"{", "EOF"),
        (b"model=talker", "expected value"),
    ],
)
def test_a_body_that_cannot_be_parsed(body, problem):
    with pytest.raises(
        RequestError, match="We could not parse the JSON body of your request: expected valid"
    ) as caught:
        parse_request(CompletionRequest, body)
    assert problem in str(caught.value)
    json.dumps(caught.value.body, ensure_ascii=False).encode()


def test_a_whole_surrogate_pair_is_a_character():
    assert parse_request(CompletionRequest, b'{"model": "talker", "prompt": "\\ud83d\\ude00"}').prompt == "😀"


@pytest.mark.parametrize("body", [b"[]", b'"a"', b"null", b"1"])
def test_a_body_that_is_not_an_object(body):
    with pytest.raises(RequestError, match="Invalid type for the body of the request: expected an object, but got"):
        parse_request(CompletionRequest, body)


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        (CompletionRequest, {"prompt": [1, {}, {}, {}]}),
        (CompletionRequest, {"prompt": ["a", 1, 1]}),
        (CompletionRequest, {"prompt": "a", "stop": [1, 1]}),
        (CompletionRequest, {"prompt": "a", "never": 1, "heard": 1, "of": 1}),
        (ChatRequest, {"messages": [{}, {}, {}]}),
        (ChatRequest, {"messages": [USER | {"content": [1, 1]}]}),
    ],
)
def test_a_body_full_of_mistakes_is_not_searched_for_the_second(kind, asked):
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({"model": "talker"} | asked)
    assert len({problem["loc"][:-1] for problem in caught.value.errors()}) == 1
