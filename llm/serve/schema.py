"""The schema of requests: the fields of OpenAI's API that are served here.

A field that would change the response and is not served is refused; one that changes nothing is ignored. A null field
counts as absent, at any depth: client libraries write out all of an object's fields.
"""

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import from_json

from llm.serve.errors import LIST, TEXT, TOKEN_LISTS, TOKENS, RequestError, explain

MAX_ITEMS = 2048  # prompts, choices, messages or parts of a message


class Strict(BaseModel):
    """An object whose values have exactly the declared types: "1" is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True)
    # Fields that responses do not depend on, and for unserved fields the values that leave a response as it is.
    harmless: ClassVar[frozenset[str]] = frozenset()
    defaults: ClassVar[dict[str, list[Any]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _drop_ignored(cls, content: Any) -> Any:
        """Drop null fields, those that change nothing, and all but one of the unknown: one error is enough."""
        if not isinstance(content, dict):
            return content
        relevant = {key: value for key, value in content.items() if not cls._is_ignored(key, value)}
        unknown = [key for key in relevant if key not in cls.model_fields]
        return {key: value for key, value in relevant.items() if key not in unknown[1:]}

    @classmethod
    def _is_ignored(cls, key: str, value: Any) -> bool:
        return value is None or key in cls.harmless or value in cls.defaults.get(key, ())


def _kind(value: Any) -> str | None:
    match value:
        case str():
            return TEXT
        case [int(), *_]:
            return TOKENS
        case [list(), *_]:
            return TOKEN_LISTS
    return LIST if isinstance(value, list) else None


def _one_of(names: str) -> Discriminator:
    """Choose an alternative before validation, so that errors are those of this one alone."""
    return Discriminator(_kind, custom_error_type="wrong_type", custom_error_message=f"one of {names}")


Text = Annotated[str, Tag(TEXT)]
Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True), Tag(LIST)]
TokenLists = Annotated[list[Tokens], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True), Tag(TOKEN_LISTS)]
Prompt = Annotated[
    Text | Texts | Annotated[Tokens, Tag(TOKENS)] | TokenLists,
    _one_of("a string, array of strings, array of integers or array of arrays of integers"),
]
StopText = Annotated[str, Field(min_length=1)]
StopTexts = Annotated[list[StopText], Field(max_length=4, fail_fast=True), Tag(LIST)]
Stop = Annotated[Annotated[StopText, Tag(TEXT)] | StopTexts, _one_of("a string or array of strings")]


class StreamOptions(Strict):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False  # pads chunks against eavesdroppers; ignored here


class ApiRequest(Strict):
    """The fields of both routes. `top_k` and `min_p` are additions to OpenAI's."""

    harmless = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
    defaults: ClassVar[dict[str, list[Any]]] = {
        "best_of": [1],
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
    stream_options: StreamOptions = StreamOptions()

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class CompletionRequest(ApiRequest):
    """One or several prompts to continue: texts, or ids that are read as they are."""

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0)] = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts as a list."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    @model_validator(mode="after")
    def _check_counts(self) -> "CompletionRequest":
        if len(self.prompts) * self.n > MAX_ITEMS:
            limit = f"Expected an array with maximum length {MAX_ITEMS // self.n} for n = {self.n}"
            message = f"{limit}, but got an array with length {len(self.prompts)} instead."
            raise RequestError(f"Invalid 'prompt': array too long. {message}", "prompt", "array_above_max_length")
        return self


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


TextParts = Annotated[list[TextPart], Field(max_length=MAX_ITEMS, fail_fast=True), Tag(LIST)]
Content = Annotated[Text | TextParts, _one_of("a string or array of objects")]


class Message(Strict):
    """One turn. OpenAI renamed the role `system` to `developer`."""

    defaults: ClassVar[dict[str, list[Any]]] = {"tool_calls": [[]], "annotations": [[]]}

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = None

    @property
    def turn(self) -> tuple[str, str]:
        """The role in the chat template, and the content as one text."""
        role = "system" if self.role == "developer" else self.role
        return role, self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(ApiRequest):
    """A conversation to answer. Without a limit an answer may fill the context."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _check_logprobs(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            message = "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled."
            raise RequestError(message, "top_logprobs", "invalid_value")
        return self


Parsed = TypeVar("Parsed", bound=ApiRequest)


def parse_request(kind: type[Parsed], body: bytes) -> Parsed:
    """Parse and validate a body; RequestError for the first problem."""
    try:  # pydantic's parser, unlike Python's, refuses half a surrogate pair, which no tokenizer can encode
        content = from_json(body)
    except ValueError as error:
        hint = " (half of a surrogate pair is not a character)" if "hex escape" in str(error) else ""
        message = f"We could not parse the JSON body of your request: expected valid JSON in UTF-8, got {error}{hint}."
        raise RequestError(message) from None
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise explain(error.errors()[0]) from None
