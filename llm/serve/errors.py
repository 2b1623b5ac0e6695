"""Errors that a client gets, in OpenAI's shape and words.

    ValidationError of pydantic → explain → RequestError(message, param, code, status) → {"error": {…}}

Client libraries and agents distinguish errors by `code`, by `param` and by parts of the message.
"""

from typing import Any

from pydantic_core import ErrorDetails

MAX_SHOWN_CHARS = 60  # of a value in a message
TYPES = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a decimal",
    "bool_type": "a boolean",
    "list_type": "an array",
    "model_type": "an object",
}
JSON_TYPES = {bool: "a boolean", int: "an integer", float: "a decimal", str: "a string", list: "an array"}
BOUNDS = {
    "greater_than_equal": ("below minimum value", ">=", "below_min_value"),
    "greater_than": ("below minimum value", ">", "below_min_value"),
    "less_than_equal": ("above maximum value", "<=", "above_max_value"),
    "less_than": ("above maximum value", "<", "above_max_value"),
}
EMPTY = {"too_short": ("an", "array"), "string_too_short": ("a", "string")}


class RequestError(Exception):
    """A request that cannot be served."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400):
        super().__init__(message)
        self.status, self.body = status, error_body(message, status, param, code)


def error_body(message: str, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Return an error in OpenAI's shape.

    >>> error_body("expected a number", 400, "seed")
    {'error': {'message': 'expected a number', 'type': 'invalid_request_error', 'param': 'seed', 'code': None}}
    """
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def explain(problem: ErrorDetails, tags: frozenset[str], unsupported: frozenset[str]) -> RequestError:
    """Return what pydantic found in OpenAI's words.

    `tags` are names of alternatives, which are in pydantic's path but not in the request; `unsupported` are fields
    that OpenAI has and this server has not.
    """
    where, kind, value = _path(problem["loc"], tags), problem["type"], problem["input"]
    context = problem.get("ctx", {})
    if kind == "missing":
        message, code = f"Missing required parameter: '{where}'.", "missing_required_parameter"
    elif kind == "extra_forbidden":
        message, code = f"Unknown parameter: '{where}'.", "unknown_parameter"
        if problem["loc"][-1] in unsupported:
            message = f"Unsupported parameter: '{where}' is not supported with this model."
            code = "unsupported_parameter"
    elif kind in BOUNDS:
        message, code = _out_of_bounds(where, value, *BOUNDS[kind], bound=next(iter(context.values())))
    elif expected := problem["msg"] if kind == "wrong_type" else TYPES.get(kind):
        message, code = _invalid_type(where, expected, value), "invalid_type"
    else:
        message, code = _invalid_value(where, problem)
    return RequestError(message, where or None, code)


def _invalid_type(where: str, expected: str, value: Any) -> str:
    got = "null" if value is None else JSON_TYPES.get(type(value), "an object")
    place = f"'{where}'" if where else "the body of the request"
    return f"Invalid type for {place}: expected {expected}, but got {got} instead."


def _invalid_value(where: str, problem: ErrorDetails) -> tuple[str, str]:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "literal_error":
        value = shorten(str(problem["input"]))
        return f"Invalid value: '{value}'. Supported values are: {context['expected']}.", "invalid_value"
    if kind == "too_long":
        most, got = context["max_length"], context["actual_length"]
        message = f"Expected an array with maximum length {most}, but got an array with length {got} instead."
        return f"Invalid '{where}': array too long. {message}", "array_above_max_length"
    if kind in EMPTY:
        article, name = EMPTY[kind]
        message = f"Expected {article} {name} with minimum length 1, but got an empty {name} instead."
        return f"Invalid '{where}': empty {name}. {message}", f"empty_{name}"
    return f"Invalid '{where}': {problem['msg']}.", "invalid_value"


def _out_of_bounds(where: str, value: Any, problem: str, sign: str, code: str, bound: Any) -> tuple[str, str]:
    name = "integer" if isinstance(bound, int) else "decimal"
    limit = bound if isinstance(bound, int) else f"{bound:g}"
    message = f"Expected a value {sign} {limit}, but got {shorten(str(value))} instead."
    return f"Invalid '{where}': {name} {problem}. {message}", f"{name}_{code}"


def shorten(text: str) -> str:
    """Return a text of at most `MAX_SHOWN_CHARS` characters: a value may be as long as a body."""
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 1]}…"


def _path(place: tuple[int | str, ...], tags: frozenset[str]) -> str:
    """Return a place in a request as OpenAI writes it.

    >>> _path(("messages", 0, "content", "parts", 1, "type"), frozenset({"parts"}))
    'messages[0].content[1].type'
    """
    parts = (f"[{part}]" if isinstance(part, int) else f".{shorten(part)}" for part in place if part not in tags)
    return "".join(parts).removeprefix(".")
