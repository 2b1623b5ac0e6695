"""Continuous batching: texts wait in a queue, take a free slot, go on together, and leave as soon as they are done.

    Job → submit → Engine (a thread of its own) → tell(Piece), Piece, …, the last with a finish reason

As in Orca (Yu et al. 2022, OSDI): no text waits for the longest of a batch, for the batch is made anew at each token.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from llm.serve.draw import Drawer, Logprob, logprob_of
from llm.serve.slots import Slots
from llm.serve.text import TextStream

Finish = Literal["stop", "length", "aborted"]


@dataclass(frozen=True)
class Written:
    """A token of the text that is given out: where in the text it begins, and its log-probabilities if asked for."""

    token: int
    start: int
    logprob: Logprob | None


@dataclass(frozen=True)
class Piece:
    """What is new of a text. The last piece says why it ended."""

    text: str
    written: list[Written]
    finish: Finish | None = None
    n_tokens: int = 0  # drawn in all up to now, with what was cut off by a stop string
    prompt: list[Logprob | None] = field(default_factory=list)  # on the first piece, where they were asked for


ABORTED = Piece("", [], "aborted")  # of a text that was cancelled, or whose engine was closed


@dataclass(eq=False)
class Job:
    """One text to be written. `tell` is called in the engine's thread: it must be quick."""

    ids: list[int]
    max_tokens: int
    drawer: Drawer
    text: TextStream
    tell: Callable[[Piece], None]
    whole: bool = False  # whether it is told once, at its end
    prompt_logprobs: bool = False
    cancelled: bool = False  # anybody may set it: the slot is free at the next token


class Engine:
    """Slots, and the thread that fills them. `ends` are the ids that end a text and are not given out."""

    def __init__(self, slots: Slots, ends: frozenset[int], n_tokens: int):
        self.slots, self.ends, self.n_tokens = slots, ends, n_tokens
        self._waiting: deque[Job] = deque()
        self._live: dict[int, Turn] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """End all texts where they are, as aborted."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident:
            self._thread.join()

    def submit(self, job: Job) -> None:
        """Put a text into the queue. A text of a closed engine is aborted at once."""
        with self._changed:
            if not self._closed:
                self._waiting.append(job)
                self._changed.notify()
                return
        job.tell(ABORTED)

    def load(self) -> dict[str, int]:
        """How many slots there are, how many texts are live in them, and how many wait."""
        return {"slots": self.slots.n_slots, "live": len(self._live), "waiting": len(self._waiting)}

    def _run(self) -> None:
        try:
            while self._wait():
                self._let_go()
                self._take_in()
                self._step()
        finally:
            with self._changed:
                self._closed = True
            for job in (*(turn.job for turn in self._live.values()), *self._waiting):
                job.tell(ABORTED)
            self._live.clear()
            self._waiting.clear()

    def _wait(self) -> bool:
        """Sleep while there is nothing to do; False when the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._live)
            return not self._closed

    def _let_go(self) -> None:
        for slot in [slot for slot, turn in self._live.items() if turn.job.cancelled]:
            self._live.pop(slot).job.tell(ABORTED)

    def _take_in(self) -> None:
        """Read a prompt of those who wait for each slot that is free."""
        for slot in range(self.slots.n_slots):
            if slot in self._live:
                continue
            if (job := self._next()) is None:
                return
            self._live[slot] = turn = Turn(job)
            logits = self.slots.read(slot, job.ids, job.prompt_logprobs)[:, : self.n_tokens]
            if not turn.begin(logits, self.ends):
                del self._live[slot]

    def _next(self) -> Job | None:
        """The first who waits and was not cancelled."""
        while self._waiting:
            with self._changed:
                job = self._waiting.popleft()
            if not job.cancelled:
                return job
            job.tell(ABORTED)
        return None

    def _step(self) -> None:
        """All live texts one token on."""
        if not self._live:
            return
        slots = list(self._live)
        logits = self.slots.step(slots, [self._live[slot].last for slot in slots])[:, : self.n_tokens]
        for slot, row in zip(slots, logits, strict=True):
            if not self._live[slot].go_on(row, self.ends):
                del self._live[slot]


class Turn:
    """A job that has a slot: what was written of it and not yet told."""

    def __init__(self, job: Job):
        self.job, self.last = job, 0
        self._prompt: list[Logprob | None] = []
        self._untold: list[Written] = []
        self._pieces: list[str] = []

    def begin(self, logits: Tensor, ends: frozenset[int]) -> bool:
        """After the prompt's logits, (1, V) or (T, V); as `go_on`."""
        job = self.job
        if job.prompt_logprobs:
            n = job.drawer.drawing.n_logprobs or 0
            after = zip(job.ids[1:], logits[:-1], strict=True)
            self._prompt = [None, *(logprob_of(row, token, n) for token, row in after)]
        if job.max_tokens == 0:
            self.finish("length")
            return False
        return self.go_on(logits[-1], ends)

    def go_on(self, logits: Tensor, ends: frozenset[int]) -> bool:
        """Draw from the logits (V,) of the next token and tell what is certain; whether the text is still open."""
        job, text = self.job, self.job.text
        token, logprob = job.drawer.draw(logits)
        if token in ends:
            self.finish("stop")
            return False
        self.last = token
        self._pieces.append(text.add(token))
        self._untold.append(Written(token, text.starts[-1], logprob))
        if text.stopped:
            self.finish("stop")
        elif len(text.tokens) == job.max_tokens:
            self.finish("length")
        else:
            if self._pieces[-1] and not job.whole:
                self._tell(None)
            return True
        return False

    def finish(self, why: Finish) -> None:
        """Tell the rest."""
        self._pieces.append(self.job.text.end())
        self._tell(why)

    def _tell(self, finish: Finish | None) -> None:
        text = self.job.text
        # A token is told when its text is; one that is cut off by a stop string never is.
        ended = finish is not None and not text.stopped
        written = [token for token in self._untold if ended or token.start < text.length]
        self._untold = self._untold[len(written) :]
        piece = Piece("".join(self._pieces), written, finish, len(text.tokens), self._prompt)
        self._pieces, self._prompt = [], []
        self.job.tell(piece)
