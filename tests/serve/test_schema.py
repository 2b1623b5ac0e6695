"""Invalid requests get errors in OpenAI's words; what a client library adds counts as absent."""

import json

import pytest
from pydantic import ValidationError

from llm.serve.errors import RequestError
from llm.serve.schema import MAX_ITEMS, ChatRequest, CompletionRequest, parse_request

USER = {"role": "user", "content": "a"}
TYPE = "invalid_type"
OWN_FIELDS = ("refusal", "audio", "function_call", "tool_calls")  # that OpenAI's client writes out as null


def _parse(kind, **fields):
    return parse_request(kind, json.dumps({"model": "talker"} | fields).encode())


def _check(kind, fields, param, code, words):
    with pytest.raises(RequestError) as caught:
        _parse(kind, **fields)
    error = caught.value.body["error"]
    assert (caught.value.status, error["type"]) == (400, "invalid_request_error")
    assert (error["param"], error["code"]) == (param, code)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("fields", "param", "code", "words"),
    [
        ({"prompt": None}, "prompt", "missing_required_parameter", "Missing required parameter: 'prompt'."),
        ({"prompt": 5}, "prompt", TYPE, "expected one of a string, array of strings, array of integers or array of"),
        ({"prompt": [1, "a"]}, "prompt[1]", TYPE, "for 'prompt[1]': expected an integer, but got a string instead."),
        ({"prompt": [[1], [True]]}, "prompt[1][0]", TYPE, "expected an integer, but got a boolean instead."),
        ({"prompt": []}, "prompt", "empty_array", "empty array. Expected an array with minimum length 1, but got an"),
        ({"prompt": ["a"] * 17, "n": 128}, "prompt", "array_above_max_length", "16 for n = 128, but got an array with"),
        ({"prompt": "a", "stop": ["a"] * 5}, "stop", "array_above_max_length", "maximum length 4, but got an array"),
        ({"prompt": "a", "stop": ["a", ""]}, "stop[1]", "empty_string", "Expected a string with minimum length 1"),
        ({"prompt": "a", "stop": 5}, "stop", TYPE, "one of a string or array of strings, but got an integer instead."),
        ({"prompt": "a", "top_p": 0}, "top_p", "decimal_below_min_value", "Expected a value > 0, but got 0 instead."),
        ({"prompt": "a", "seed": 2**63}, "seed", "integer_above_max_value", f"Expected a value < {2**63}, but got"),
        ({"prompt": "a", "best_of": 5}, "best_of", "unsupported_parameter", "'best_of' is not supported with this"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "unsupported_parameter", "'suffix' is not supported with this"),
        ({"prompt": "a", "promt": "b"}, "promt", "unknown_parameter", "Unknown parameter: 'promt'."),
    ],
)
def test_an_invalid_completion_request(fields, param, code, words):
    _check(CompletionRequest, fields, param, code, words)


@pytest.mark.parametrize(
    ("message", "param", "code", "words"),
    [
        ({"content": 5}, "content", TYPE, "one of a string or array of objects, but got an integer instead."),
        ({"content": [{"type": "image_url"}]}, "content[0].type", "invalid_value", "Supported values are: 'text'."),
        ({"content": [{"type": "text"}]}, "content[0].text", "missing_required_parameter", "[1].content[0].text'."),
        ({"role": "tool"}, "role", "invalid_value", "Invalid value: 'tool'. Supported values are: 'system', 'dev"),
        ({"tool_calls": [{"id": "a"}]}, "tool_calls", "unsupported_parameter", "is not supported with this model."),
    ],
)
def test_an_invalid_message(message, param, code, words):
    _check(ChatRequest, {"messages": [USER, USER | message]}, f"messages[1].{param}", code, words)


@pytest.mark.parametrize(
    ("messages", "code", "words"),
    [
        (USER, TYPE, "Invalid type for 'messages': expected an array, but got an object instead."),
        ([USER] * (MAX_ITEMS + 1), "array_above_max_length", "maximum length 2048, but got an array with length 2049"),
    ],
)
def test_invalid_lists_of_messages(messages, code, words):
    _check(ChatRequest, {"messages": messages}, "messages", code, words)


def test_null_counts_as_absent_at_every_depth():
    """A client passes its own answer back with all of its fields."""
    parts = [{"type": "text", "text": "a"}]
    answer = {"role": "assistant", "content": "b", "tool_calls": [], "annotations": []}
    nulls = {"stop": None, "n": None, "temperature": None, "unknown": None, "stream_options": {"include_usage": None}}
    message = {"role": "user", "content": [parts[0] | {"cache_control": None}], "name": None}
    plain = _parse(ChatRequest, messages=[{"role": "user", "content": parts}, answer], stream_options={})
    assert _parse(ChatRequest, messages=[message, answer | dict.fromkeys(OWN_FIELDS)], **nulls) == plain
    assert [message.turn for message in plain.messages] == [("user", "a"), ("assistant", "b")]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"model": "talker", "prompt": "a\\ud83d"}', "half of a surrogate pair is not a character"),
        (b'{"model": "talker", "prompt": "\xed\xa0\xbd"}', "invalid unicode code point"),
        (b'{"model": ' + b"[" * 100_000, "recursion limit exceeded"),
        (b"{", "EOF"),
    ],
)
def test_a_body_that_cannot_be_parsed(body, problem):
    with pytest.raises(RequestError, match="We could not parse the JSON body of your request: expected") as caught:
        parse_request(CompletionRequest, body)
    assert problem in str(caught.value)
    json.dumps(caught.value.body, ensure_ascii=False).encode()


@pytest.mark.parametrize("body", [b"[]", b"null", b"1"])
def test_a_body_that_is_not_an_object(body):
    with pytest.raises(RequestError, match="Invalid type for the body of the request: expected an object, but got"):
        parse_request(CompletionRequest, body)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (CompletionRequest, {"prompt": [1, {}, {}, {}]}),
        (CompletionRequest, {"prompt": "a", "stop": [1, 1]}),
        (CompletionRequest, {"prompt": "a", "never": 1, "heard": 1, "of": 1}),
        (ChatRequest, {"messages": [{}, {}, {}]}),
    ],
)
def test_validation_stops_at_the_first_error(kind, fields):
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({"model": "talker"} | fields)
    assert len({problem["loc"][:-1] for problem in caught.value.errors()}) == 1
