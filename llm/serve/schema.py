"""What clients may ask, and the shape in which they are told what was wrong: OpenAI's.

A field that would change the answer and is not known here is refused; one that changes nothing is read over.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# What our answers do not depend on, and what stands for "as always" in fields that are not served.
HARMLESS = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
AS_ALWAYS: dict[str, list[Any]] = {
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

Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1)]


class RequestError(Exception):
    """A request that cannot be served: what the client is told, in OpenAI's shape."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400):
        super().__init__(message)
        self.status, self.body = status, error_body(message, status, param, code)


def error_body(message: str, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's shape of an error.

    >>> error_body("wanted a number", 400, "seed")
    {'error': {'message': 'wanted a number', 'type': 'invalid_request_error', 'param': 'seed', 'code': None}}
    """
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Strict(BaseModel):
    """A value of exactly the type that is wanted: "1" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Strict):
    """What a stream tells beside its text."""

    include_usage: bool = False
    include_obfuscation: bool = False  # fills up chunks to hide their lengths on the way: there is no way here


class Request(Strict):
    """What both routes take. `top_k` and `min_p` are no fields of OpenAI's."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] = []
    n: Annotated[int, Field(ge=1, le=128)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, given: Any) -> Any:
        """What is null was not given; what changes nothing is read over."""
        if not isinstance(given, dict):
            return given
        known = cls.model_fields.keys()
        return {
            key: value
            for key, value in given.items()
            if value is not None and (key in known or (key not in HARMLESS and value not in AS_ALWAYS.get(key, [])))
        }

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

    prompt: str | Tokens | Annotated[list[str], Field(min_length=1)] | Annotated[list[Tokens], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=0)] = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each text."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Request):
    """A conversation to answer. Without a limit an answer may fill the context."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _fit(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: wanted logprobs true beside it")
        return self
