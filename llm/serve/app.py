"""The HTTP side: requests as OpenAI's clients send them become jobs of the engine, its pieces become their answers.

    GET /health    GET /v1/models    POST /v1/completions    POST /v1/chat/completions

A client that hangs up takes its jobs with it. Nothing here computes: what is drawn is decided in `llm.serve.draw`, and
texts are tokenized in a thread of their own. What is done in the event loop, where all streams wait, is bounded by
`MAX_BODY_BYTES`.
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
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from llm.model.gpt import GPT
from llm.serve.answers import ChatAnswer, Choice, CompletionAnswer, usage
from llm.serve.chat import conversation_ids
from llm.serve.draw import Drawer, Drawing
from llm.serve.engine import Engine, Job, Piece
from llm.serve.errors import RequestError, error_body, shorten
from llm.serve.schema import ChatRequest, CompletionRequest, Kind, Request, parse_request
from llm.serve.slots import make_slots
from llm.serve.text import TextStream
from llm.tokens.special import IM_END
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.usage import Usage

MAX_BODY_BYTES = 2 * 1024**2  # the worst of them takes about 0.2 s to parse
Answer = CompletionAnswer | ChatAnswer
Result = TypeVar("Result")
STOPPED = "the server was stopped before the answer was ready"


@dataclass(frozen=True)
class Served:
    """The model that is served, by the name that clients call it by."""

    name: str
    context_length: int
    tokenizer: Tokenizer
    longest_token: int | None  # bytes; None where a token may stand for any number of them
    chats: bool
    engine: Engine
    created: int
    tokenizing: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "tokenizing"))


def serve_model(name: str, model: GPT, tokenizer: Tokenizer, chats: bool, n_slots: int) -> Served:
    """A model and an engine for it, which begins to work when the app does."""
    ends = {*tokenizer.eos_ids, *([tokenizer.special[IM_END]] if chats else [])}
    engine = Engine(make_slots(model, n_slots), frozenset(ends), tokenizer.vocab_size)
    longest = int(Usage(tokenizer).lengths().max()) if tokenizer.lossless else None
    return Served(name, model.config.context_length, tokenizer, longest, chats, engine, int(time.time()))


def make_app(served: Served) -> FastAPI:
    """The app. The documents' pages of FastAPI are left out, for they load scripts from elsewhere."""

    @asynccontextmanager
    async def work(_: FastAPI) -> AsyncIterator[None]:
        served.engine.start()
        yield
        await asyncio.to_thread(served.engine.close)
        served.tokenizing.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(title="Groundup", lifespan=work, docs_url=None, redoc_url=None)
    app.add_exception_handler(RequestError, _tell_request_error)
    app.add_exception_handler(HTTPException, _tell_http)
    app.add_exception_handler(ClientDisconnect, _tell_nobody)
    app.add_exception_handler(Exception, _tell_broken)

    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": served.name, **served.engine.load()}

    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_card(served)]}

    async def model(name: str) -> dict[str, Any]:
        _check_model(served, name)
        return _card(served)

    async def completions(connection: Connection) -> Response:
        asked = await _read(connection, CompletionRequest)
        _check_model(served, asked.model)
        prompts = await _in_thread(served, lambda: [_prompt_ids(served, prompt) for prompt in asked.prompts])
        return await _answer(served, connection, asked, prompts, CompletionAnswer(asked, prompts, served.tokenizer))

    async def chat_completions(connection: Connection) -> Response:
        asked = await _read(connection, ChatRequest)
        _check_model(served, asked.model)
        if not served.chats:
            raise RequestError(
                f"{served.name} has no chat template: it was not finetuned to answer; use /v1/completions"
            )
        ids = await _in_thread(served, lambda: _conversation_ids(served, [message.turn for message in asked.messages]))
        return await _answer(served, connection, asked, [ids], ChatAnswer(asked, served.tokenizer))

    for path, endpoint in (("/health", health), ("/v1/models", models), ("/v1/models/{name}", model)):
        app.add_api_route(path, endpoint, responses=_errors(404) if endpoint is model else None)
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    for path, post, asked in (
        ("/v1/completions", completions, CompletionRequest),
        ("/v1/chat/completions", chat_completions, ChatRequest),
    ):
        body = {"required": True, "content": {"application/json": {"schema": _reference(asked.__name__)}}}
        app.add_api_route(
            path,
            post,
            methods=["POST"],
            responses=_errors(400, 404, 413, 500, 503),
            openapi_extra={"requestBody": body},
        )
    described = _describe(app)
    app.openapi = lambda: described  # type: ignore[method-assign]
    return app


def _describe(app: FastAPI) -> dict[str, Any]:
    """Return openapi.json. What is not read by FastAPI itself, it does not describe."""
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
    _, content = models_json_schema(
        [(CompletionRequest, "validation"), (ChatRequest, "validation")], ref_template=_reference("{model}")["$ref"]
    )
    text = {"type": "string"}
    error = {"message": text, "type": text, "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]}}
    error_shape = {"type": "object", "properties": {"error": {"type": "object", "properties": error}}}
    schema["components"] = {"schemas": {**content["$defs"], "Error": error_shape}}
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # FastAPI's own, which is never answered
    return schema


def _errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": _reference("Error")}}
    return {code: {"description": http.HTTPStatus(code).phrase, "content": content} for code in codes}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


async def _read(connection: Connection, kind: type[Kind]) -> Kind:
    """Read and check a body; RequestError where it is not one that can be served."""
    given = connection.headers.get("content-type", "")
    header = Header()
    header["content-type"] = given
    is_json = header.get_content_maintype() == "application" and header.get_content_subtype().endswith("json")
    body, n_bytes = bytearray(), 0
    # To its end in any case: a client that is still sending does not read the answer.
    async for chunk in connection.stream():
        n_bytes += len(chunk)
        if n_bytes <= MAX_BODY_BYTES:
            body += chunk
    if n_bytes > MAX_BODY_BYTES:
        message = f"Request too large: expected a body of at most {MAX_BODY_BYTES:,} bytes, got {n_bytes:,}."
        raise RequestError(message, code="request_too_large", status=413)
    if not is_json:
        header_given = f"the header 'Content-Type: {shorten(given)}'" if given else "no header 'Content-Type'"
        message = f"This API method only accepts 'application/json' requests, but you specified {header_given}."
        raise RequestError(f"Unsupported content type: '{shorten(given)}'. {message}", code="unsupported_content_type")
    return parse_request(kind, bytes(body))


async def _in_thread(served: Served, work: Callable[[], Result]) -> Result:
    """Encode or decode where streams do not wait for it, one request after the other."""
    return await asyncio.get_running_loop().run_in_executor(served.tokenizing, work)


def _check_model(served: Served, name: str) -> None:
    if name != served.name:
        message = f"The model `{shorten(name)}` does not exist, this server has `{served.name}`."
        raise RequestError(message, "model", "model_not_found", 404)


def _check_length(served: Served, n_tokens: int, param: str, at_least: str = "") -> None:
    if n_tokens > served.context_length:
        limit = f"This model's maximum context length is {served.context_length} tokens."
        message = f"{limit} However, your {param} resulted in {at_least}{n_tokens} tokens."
        raise RequestError(f"{message} Please reduce the length of the {param}.", param, "context_length_exceeded")


def _check_size(served: Served, text: str, param: str) -> None:
    """Refuse what is too long however it is tokenized."""
    if served.longest_token is not None:
        _check_length(served, len(text.encode()) // served.longest_token, param, "at least ")


def _prompt_ids(served: Served, prompt: str | list[int]) -> list[int]:
    """A text begins as the documents of training do, behind the id that stands between them."""
    tokenizer = served.tokenizer
    if isinstance(prompt, str):
        _check_size(served, prompt, "prompt")
    ids = tokenizer.prompt(prompt) if isinstance(prompt, str) else prompt
    _check_length(served, len(ids), "prompt")
    if max(ids) >= tokenizer.vocab_size:
        message = f"Invalid 'prompt': expected ids below {tokenizer.vocab_size}, got {max(ids)}."
        raise RequestError(message, "prompt", "invalid_value")
    return ids


def _conversation_ids(served: Served, turns: list[tuple[str, str]]) -> list[int]:
    _check_size(served, "".join(text for _, text in turns), "messages")
    ids = conversation_ids(served.tokenizer, turns)
    _check_length(served, len(ids), "messages")
    return ids


def _card(served: Served) -> dict[str, Any]:
    return {"id": served.name, "object": "model", "created": served.created, "owned_by": "groundup"}


async def _answer(
    served: Served, connection: Connection, asked: Request, prompts: list[list[int]], answer: Answer
) -> Response:
    head = {"id": f"{answer.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": served.name}
    told = _pieces(served, connection, asked, prompts, answer)
    if asked.stream:
        return StreamingResponse(_events(told, head, asked, prompts, answer), media_type="text/event-stream")
    choices = [Choice() for _ in range(asked.n * len(prompts))]
    async for pieces in told:
        for number, piece in pieces:
            choices[number].add(piece)
    if any(choice.finish == "aborted" for choice in choices):
        raise RequestError(STOPPED, status=503)
    written = await _in_thread(served, lambda: [answer.choice(number, choice) for number, choice in enumerate(choices)])
    return JSONResponse({**head, "object": answer.kind, "choices": written, "usage": usage(prompts, choices)})


async def _events(
    told: AsyncIterator[list[tuple[int, Piece]]],
    head: dict[str, Any],
    asked: Request,
    prompts: list[list[int]],
    answer: Answer,
) -> AsyncIterator[str]:
    """Server-sent events: a chunk for each piece, the usage if it was asked for, and the word DONE."""
    head = {**head, "object": answer.chunk_kind} | ({"usage": None} if asked.include_usage else {})
    choices = [Choice() for _ in range(asked.n * len(prompts))]
    async for pieces in told:
        chunks: list[dict[str, Any]] = []
        for number, piece in pieces:
            if piece.finish == "aborted":
                yield _event(error_body(STOPPED, 503))
                return
            chunks += answer.chunks(number, piece, first=choices[number].is_new)
            choices[number].add(piece)
        if chunks:
            yield "".join(_event({**head, "choices": [chunk]}) for chunk in chunks)
    if asked.include_usage:
        yield _event({**head, "choices": [], "usage": usage(prompts, choices)})
    yield "data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def _pieces(
    served: Served, connection: Connection, asked: Request, prompts: list[list[int]], answer: Answer
) -> AsyncIterator[list[tuple[int, Piece]]]:
    """Submit a job for each choice, and give what is told, with the choice's number, until all have ended."""
    loop, told = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Piece]]()
    # The same seed draws the same text, but n choices of one request are to differ.
    seed = random.SystemRandom().getrandbits(63) if asked.seed is None else asked.seed % 2**64
    wanted = [(ids, choice) for ids in prompts for choice in range(asked.n)]

    def make_job(number: int, ids: list[int], choice: int) -> Job:
        def tell(piece: Piece) -> None:
            loop.call_soon_threadsafe(told.put_nowait, (number, piece))

        room = served.context_length - len(ids) + 1  # the last token that is drawn need not be read
        n_tokens = room if answer.max_tokens is None else min(answer.max_tokens, room)
        drawer = Drawer(drawing_of(asked, answer.n_logprobs), (seed, choice))
        text = TextStream(served.tokenizer.decode, asked.stops)
        return Job(ids, n_tokens, drawer, text, tell, not asked.stream, answer.prompt_logprobs)

    jobs = [make_job(number, ids, choice) for number, (ids, choice) in enumerate(wanted)]

    def cancel(_: object = None) -> None:
        for job in jobs:
            job.cancelled = True

    watch = asyncio.create_task(_hang_up(connection))
    watch.add_done_callback(cancel)
    try:
        for job in jobs:
            served.engine.submit(job)
        n_open = len(jobs)
        while n_open:
            pieces = [await told.get()]
            while not told.empty():
                pieces.append(told.get_nowait())
            n_open -= sum(piece.finish is not None for _, piece in pieces)
            yield pieces
    finally:
        watch.cancel()
        cancel()


async def _hang_up(connection: Connection) -> None:
    """Ends when the client is gone."""
    while (await connection.receive())["type"] != "http.disconnect":
        pass


def drawing_of(asked: Request, n_logprobs: int | None) -> Drawing:
    """What a request says of drawing."""
    top_p = None if asked.top_p == 1 else asked.top_p
    penalties = asked.frequency_penalty, asked.presence_penalty
    return Drawing(asked.temperature, top_p, asked.top_k, asked.min_p, *penalties, n_logprobs)


async def _tell_request_error(_: Connection, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse(error.body, error.status)


async def _tell_http(connection: Connection, error: Exception) -> Response:
    """404 and 405: what the routes do not have."""
    assert isinstance(error, HTTPException)
    method, path, code = connection.method, shorten(connection.url.path), None
    message = f"{method} {path}: {error.detail}"
    if error.status_code == http.HTTPStatus.NOT_FOUND:
        message, code = f"Unknown request URL: {method} {path}. Please check the URL for typos.", "unknown_url"
    if error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
        hint = "(HINT: Perhaps you meant to use a different HTTP method?)"
        message, code = f"Not allowed to {method} on {path}. {hint}", "method_not_supported"
    return JSONResponse(error_body(message, error.status_code, None, code), error.status_code, headers=error.headers)


async def _tell_nobody(_: Connection, __: Exception) -> Response:
    """The client hung up before its request was whole."""
    return Response(status_code=400)


async def _tell_broken(_: Connection, error: Exception) -> Response:
    return JSONResponse(error_body("the server failed; its log says where", 500), 500)
