"""`python -m llm chat`: a conversation in the terminal, or with a pipe, a line a message.

lines → messages, with all that was said before → the answer, piece by piece
"""

import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

import torch

from llm.core.errors import UserError
from llm.model.generate import generate, greedy, sampler, stream_text
from llm.model.gpt import GPT
from llm.serve.chat import Message, can_chat, conversation_ids
from llm.serve.run import load
from llm.tokens.special import IM_END
from llm.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Manner:
    """How answers are written. Temperature 0 takes the likeliest token each time."""

    temperature: float
    top_p: float | None
    max_tokens: int
    seed: int
    system: str | None


class Conversation:
    """What was said, and the one generator that all its answers are drawn by."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, manner: Manner):
        self.model, self.tokenizer, self.manner = model, tokenizer, manner
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget all turns."""
        self.turns: list[Message] = []
        self._generator = torch.Generator().manual_seed(self.manner.seed)

    def make_room(self, user: str) -> int:
        """Take the user's message in, drop the oldest turns that no longer fit, and say how many.

        UserError where the message alone does not fit; then nothing is changed. Up to half of the context is kept
        free for the answer.
        """
        context, turns = self.model.config.context_length, [*self.turns, ("user", user)]
        room = context - min(self.manner.max_tokens, context // 2) + 1
        n_dropped = 0
        while (length := len(self._ids(turns[n_dropped:]))) > room and n_dropped < len(turns) - 1:
            n_dropped += 2  # a question and its answer
        if length > room:
            raise UserError(f"wanted a message of at most {room} tokens with its frame, given {length}")
        self.turns = turns[n_dropped:]
        return n_dropped // 2

    def answer(self) -> Generator[str]:
        """The answer to the last message, in pieces; what came of it belongs to the conversation."""
        manner, tokenizer = self.manner, self.tokenizer
        ids = self._ids(self.turns)
        n_tokens = min(manner.max_tokens, self.model.config.context_length - len(ids) + 1)
        choose = sampler(manner.temperature, None, self._generator, manner.top_p) if manner.temperature else greedy
        ends = tokenizer.eos_ids | {tokenizer.special[IM_END]}
        pieces = []
        try:
            for piece in stream_text(generate(self.model, ids, n_tokens, choose, ends), tokenizer.decode):
                pieces.append(piece)
                yield piece
        finally:
            self.turns.append(("assistant", "".join(pieces)))

    def _ids(self, turns: list[Message]) -> list[int]:
        system = [("system", self.manner.system)] if self.manner.system else []
        return conversation_ids(self.tokenizer, [*system, *turns])


def chat(folder: Path, manner: Manner, lines: TextIO, out: TextIO, message: str | None = None) -> None:
    """Answer a message, of any number of lines; without one, line after line until /quit or the end.

    UserError for a model that was not finetuned to answer, and for a message that does not fit.
    """
    if (folder / "config.json").exists() and not can_chat(folder):
        raise UserError(
            f"{folder}: wanted a model with a chat template, this one has none; use: python -m llm generate"
        )
    conversation = Conversation(*load(folder), manner)
    if message is not None:
        conversation.make_room(message)
        _answer(conversation, out)
        return
    if isinstance(lines, TextIOWrapper):  # bytes that are no text are marked as such, as in files
        lines.reconfigure(errors="replace")
    asks = lines.isatty()
    if asks:
        import readline  # noqa: F401 (input() then knows the arrow keys)

        print("/new starts over, /quit or Ctrl-D ends, Ctrl-C ends an answer", file=out)
    for line in _typed(lines) if asks else lines:
        match line.strip():
            case "":
                continue
            case "/quit":
                return
            case "/new":
                conversation.begin_anew()
                print("(a new conversation)", file=out, flush=True)
            case user:
                _say(conversation, user, out)


def _say(conversation: Conversation, user: str, out: TextIO) -> None:
    try:
        n_dropped = conversation.make_room(user)
    except UserError as error:
        print(f"({error})", file=out, flush=True)
        return
    if n_dropped:
        print(f"(the context is full: the oldest {n_dropped} of the turns before are forgotten)", file=out)
    _answer(conversation, out)


def _answer(conversation: Conversation, out: TextIO) -> None:
    answer = conversation.answer()
    try:
        for piece in answer:
            print(piece, end="", file=out, flush=True)
    except KeyboardInterrupt:
        answer.close()
    print(file=out, flush=True)


def _typed(lines: TextIO) -> Iterator[str]:
    """What is typed at a prompt."""
    assert lines is sys.stdin
    while True:
        try:
            yield input("> ")
        except KeyboardInterrupt:
            print()
        except EOFError:
            print()
            return
