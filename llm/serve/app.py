"""The HTTP side: requests as OpenAI's clients send them become jobs of the engine, its pieces become their answers.

    GET /health    GET /v1/models    POST /v1/completions    POST /v1/chat/completions

A client that hangs up takes its jobs with it. Nothing here computes: what is drawn is decided in `llm.serve.draw`.
"""

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi import Request as Connection
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from llm.model.gpt import GPT
from llm.params import describe
from llm.serve.answers import ChatAnswer, Choice, CompletionAnswer, usage
from llm.serve.chat import conversation_ids
from llm.serve.draw import Drawer, Drawing
from llm.serve.engine import Engine, Job, Piece
from llm.serve.schema import ChatRequest, CompletionRequest, Request, RequestError, error_body
from llm.serve.slots import make_slots
from llm.serve.text import TextStream
from llm.text.tokenizer import IM_END, Tokenizer

Answer = CompletionAnswer | ChatAnswer
STOPPED = "the server was stopped before the answer was ready"


@dataclass(frozen=True)
class Served:
    """The model that is served, by the name that clients call it by."""

    name: str
    context_length: int
    tokenizer: Tokenizer
    chats: bool
    engine: Engine
    created: int


def serve_model(name: str, model: GPT, tokenizer: Tokenizer, chats: bool, n_slots: int) -> Served:
    """A model and an engine for it, which begins to work when the app does."""
    ends = {*tokenizer.ends, *([tokenizer.special[IM_END]] if chats else [])}
    engine = Engine(make_slots(model, n_slots), frozenset(ends), tokenizer.vocab_size)
    return Served(name, model.config.context_length, tokenizer, chats, engine, int(time.time()))


def make_app(served: Served) -> FastAPI:
    """The app. The documents' pages of FastAPI are left out, for they load scripts from elsewhere."""

    @asynccontextmanager
    async def work(_: FastAPI) -> AsyncIterator[None]:
        served.engine.start()
        yield
        await asyncio.to_thread(served.engine.close)

    app = FastAPI(title="Groundup", lifespan=work, docs_url=None, redoc_url=None)
    app.add_exception_handler(RequestError, _tell_request_error)
    app.add_exception_handler(RequestValidationError, _tell_invalid)
    app.add_exception_handler(HTTPException, _tell_http)
    app.add_exception_handler(Exception, _tell_broken)

    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": served.name, **served.engine.load()}

    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_card(served)]}

    async def model(name: str) -> dict[str, Any]:
        _check_model(served, name)
        return _card(served)

    async def completions(asked: CompletionRequest, connection: Connection) -> Response:
        _check_model(served, asked.model)
        prompts = [_prompt_ids(served, prompt) for prompt in asked.prompts]
        return await _answer(served, connection, asked, prompts, CompletionAnswer(asked, prompts, served.tokenizer))

    async def chat_completions(asked: ChatRequest, connection: Connection) -> Response:
        _check_model(served, asked.model)
        if not served.chats:
            raise RequestError(
                f"{served.name} has no chat template: it was not finetuned to answer; use /v1/completions"
            )
        ids = conversation_ids(served.tokenizer, ((message.role, message.text) for message in asked.messages))
        _check_length(served, len(ids), "messages")
        return await _answer(served, connection, asked, [ids], ChatAnswer(asked, served.tokenizer))

    app.add_api_route("/health", health)
    app.add_api_route("/v1/models", models)
    app.add_api_route("/v1/models/{name}", model)
    app.add_api_route("/v1/completions", completions, methods=["POST"])
    app.add_api_route("/v1/chat/completions", chat_completions, methods=["POST"])
    return app


def _check_model(served: Served, name: str) -> None:
    if name != served.name:
        message = f"model: wanted {served.name}, the one that is served, given {name}"
        raise RequestError(message, "model", "model_not_found", 404)


def _check_length(served: Served, n_tokens: int, param: str) -> None:
    if n_tokens > served.context_length:
        message = f"{param}: wanted at most the context of {served.context_length} tokens, given {n_tokens}"
        raise RequestError(message, param, "context_length_exceeded")


def _prompt_ids(served: Served, prompt: str | list[int]) -> list[int]:
    """A text begins as the documents of training do, behind the id that stands between them."""
    tokenizer = served.tokenizer
    ids = tokenizer.prompt(prompt) if isinstance(prompt, str) else prompt
    if max(ids) >= tokenizer.vocab_size:
        raise RequestError(f"prompt: wanted ids below {tokenizer.vocab_size}, given {max(ids)}", "prompt")
    _check_length(served, len(ids), "prompt")
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
    written = [answer.choice(number, choice) for number, choice in enumerate(choices)]
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


async def _tell_invalid(_: Connection, error: Exception) -> Response:
    """The first thing that is wrong with a request, as 400: clients of OpenAI's know no 422."""
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    place = [str(part) for part in problem["loc"][1:]]
    if problem["type"] == "json_invalid":
        return JSONResponse(error_body(f"the body: wanted JSON, {problem['ctx']['error']}", 400), 400)
    if problem["type"] == "extra_forbidden":
        message = f"{'.'.join(place)}: wanted a field that is served here, this one is not"
        return JSONResponse(error_body(message, 400, place[0], "unsupported_parameter"), 400)
    message = problem["msg"].removeprefix("Value error, ")
    if message.startswith("Input should be "):
        message = f"wanted {message.removeprefix('Input should be ')}, given {describe(problem['input'])}"
    message = f"{'.'.join(place)}: {message}" if place else message
    return JSONResponse(error_body(message, 400, place[0] if place else None), 400)


async def _tell_http(connection: Connection, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{connection.method} {connection.url.path}: {error.detail}"
    return JSONResponse(error_body(message, error.status_code), error.status_code, headers=error.headers)


async def _tell_broken(_: Connection, error: Exception) -> Response:
    return JSONResponse(error_body("the server failed; its log says where", 500), 500)
