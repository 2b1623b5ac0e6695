"""What a client is told when its request cannot be served: OpenAI's shape, and OpenAI's words.

    ValidationError of pydantic ──explain──► RequestError(message, param, code, status) ──► {"error": {…}}

Client libraries and agents tell the errors apart by `code`, by `param` and by parts of the message.
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
BOUNDS = {
    "greater_than_equal": ("below minimum value", ">=", "below_min_value"),
    "greater_than": ("below minimum value", ">", "below_min_value"),
    "less_than_equal": ("above maximum value", "<=", "above_max_value"),
    "less_than": ("above maximum value", "<", "above_max_value"),
}


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

    `tags` are names of alternatives, which stand in the place of a problem but not in the request; `unsupported` are
    names of fields that OpenAI has and this server has not.
    """
    where, kind, given, context = _path(problem["loc"], tags), problem["type"], problem["input"], problem.get("ctx", {})
    message, code = f"Invalid '{where}': {problem['msg']}.", "invalid_value"
    if kind == "missing":
        message, code = f"Missing required parameter: '{where}'.", "missing_required_parameter"
    elif kind == "extra_forbidden" and problem["loc"][-1] in unsupported:
        message, code = f"Unsupported parameter: '{where}' is not supported with this model.", "unsupported_parameter"
    elif kind == "extra_forbidden":
        message, code = f"Unknown parameter: '{where}'.", "unknown_parameter"
    elif kind == "literal_error":
        message = f"Invalid value: '{shorten(str(given))}'. Supported values are: {context['expected']}."
    elif kind in ("too_long", "too_short", "string_too_short"):
        message, code = _of_another_length(where, kind, context)
    elif kind in BOUNDS:
        message, code = _out_of_bounds(where, given, *BOUNDS[kind], bound=next(iter(context.values())))
    elif expected := problem["msg"] if kind == "wrong_type" else TYPES.get(kind):
        place = f"'{where}'" if where else "the body of the request"
        message = f"Invalid type for {place}: expected {expected}, but got {_type_of(given)} instead."
        code = "invalid_type"
    return RequestError(message, where or None, code)


def shorten(text: str) -> str:
    """Return a text of at most `MAX_SHOWN_CHARS` characters: a value may be as long as a body."""
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 1]}…"


def _of_another_length(where: str, kind: str, context: dict[str, Any]) -> tuple[str, str]:
    if kind == "too_long":
        most, given = context["max_length"], context["actual_length"]
        message = f"Expected an array with maximum length {most}, but got an array with length {given} instead."
        return f"Invalid '{where}': array too long. {message}", "array_above_max_length"
    name = "array" if kind == "too_short" else "string"
    message = f"Expected {'an' if name == 'array' else 'a'} {name} with minimum length 1"
    return f"Invalid '{where}': empty {name}. {message}, but got an empty {name} instead.", f"empty_{name}"


def _out_of_bounds(where: str, given: Any, problem: str, sign: str, code: str, bound: Any) -> tuple[str, str]:
    name = "integer" if isinstance(bound, int) else "decimal"
    limit = bound if isinstance(bound, int) else f"{bound:g}"
    message = f"Expected a value {sign} {limit}, but got {shorten(str(given))} instead."
    return f"Invalid '{where}': {name} {problem}. {message}", f"{name}_{code}"


def _path(place: tuple[int | str, ...], tags: frozenset[str]) -> str:
    """Return a place in a request as OpenAI writes it.

    >>> _path(("messages", 0, "content", "parts", 1, "type"), frozenset({"parts"}))
    'messages[0].content[1].type'
    """
    parts = (f"[{part}]" if isinstance(part, int) else f".{shorten(part)}" for part in place if part not in tags)
    return "".join(parts).removeprefix(".")


def _type_of(value: Any) -> str:
    """Return the type of a JSON value in words."""
    names = {bool: "a boolean", int: "an integer", float: "a decimal", str: "a string", list: "an array"}
    return "null" if value is None else names.get(type(value), "an object")
