"""The HTTP server: requests of OpenAI's clients become requests of the engine, its deltas become their responses.

    GET /health    GET /v1/models    POST /v1/completions    POST /v1/chat/completions

A client that disconnects cancels its requests. Texts are tokenized in a thread of their own; what runs in the event
loop, where all streams wait, is bounded by `MAX_BODY_BYTES`.
"""

import asyncio
import http
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi import Request as Connection
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from llm.serve.errors import RequestError, shorten
from llm.serve.exchange import Exchange, Served
from llm.serve.responses import ChatResponse, CompletionResponse
from llm.serve.schema import ChatRequest, CompletionRequest, Parsed, parse_request

MAX_BODY_BYTES = 2 * 1024**2  # the worst of them takes about 0.2 s to parse
REFERENCE = "#/components/schemas/{model}"
_TEXT, _NULLABLE = {"type": "string"}, {"type": ["string", "null"]}
_ERROR = {"message": _TEXT, "type": _TEXT, "param": _NULLABLE, "code": _NULLABLE}


def make_app(served: Served) -> FastAPI:
    """Make the app. FastAPI's pages of documentation are left out, for they load scripts from elsewhere."""

    @asynccontextmanager
    async def run_engine(_: FastAPI) -> AsyncIterator[None]:
        served.engine.start()
        yield
        await asyncio.to_thread(served.close)

    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": served.name, **served.engine.load()}

    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [served.card(served.name)]}

    async def model(name: str) -> dict[str, Any]:
        return served.card(name)

    async def completions(connection: Connection) -> Response:
        request = await _read(served, connection, CompletionRequest)
        prompts = await served.in_thread(lambda: [served.prompt_ids(prompt) for prompt in request.prompts])
        return await Exchange(served, connection, CompletionResponse(request, prompts, served.tokenizer)).respond()

    async def chat_completions(connection: Connection) -> Response:
        request = await _read(served, connection, ChatRequest)
        if not served.chats:
            hint = "it was not finetuned to answer; use /v1/completions"
            raise RequestError(f"{served.name} has no chat template: {hint}")
        ids = await served.in_thread(lambda: served.message_ids([message.turn for message in request.messages]))
        return await Exchange(served, connection, ChatResponse(request, [ids], served.tokenizer)).respond()

    handlers: Any = dict.fromkeys([RequestError, HTTPException, ClientDisconnect, Exception], _on_error)
    app = FastAPI(title="Groundup", lifespan=run_engine, docs_url=None, redoc_url=None, exception_handlers=handlers)
    gets: dict[str, Callable[..., Any]] = {"/health": health, "/v1/models": models, "/v1/models/{name}": model}
    for path, get in gets.items():
        app.add_api_route(path, get, responses=_errors(404) if "{name}" in path else None)
        app.add_api_route(path, get, methods=["HEAD"], include_in_schema=False)
    for path, post, kind in (
        ("/v1/completions", completions, CompletionRequest),
        ("/v1/chat/completions", chat_completions, ChatRequest),
    ):
        body = {"requestBody": {"required": True, "content": _json_of(kind.__name__)}}
        errors = _errors(400, 404, 413, 500, 503)
        app.add_api_route(path, post, methods=["POST"], responses=errors, openapi_extra=body)
    described = _describe(app)
    app.openapi = lambda: described  # type: ignore[method-assign]
    return app


def _describe(app: FastAPI) -> dict[str, Any]:
    """Return openapi.json, with the schemas of requests and errors, which FastAPI does not read itself."""
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
    requests: Any = [(CompletionRequest, "validation"), (ChatRequest, "validation")]
    schemas = models_json_schema(requests, ref_template=REFERENCE)[1]["$defs"]
    error = {"type": "object", "properties": {"error": {"type": "object", "properties": _ERROR}}}
    schema["components"] = {"schemas": {**schemas, "Error": error}}
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # FastAPI's own, which never occurs
    return schema


def _json_of(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REFERENCE.format(model=name)}}}


def _errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"description": http.HTTPStatus(code).phrase, "content": _json_of("Error")} for code in codes}


async def _read(served: Served, connection: Connection, kind: type[Parsed]) -> Parsed:
    """Read and validate a body; RequestError where it cannot be served."""
    body, n_bytes = bytearray(), 0
    # To its end in any case: a client that is still sending does not read the response.
    async for chunk in connection.stream():
        n_bytes += len(chunk)
        if n_bytes <= MAX_BODY_BYTES:
            body += chunk
    if n_bytes > MAX_BODY_BYTES:
        message = f"Request too large: expected a body of at most {MAX_BODY_BYTES:,} bytes, got {n_bytes:,}."
        raise RequestError(message, code="request_too_large", status=413)
    content_type = connection.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if not (media_type.startswith("application/") and media_type.endswith("json")):
        message = "This API method only accepts 'application/json' requests"
        got = f"you specified the header 'Content-Type: {shorten(content_type)}'"
        raise RequestError(f"Unsupported content type. {message}, but {got}.", code="unsupported_content_type")
    request = parse_request(kind, bytes(body))
    served.card(request.model)
    return request


async def _on_error(connection: Connection, error: Exception) -> Response:
    method, path, headers = connection.method, shorten(connection.url.path), getattr(error, "headers", None)
    if isinstance(error, RequestError):
        answer = error
    elif isinstance(error, HTTPException):
        code = {404: "unknown_url", 405: "method_not_supported"}.get(error.status_code)
        answer = RequestError(f"{error.detail}: {method} {path}", code=code, status=error.status_code)
    else:  # a client that disconnected does not read it
        answer = RequestError("the server failed; see its log", status=500)
    return JSONResponse(answer.body, answer.status, headers)
