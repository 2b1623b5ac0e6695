"""One exchange over HTTP: a client's request becomes requests of the engine, its deltas a response or a stream."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request as Connection
from fastapi.responses import JSONResponse, Response, StreamingResponse

from llm.model.text_stream import TextStream
from llm.serve.engine import Delta, Engine, Request
from llm.serve.errors import RequestError, error_body, shorten
from llm.serve.responses import ChatResponse, CompletionResponse
from llm.serve.sampler import RequestSampling, Sampler
from llm.serve.schema import ApiRequest
from llm.tokens.tokenizer import Tokenizer

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
