"""What clients may ask: the fields of OpenAI's requests that are served here.

A field that would change the answer and is not served is refused; one that changes nothing is ignored. A field that is
null was not given, at whatever depth: client libraries write out all of an object's fields.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import from_json

from llm.serve.errors import RequestError, explain

MAX_ITEMS = 2048  # prompts, choices, messages or parts of a message
TEXT, LIST, TOKENS, TOKEN_LISTS = TAGS = ("<text>", "<list>", "<tokens>", "<token lists>")


class Strict(BaseModel):
    """An object whose values have exactly the declared types: "1" is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True)
    # Fields that answers do not depend on, and the values that leave an answer as it is in fields that are not served.
    harmless: ClassVar[frozenset[str]] = frozenset()
    defaults: ClassVar[dict[str, list[Any]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, given: Any) -> Any:
        """Leave out what is null, what changes nothing, and of the fields that are not served all but one."""
        if not isinstance(given, dict):
            return given
        known = cls.model_fields
        asked = {
            key: value
            for key, value in given.items()
            if value is not None and key not in cls.harmless and value not in cls.defaults.get(key, ())
        }
        other = next((key for key in asked if key not in known), None)
        return {key: value for key, value in asked.items() if key in known or key == other}


def _kind_of_prompt(value: Any) -> str | None:
    """Return which alternative of `Prompt` a value is, by its first item."""
    match value:
        case str():
            return TEXT
        case [int(), *_]:
            return TOKENS
        case [list(), *_]:
            return TOKEN_LISTS
        case list():
            return LIST
    return None


def _kind(value: Any) -> str | None:
    """Return which alternative of `Stop` or `Content` a value is."""
    return TEXT if isinstance(value, str) else LIST if isinstance(value, list) else None


def _one_of(names: str, choose: Callable[[Any], str | None] = _kind) -> Discriminator:
    """Choose an alternative before it is validated: what is wrong is then told of this one alone."""
    return Discriminator(choose, custom_error_type="wrong_type", custom_error_message=f"one of {names}")


Text = Annotated[str, Tag(TEXT)]
Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True), Tag(LIST)]
TokenLists = Annotated[list[Tokens], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True), Tag(TOKEN_LISTS)]
Prompt = Annotated[
    Text | Texts | Annotated[Tokens, Tag(TOKENS)] | TokenLists,
    _one_of("a string, array of strings, array of integers or array of arrays of integers", _kind_of_prompt),
]

StopText = Annotated[str, Field(min_length=1)]
StopTexts = Annotated[list[StopText], Field(max_length=4, fail_fast=True), Tag(LIST)]
Stop = Annotated[Annotated[StopText, Tag(TEXT)] | StopTexts, _one_of("a string or array of strings")]


class StreamOptions(Strict):
    """What a stream tells beside its text."""

    include_usage: bool = False
    include_obfuscation: bool = False  # fills up chunks to hide their lengths on the way: there is no way here


class Request(Strict):
    """What both routes take. `top_k` and `min_p` are no fields of OpenAI's."""

    harmless = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
    defaults: ClassVar[dict[str, list[Any]]] = {
        "function_call": ["none", "auto"],
        "functions": [[]],
        "logit_bias": [{}],
        "modalities": [["text"]],
        "parallel_tool_calls": [True, False],
        "response_format": [{"type": "text"}],
        "suffix": [""],
        "tool_choice": ["none", "auto"],
        "tools": [[]],
    }

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    stop: Stop = []
    n: Annotated[int, Field(ge=1, le=128)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with how many tokens there were."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(Request):
    """A text to go on with, or several: as text, or as ids that are read as they are."""

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0)] = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False
    best_of: Annotated[int, Field(ge=1)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each text."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    @model_validator(mode="after")
    def _fit(self) -> "CompletionRequest":
        if self.best_of is not None and self.best_of < self.n:
            hint = f"best_of must be greater than or equal to n, but got best_of {self.best_of} and n {self.n}"
            message = f"You requested that the server return more choices than it will generate (HINT: {hint})."
            raise RequestError(message, "best_of", "invalid_value")
        if self.best_of is not None and self.best_of > self.n:
            message = f"'best_of' does not support {self.best_of} with this model. Only n ({self.n}) is supported."
            raise RequestError(f"Unsupported value: {message}", "best_of", "unsupported_value")
        if len(self.prompts) * self.n > MAX_ITEMS:
            message = f"Expected an array with maximum length {MAX_ITEMS // self.n} for n = {self.n}, "
            given = f"but got an array with length {len(self.prompts)} instead."
            raise RequestError(
                f"Invalid 'prompt': array too long. {message}{given}", "prompt", "array_above_max_length"
            )
        return self


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


TextParts = Annotated[list[TextPart], Field(max_length=MAX_ITEMS, fail_fast=True), Tag(LIST)]
Content = Annotated[Text | TextParts, _one_of("a string or array of objects")]


class Message(Strict):
    """One turn. A developer's message is what a system message was called before, and trains as one."""

    defaults: ClassVar[dict[str, list[Any]]] = {"tool_calls": [[]], "annotations": [[]]}

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = None

    @property
    def turn(self) -> tuple[str, str]:
        """The role that the chat template has, and the content as one text."""
        role = "system" if self.role == "developer" else self.role
        return role, self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Request):
    """A conversation to answer. Without a limit an answer may fill the context."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _fit(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            message = "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled."
            raise RequestError(message, "top_logprobs", "invalid_value")
        return self


# Fields that OpenAI has: a client is told apart from a mistake that it asked for something that is not served.
UNSUPPORTED = frozenset(
    {*Request.defaults, *Message.defaults, "audio", "prediction", "reasoning_effort", "refusal", "web_search_options"}
)
Kind = TypeVar("Kind", bound=Request)


def parse_request(kind: type[Kind], body: bytes) -> Kind:
    """Parse and validate a body; RequestError for the first thing that is wrong.

    Half a surrogate pair, which no tokenizer and no answer can hold, is refused wherever it stands, as is nesting
    without end: pydantic's parser does so, and Python's does not.
    """
    try:
        content = from_json(body)
    except ValueError as error:
        hint = " (half of a surrogate pair is not a character)" if "hex escape" in str(error) else ""
        message = f"We could not parse the JSON body of your request: expected valid JSON in UTF-8, got {error}{hint}."
        raise RequestError(message) from None
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise explain(error.errors()[0], frozenset(TAGS), UNSUPPORTED) from None
