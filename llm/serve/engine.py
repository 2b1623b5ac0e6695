"""Continuous batching: requests wait in a queue, are admitted to a free slot, and leave as soon as they are done.

    Request → submit → Engine (a thread of its own) → on_delta(Delta), Delta, …, the last with a finish reason

As in Orca (Yu et al. 2022, OSDI) no request waits for the longest of a batch: the batch is formed anew at each token.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from llm.model.decoder import Decoder
from llm.model.gpt import GPT
from llm.model.kv_cache import KVCache
from llm.model.text_stream import TextStream
from llm.serve.sampler import Logprob, Sampler, logprob_of

Finish = Literal["stop", "length", "aborted"]


@dataclass(frozen=True)
class SampledToken:
    """A token of the text that was returned, where in the text it begins, and its log-probability if asked for."""

    token: int
    start: int
    logprob: Logprob | None


@dataclass(frozen=True)
class Delta:
    """The new part of a text. The last delta has the finish reason."""

    text: str
    tokens: list[SampledToken]
    finish: Finish | None = None
    n_tokens: int = 0  # sampled in all up to now, including those that a stop string cut off
    prompt: list[Logprob | None] = field(default_factory=list)  # on the first delta, where they were asked for


ABORTED = Delta("", [], "aborted")  # for a request that was cancelled, or whose engine was closed


@dataclass(eq=False)
class Request:
    """One text to generate. `on_delta` is called in the engine's thread, so it must return quickly."""

    ids: list[int]
    max_tokens: int
    sampler: Sampler
    text: TextStream
    on_delta: Callable[[Delta], None]
    stream: bool = True  # otherwise there is one delta, at the end
    prompt_logprobs: bool = False
    cancelled: bool = False  # may be set from any thread: the slot is free at the next token
    # What was not sent yet.
    _prompt: list[Logprob | None] = field(default_factory=list)
    _tokens: list[SampledToken] = field(default_factory=list)
    _pieces: list[str] = field(default_factory=list)

    def begin(self, logits: Tensor, stop_ids: frozenset[int]) -> bool:
        """Take the prompt's logits, (1, V) or (T, V); otherwise as `append`."""
        if self.prompt_logprobs:
            n, after = self.sampler.params.n_logprobs or 0, zip(self.ids[1:], logits[:-1], strict=True)
            self._prompt = [None, *(logprob_of(row, token, n) for token, row in after)]
        return self.append(logits[-1], stop_ids) if self.max_tokens else self._finish("length")

    def append(self, logits: Tensor, stop_ids: frozenset[int]) -> bool:
        """Sample from the logits (V,) of the next token, and return whether the text is still open."""
        token, logprob = self.sampler.sample(logits)
        if token in stop_ids:
            return self._finish("stop")
        self._pieces.append(self.text.add(token))
        self._tokens.append(SampledToken(token, self.text.starts[-1], logprob))
        if self.text.stopped:
            return self._finish("stop")
        if len(self.text.tokens) == self.max_tokens:
            return self._finish("length")
        if self._pieces[-1] and self.stream:
            self._send(None)
        return True

    def _finish(self, reason: Finish) -> bool:
        self._pieces.append(self.text.end())
        self._send(reason)
        return False

    def _send(self, finish: Finish | None) -> None:
        # A token is sent with its text; one that a stop string cuts off never is.
        complete = finish is not None and not self.text.stopped
        tokens = [token for token in self._tokens if complete or token.start < self.text.length]
        self._tokens = self._tokens[len(tokens) :]
        delta = Delta("".join(self._pieces), tokens, finish, len(self.text.tokens), self._prompt)
        self._pieces, self._prompt = [], []
        self.on_delta(delta)


class Engine:
    """The slots of a model, and the thread that fills them. `stop_ids` end a text and are not returned."""

    def __init__(self, model: GPT, n_slots: int, stop_ids: frozenset[int], vocab_size: int):
        self.decoder, self.stop_ids, self.vocab_size = Decoder(model), stop_ids, vocab_size
        # Allocated once and for the whole context: exhausted memory is an error at the start.
        self._free = [self.decoder.new_cache(model.config.context_length) for _ in range(n_slots)]
        self._n_slots, self._closed = n_slots, False
        self._live: list[tuple[Request, KVCache]] = []
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Abort all requests, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident:
            self._thread.join()

    def submit(self, request: Request) -> None:
        """Queue a request; a closed engine aborts it at once."""
        with self._changed:
            if not self._closed:
                self._waiting.append(request)
                self._changed.notify()
                return
        request.on_delta(ABORTED)

    def load(self) -> dict[str, int]:
        """Count slots, requests live in them, and requests that wait."""
        return {"slots": self._n_slots, "live": len(self._live), "waiting": len(self._waiting)}

    def _run(self) -> None:
        try:
            while self._wait():
                self._admit()
                self._step()
        finally:
            with self._changed:
                self._closed = True
            for request in [*(request for request, _ in self._live), *self._waiting]:
                request.on_delta(ABORTED)
            self._live.clear()
            self._waiting.clear()

    def _wait(self) -> bool:
        """Sleep while there is nothing to do; return whether the engine is open."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._live)
            return not self._closed

    def _admit(self) -> None:
        """Free the slots of cancelled requests, and prefill waiting prompts while slots are free."""
        for slot in [slot for slot in self._live if slot[0].cancelled]:
            self._release(slot)
            slot[0].on_delta(ABORTED)
        while self._waiting and self._free:
            request = self._waiting.popleft()
            if request.cancelled:
                request.on_delta(ABORTED)
                continue
            cache = self._free.pop()
            cache.length = 0
            self._live.append((request, cache))
            logits = self.decoder.prefill(cache, request.ids, request.prompt_logprobs)
            if not request.begin(logits[:, : self.vocab_size], self.stop_ids):
                self._release((request, cache))

    def _step(self) -> None:
        """Append one token to each live text."""
        if not (live := list(self._live)):
            return
        logits = self.decoder.step([cache for _, cache in live], [request.text.tokens[-1] for request, _ in live])
        for slot, row in zip(live, logits, strict=True):
            if not slot[0].append(row[: self.vocab_size], self.stop_ids):
                self._release(slot)

    def _release(self, slot: tuple[Request, KVCache]) -> None:
        self._live.remove(slot)
        self._free.append(slot[1])
