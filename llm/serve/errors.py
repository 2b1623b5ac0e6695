"""Errors that a client gets, in OpenAI's shape and words.

    ValidationError of pydantic → explain → RequestError(message, param, code, status) → {"error": {…}}

Client libraries and agents distinguish errors by `code`, by `param` and by parts of the message.
"""

from pydantic_core import ErrorDetails

MAX_SHOWN_CHARS = 60  # of a value in a message
# Names of alternatives, which are in pydantic's path to a problem but not in the request.
TEXT, LIST, TOKENS, TOKEN_LISTS = TAGS = ("<text>", "<list>", "<tokens>", "<token lists>")
# OpenAI's fields that are not served: a client gets another error for them than for a misspelled name.
UNSUPPORTED = (
    *("annotations", "audio", "function_call", "functions", "logit_bias", "modalities", "parallel_tool_calls"),
    *("prediction", "reasoning_effort", "refusal", "response_format", "suffix", "tool_calls", "tool_choice", "tools"),
    *("best_of", "web_search_options"),
)
TYPES = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a decimal",
    "bool_type": "a boolean",
    "list_type": "an array",
    "model_type": "an object",
}
JSON_TYPES = {bool: "a boolean", int: "an integer", float: "a decimal", str: "a string", list: "an array"} | {
    type(None): "null"
}
SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}  # by pydantic's name of a bound
BOUNDED = "Expected a value {sign} {bound}, but got {value} instead."
LONG = "Expected an array with maximum length {max_length}, but got an array with length {actual_length} instead."
EMPTY = "empty {name}. Expected {article} {name} with minimum length 1, but got an empty {name} instead."
# pydantic's type of a problem → the message and the code; `explain` fills their fields.
TEMPLATES = {
    "missing": ("Missing required parameter: '{where}'.", "missing_required_parameter"),
    "extra_forbidden": ("Unknown parameter: '{where}'.", "unknown_parameter"),
    "unsupported": ("Unsupported parameter: '{where}' is not supported with this model.", "unsupported_parameter"),
    "type": ("Invalid type for {place}: expected {type}, but got {got} instead.", "invalid_type"),
    "literal_error": ("Invalid value: '{value}'. Supported values are: {expected}.", "invalid_value"),
    "too_long": (f"Invalid '{{where}}': array too long. {LONG}", "array_above_max_length"),
    "too_short": ("Invalid '{where}': " + EMPTY.format(name="array", article="an"), "empty_array"),
    "string_too_short": ("Invalid '{where}': " + EMPTY.format(name="string", article="a"), "empty_string"),
    "greater_than": (f"Invalid '{{where}}': {{number}} below minimum value. {BOUNDED}", "{number}_below_min_value"),
    "less_than": (f"Invalid '{{where}}': {{number}} above maximum value. {BOUNDED}", "{number}_above_max_value"),
    "other": ("Invalid '{where}': {msg}.", "invalid_value"),
}


class RequestError(Exception):
    """A request that cannot be served."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400):
        super().__init__(message)
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.status, self.body = status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def explain(problem: ErrorDetails) -> RequestError:
    """Return what pydantic found in OpenAI's words."""
    kind, value, context = problem["type"].removesuffix("_equal"), problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden" and problem["loc"][-1] in UNSUPPORTED:
        kind = "unsupported"
    expected = problem["msg"] if kind == "wrong_type" else TYPES.get(kind)
    template, code = TEMPLATES.get("type" if expected else kind, TEMPLATES["other"])
    where = _path(problem["loc"])
    fields = {"where": where, "place": f"'{where}'" if where else "the body of the request", "type": expected}
    fields |= {"msg": problem["msg"], "value": shorten(str(value)), "got": JSON_TYPES.get(type(value), "an object")}
    for name in SIGNS.keys() & context.keys():
        bound, is_integer = context[name], isinstance(context[name], int)
        fields |= {"sign": SIGNS[name], "bound": bound if is_integer else f"{bound:g}"}
        fields |= {"number": "integer" if is_integer else "decimal"}
    fields |= context
    return RequestError(template.format(**fields), where or None, code.format(**fields))


def shorten(text: str) -> str:
    """Return a text of at most `MAX_SHOWN_CHARS` characters: a value may be as long as a body."""
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 1]}…"


def _path(place: tuple[int | str, ...]) -> str:
    """Return a place in a request as OpenAI writes it.

    >>> _path(("messages", 0, "content", "<list>", 1, "type"))
    'messages[0].content[1].type'
    """
    parts = (f"[{part}]" if isinstance(part, int) else f".{shorten(part)}" for part in place if part not in TAGS)
    return "".join(parts).removeprefix(".")
