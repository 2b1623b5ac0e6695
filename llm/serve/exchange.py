"""A served model, and one exchange over HTTP: a client's request becomes requests of the engine, deltas a response."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import Request as Connection
from fastapi.responses import JSONResponse, Response, StreamingResponse

from llm.finetune.shared.chat import conversation_ids
from llm.model.gpt import GPT
from llm.model.text_stream import TextStream
from llm.serve.engine import Delta, Engine, Request
from llm.serve.errors import RequestError, shorten
from llm.serve.responses import ChatResponse, CompletionResponse
from llm.serve.sampler import RequestSampling, Sampler
from llm.tokens.special import IM_END
from llm.tokens.tokenizer import Tokenizer

Result = TypeVar("Result")
STOPPED = "the server was stopped before the answer was ready"


class Served:
    """A model under the name that clients use. Its engine starts with the app."""

    def __init__(self, name: str, model: GPT, tokenizer: Tokenizer, chats: bool, n_slots: int):
        self.name, self.tokenizer, self.chats, self.created = name, tokenizer, chats, int(time.time())
        self.context_length = model.config.context_length
        stop_ids = {*tokenizer.eos_ids, *([tokenizer.special[IM_END]] if chats else [])}
        self.engine = Engine(model, n_slots, frozenset(stop_ids), tokenizer.vocab_size)
        self._tokenizing = ThreadPoolExecutor(1, "tokenizing")

    def close(self) -> None:
        """Abort all requests."""
        self.engine.close()
        self._tokenizing.shutdown(wait=False, cancel_futures=True)

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """Encode or decode where streams do not wait for it, one request after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, work)

    def card(self, name: str) -> dict[str, Any]:
        """Describe the model; RequestError if `name` is another one."""
        if name != self.name:
            message = f"The model `{shorten(name)}` does not exist, this server has `{self.name}`."
            raise RequestError(message, "model", "model_not_found", 404)
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "groundup"}

    def prompt_ids(self, prompt: str | list[int]) -> list[int]:
        """Encode a prompt; a text begins as the documents of training do, after the id that separates them."""
        if isinstance(prompt, str):
            prompt = self.tokenizer.prompt(prompt)
        self._check_length(len(prompt), "prompt")
        if max(prompt) >= self.tokenizer.vocab_size:
            message = f"Invalid 'prompt': expected ids below {self.tokenizer.vocab_size}, got {max(prompt)}."
            raise RequestError(message, "prompt", "invalid_value")
        return prompt

    def message_ids(self, messages: list[tuple[str, str]]) -> list[int]:
        """Encode a conversation by the chat template."""
        ids = conversation_ids(self.tokenizer, messages)
        self._check_length(len(ids), "messages")
        return ids

    def _check_length(self, n_tokens: int, param: str) -> None:
        if n_tokens > self.context_length:
            limit = f"This model's maximum context length is {self.context_length} tokens."
            message = f"{limit} However, your {param} resulted in {n_tokens} tokens."
            raise RequestError(f"{message} Please reduce the length of the {param}.", param, "context_length_exceeded")


class Exchange:
    """One request of a client, and the response to it: n choices for each prompt."""

    def __init__(self, served: Served, connection: Connection, response: CompletionResponse | ChatResponse):
        self.served, self.connection, self.response, self.request = served, connection, response, response.request
        self.choices: list[Delta | None] = [None] * (self.request.n * len(response.prompts))  # the last delta of each
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
        include_usage = self.request.stream_options.include_usage
        head = {**self.head, "object": self.response.chunk_kind} | ({"usage": None} if include_usage else {})
        async for deltas in self._deltas():
            chunks: list[dict[str, Any]] = []
            for number, delta in deltas:
                if delta.finish == "aborted":
                    yield _event(RequestError(STOPPED, status=503).body)
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
        n_prompt = sum(map(len, self.response.prompts))
        n_sampled = sum(delta.n_tokens for delta in self.choices if delta)
        return {"prompt_tokens": n_prompt, "completion_tokens": n_sampled, "total_tokens": n_prompt + n_sampled}

    async def _deltas(self) -> AsyncIterator[list[tuple[int, Delta]]]:
        """Submit an engine request for each choice; yield deltas with the choice's number until all have ended."""
        queue = asyncio.Queue[tuple[int, Delta]]()
        requests = self._requests(queue)

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

    def _requests(self, queue: "asyncio.Queue[tuple[int, Delta]]") -> list[Request]:
        """Return an engine request for each choice, whose deltas come by the queue."""
        request, response, loop = self.request, self.response, asyncio.get_running_loop()
        # The same seed gives the same text, but the n choices of one request differ.
        seed = random.SystemRandom().getrandbits(63) if request.seed is None else request.seed % 2**64
        filters = request.top_k, None if request.top_p == 1 else request.top_p, request.min_p
        penalties = request.frequency_penalty, request.presence_penalty
        params = RequestSampling(request.temperature, *filters, *penalties, response.n_logprobs)

        def make(number: int) -> Request:
            def on_delta(delta: Delta) -> None:
                loop.call_soon_threadsafe(queue.put_nowait, (number, delta))

            ids, choice = response.prompts[number // request.n], number % request.n
            room = self.served.context_length - len(ids) + 1  # the last sampled token need not be read
            max_tokens = room if response.max_tokens is None else min(response.max_tokens, room)
            sampler, text = Sampler(params, (seed, choice)), TextStream(self.served.tokenizer.decode, request.stops)
            return Request(ids, max_tokens, sampler, text, on_delta, request.stream, response.prompt_logprobs)

        return [make(number) for number in range(len(self.choices))]


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def _disconnected(connection: Connection) -> None:
    while (await connection.receive())["type"] != "http.disconnect":
        pass
