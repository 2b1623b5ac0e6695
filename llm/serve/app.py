"""The HTTP server: requests of OpenAI's clients become requests of the engine, its deltas become their responses.

    GET /health    GET /v1/models    POST /v1/completions    POST /v1/chat/completions

A client that disconnects cancels its requests. Texts are tokenized in a thread of their own; what runs in the event
loop, where all streams wait, is bounded by `MAX_BODY_BYTES`.
"""

import asyncio
import http
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.message import Message as Header
from typing import Any

from fastapi import FastAPI
from fastapi import Request as Connection
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from llm.model.gpt import GPT
from llm.serve.chat import conversation_ids
from llm.serve.engine import Engine
from llm.serve.errors import RequestError, error_body, shorten
from llm.serve.exchange import Exchange, Served
from llm.serve.openapi import describe, error_responses, json_body
from llm.serve.responses import ChatResponse, CompletionResponse
from llm.serve.schema import ApiRequest, ChatRequest, CompletionRequest, Parsed, parse_request
from llm.tokens.special import IM_END
from llm.tokens.tokenize import token_lengths
from llm.tokens.tokenizer import Tokenizer

MAX_BODY_BYTES = 2 * 1024**2  # the worst of them takes about 0.2 s to parse


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
