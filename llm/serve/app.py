"""The HTTP server: requests of OpenAI's clients become requests of the engine, its deltas become their responses.

    GET /health    GET /v1/models    POST /v1/completions    POST /v1/chat/completions

A client that disconnects cancels its requests. Texts are tokenized in a thread of their own; what runs in the event
loop, where all streams wait, is bounded by `MAX_BODY_BYTES`.
"""

import asyncio
import http
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import Message as Header
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi import Request as Connection
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from llm.model.gpt import GPT
from llm.model.text_stream import TextStream
from llm.serve.chat import conversation_ids
from llm.serve.engine import Delta, Engine, Request
from llm.serve.errors import RequestError, error_body, shorten
from llm.serve.openapi import describe, error_responses, json_body
from llm.serve.responses import ChatResponse, CompletionResponse
from llm.serve.sampler import RequestSampling, Sampler
from llm.serve.schema import ApiRequest, ChatRequest, CompletionRequest, Parsed, parse_request
from llm.tokens.special import IM_END
from llm.tokens.tokenize import token_lengths
from llm.tokens.tokenizer import Tokenizer

MAX_BODY_BYTES = 2 * 1024**2  # the worst of them takes about 0.2 s to parse
STOPPED = "the server was stopped before the answer was ready"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Served:
    """A served model, under the name that clients use."""

    name: str
    context_length: int
    tokenizer: Tokenizer
    longest_token: int | None  # bytes; None where a token may stand for any number of them
    chats: bool
    engine: Engine
    created: int
    tokenizing: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "tokenizing"))

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """Encode or decode where streams do not wait for it, one request after the other."""
        return await asyncio.get_running_loop().run_in_executor(self.tokenizing, work)

    def card(self, name: str | None = None) -> dict[str, Any]:
        """Describe the model; RequestError if `name` is another one."""
        if name is not None and name != self.name:
            message = f"The model `{shorten(name)}` does not exist, this server has `{self.name}`."
            raise RequestError(message, "model", "model_not_found", 404)
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "groundup"}


def serve_model(name: str, model: GPT, tokenizer: Tokenizer, chats: bool, n_slots: int) -> Served:
    """Make an engine for a model; it starts with the app."""
    stop_ids = {*tokenizer.eos_ids, *([tokenizer.special[IM_END]] if chats else [])}
    engine = Engine(model, n_slots, frozenset(stop_ids), tokenizer.vocab_size)
    longest = int(token_lengths(tokenizer).max()) if tokenizer.lossless else None
    return Served(name, model.config.context_length, tokenizer, longest, chats, engine, int(time.time()))


def make_app(served: Served) -> FastAPI:
    """Make the app. FastAPI's pages of documentation are left out, for they load scripts from elsewhere."""

    @asynccontextmanager
    async def run_engine(_: FastAPI) -> AsyncIterator[None]:
        served.engine.start()
        yield
        await asyncio.to_thread(served.engine.close)
        served.tokenizing.shutdown(wait=False, cancel_futures=True)

    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": served.name, **served.engine.load()}

    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [served.card()]}

    async def model(name: str) -> dict[str, Any]:
        return served.card(name)

    async def completions(connection: Connection) -> Response:
        request = await _read(served, connection, CompletionRequest)
        prompts = await served.in_thread(lambda: [prompt_ids(served, prompt) for prompt in request.prompts])
        response = CompletionResponse(request, prompts, served.tokenizer)
        return await Exchange(served, connection, request, prompts, response).respond()

    async def chat_completions(connection: Connection) -> Response:
        request = await _read(served, connection, ChatRequest)
        if not served.chats:
            hint = "it was not finetuned to answer; use /v1/completions"
            raise RequestError(f"{served.name} has no chat template: {hint}")
        ids = await served.in_thread(lambda: message_ids(served, [message.turn for message in request.messages]))
        response = ChatResponse(request, served.tokenizer)
        return await Exchange(served, connection, request, [ids], response).respond()

    app = FastAPI(title="Groundup", lifespan=run_engine, docs_url=None, redoc_url=None, exception_handlers=HANDLERS)
    _add_get(app, {"/health": health, "/v1/models": models, "/v1/models/{name}": model})
    _add_post(app, "/v1/completions", completions, CompletionRequest)
    _add_post(app, "/v1/chat/completions", chat_completions, ChatRequest)
    described = describe(app)
    app.openapi = lambda: described  # type: ignore[method-assign]
    return app


def _add_get(app: FastAPI, endpoints: dict[str, Callable[..., Any]]) -> None:
    for path, endpoint in endpoints.items():
        app.add_api_route(path, endpoint, responses=error_responses(404) if "{name}" in path else None)
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)


def _add_post(app: FastAPI, path: str, endpoint: Callable[..., Any], kind: type[ApiRequest]) -> None:
    responses = error_responses(400, 404, 413, 500, 503)
    app.add_api_route(path, endpoint, methods=["POST"], responses=responses, openapi_extra=json_body(kind.__name__))


async def _read(served: Served, connection: Connection, kind: type[Parsed]) -> Parsed:
    """Read and validate a body; RequestError where it cannot be served."""
    content_type = connection.headers.get("content-type", "")
    header = Header()
    header["content-type"] = content_type
    body, n_bytes = bytearray(), 0
    # To its end in any case: a client that is still sending does not read the response.
    async for chunk in connection.stream():
        n_bytes += len(chunk)
        if n_bytes <= MAX_BODY_BYTES:
            body += chunk
    if n_bytes > MAX_BODY_BYTES:
        message = f"Request too large: expected a body of at most {MAX_BODY_BYTES:,} bytes, got {n_bytes:,}."
        raise RequestError(message, code="request_too_large", status=413)
    if header.get_content_maintype() != "application" or not header.get_content_subtype().endswith("json"):
        got = shorten(content_type)
        specified = f"the header 'Content-Type: {got}'" if content_type else "no header 'Content-Type'"
        message = f"This API method only accepts 'application/json' requests, but you specified {specified}."
        raise RequestError(f"Unsupported content type: '{got}'. {message}", code="unsupported_content_type")
    request = parse_request(kind, bytes(body))
    served.card(request.model)
    return request


def prompt_ids(served: Served, prompt: str | list[int]) -> list[int]:
    """Encode a prompt; a text begins as the documents of training do, after the id that separates them."""
    tokenizer = served.tokenizer
    if isinstance(prompt, str):
        _check_size(served, prompt, "prompt")
    ids = tokenizer.prompt(prompt) if isinstance(prompt, str) else prompt
    _check_length(served, len(ids), "prompt")
    if max(ids) >= tokenizer.vocab_size:
        message = f"Invalid 'prompt': expected ids below {tokenizer.vocab_size}, got {max(ids)}."
        raise RequestError(message, "prompt", "invalid_value")
    return ids


def message_ids(served: Served, turns: list[tuple[str, str]]) -> list[int]:
    """Encode a conversation by the chat template."""
    _check_size(served, "".join(text for _, text in turns), "messages")
    ids = conversation_ids(served.tokenizer, turns)
    _check_length(served, len(ids), "messages")
    return ids


def _check_size(served: Served, text: str, param: str) -> None:
    """Refuse a text that is too long however it is tokenized."""
    if served.longest_token is not None:
        _check_length(served, len(text.encode()) // served.longest_token, param, "at least ")


def _check_length(served: Served, n_tokens: int, param: str, at_least: str = "") -> None:
    if n_tokens > served.context_length:
        limit = f"This model's maximum context length is {served.context_length} tokens."
        message = f"{limit} However, your {param} resulted in {at_least}{n_tokens} tokens."
        raise RequestError(f"{message} Please reduce the length of the {param}.", param, "context_length_exceeded")


class Exchange:
    """One request of a client, and the response to it: n choices for each prompt."""

    def __init__(
        self,
        served: Served,
        connection: Connection,
        request: ApiRequest,
        prompts: list[list[int]],
        response: CompletionResponse | ChatResponse,
    ):
        self.served, self.connection, self.request, self.response = served, connection, request, response
        self.prompts = prompts
        self.choices: list[Delta | None] = [None] * (request.n * len(prompts))  # the last delta of each
        self.head = {"id": f"{response.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": served.name}

    async def respond(self) -> Response:
        """Return the whole response, or a stream."""
        if self.request.stream:
            return StreamingResponse(self._events(), media_type="text/event-stream")
        async for deltas in self._deltas():
            for number, delta in deltas:
                self.choices[number] = delta
        whole = [delta for delta in self.choices if delta and delta.finish != "aborted"]
        if len(whole) < len(self.choices):
            raise RequestError(STOPPED, status=503)
        choices = await self.served.in_thread(lambda: [self.response.choice(*pair) for pair in enumerate(whole)])
        return JSONResponse({**self.head, "object": self.response.kind, "choices": choices, "usage": self._usage()})

    async def _events(self) -> AsyncIterator[str]:
        """Yield server-sent events: a chunk for each delta, the usage if asked for, and DONE."""
        include_usage = self.request.include_usage
        head = {**self.head, "object": self.response.chunk_kind} | ({"usage": None} if include_usage else {})
        async for deltas in self._deltas():
            chunks: list[dict[str, Any]] = []
            for number, delta in deltas:
                if delta.finish == "aborted":
                    yield _event(error_body(STOPPED, 503))
                    return
                chunks += self.response.chunks(number, delta, first=self.choices[number] is None)
                self.choices[number] = delta
            if chunks:
                yield "".join(_event({**head, "choices": [chunk]}) for chunk in chunks)
        if include_usage:
            yield _event({**head, "choices": [], "usage": self._usage()})
        yield "data: [DONE]\n\n"

    def _usage(self) -> dict[str, int]:
        """Count the tokens of each prompt once, and the sampled ones."""
        n_prompt, n_sampled = sum(map(len, self.prompts)), sum(delta.n_tokens for delta in self.choices if delta)
        return {"prompt_tokens": n_prompt, "completion_tokens": n_sampled, "total_tokens": n_prompt + n_sampled}

    async def _deltas(self) -> AsyncIterator[list[tuple[int, Delta]]]:
        """Submit an engine request for each choice; yield deltas with the choice's number until all have ended."""
        queue = asyncio.Queue[tuple[int, Delta]]()
        requests = self._requests(asyncio.get_running_loop(), queue)

        def cancel(_: object = None) -> None:
            for request in requests:
                request.cancelled = True

        watch = asyncio.create_task(_disconnected(self.connection))
        watch.add_done_callback(cancel)
        try:
            for request in requests:
                self.served.engine.submit(request)
            n_open = len(requests)
            while n_open:
                deltas = [await queue.get()]
                while not queue.empty():
                    deltas.append(queue.get_nowait())
                n_open -= sum(delta.finish is not None for _, delta in deltas)
                yield deltas
        finally:
            watch.cancel()
            cancel()

    def _requests(self, loop: asyncio.AbstractEventLoop, queue: "asyncio.Queue[tuple[int, Delta]]") -> list[Request]:
        request, response = self.request, self.response
        # The same seed gives the same text, but the n choices of one request differ.
        seed = random.SystemRandom().getrandbits(63) if request.seed is None else request.seed % 2**64
        params = sampling_of(request, response.n_logprobs)

        def make(number: int) -> Request:
            def on_delta(delta: Delta) -> None:
                loop.call_soon_threadsafe(queue.put_nowait, (number, delta))

            ids, choice = self.prompts[number // request.n], number % request.n
            room = self.served.context_length - len(ids) + 1  # the last sampled token need not be read
            return Request(
                ids,
                room if response.max_tokens is None else min(response.max_tokens, room),
                Sampler(params, (seed, choice)),
                TextStream(self.served.tokenizer.decode, request.stops),
                on_delta,
                request.stream,
                response.prompt_logprobs,
            )

        return [make(number) for number in range(len(self.choices))]


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def _disconnected(connection: Connection) -> None:
    while (await connection.receive())["type"] != "http.disconnect":
        pass


def sampling_of(request: ApiRequest, n_logprobs: int | None) -> RequestSampling:
    """Return the sampling params of a request."""
    top_p = None if request.top_p == 1 else request.top_p
    penalties = request.frequency_penalty, request.presence_penalty
    return RequestSampling(request.temperature, request.top_k, top_p, request.min_p, *penalties, n_logprobs)


async def _on_request_error(_: Connection, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse(error.body, error.status)


async def _on_http_error(connection: Connection, error: Exception) -> Response:
    """Answer 404 and 405, for paths and methods without a route."""
    assert isinstance(error, HTTPException)
    method, path, code = connection.method, shorten(connection.url.path), None
    message = f"{method} {path}: {error.detail}"
    if error.status_code == http.HTTPStatus.NOT_FOUND:
        message, code = f"Unknown request URL: {method} {path}. Please check the URL for typos.", "unknown_url"
    if error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
        hint = "(HINT: Perhaps you meant to use a different HTTP method?)"
        message, code = f"Not allowed to {method} on {path}. {hint}", "method_not_supported"
    return JSONResponse(error_body(message, error.status_code, None, code), error.status_code, headers=error.headers)


async def _on_disconnect(_: Connection, __: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _on_failure(_: Connection, __: Exception) -> Response:
    return JSONResponse(error_body("the server failed; see its log", 500), 500)


HANDLERS: dict[int | type[Exception], Any] = {
    RequestError: _on_request_error,
    HTTPException: _on_http_error,
    ClientDisconnect: _on_disconnect,
    Exception: _on_failure,
}
