"""`python -m llm chat`: a conversation in the terminal, or from a pipe with one message a line."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

import torch

from llm.core.errors import UserError
from llm.finetune.shared.chat import conversation_ids
from llm.model.generate import SamplingParams, generate, sampler
from llm.model.gpt import GPT
from llm.model.text_stream import stream_text
from llm.serve.run import Message, load
from llm.tokens.special import IM_END
from llm.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class GenerationOptions:
    """How answers are generated. Temperature 0 is greedy."""

    temperature: float
    top_p: float | None
    max_tokens: int
    seed: int
    system: str | None


class Conversation:
    """The messages so far, and the one random generator of all answers."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, options: GenerationOptions):
        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.reset()

    def reset(self) -> None:
        """Drop all messages and seed the generator again."""
        self.turns: list[Message] = []
        self._generator = torch.Generator().manual_seed(self.options.seed)

    def add_user(self, user: str) -> int:
        """Add the user's message; drop the oldest turns that no longer fit, and return how many.

        Up to half of the context is for the answer. UserError where the message alone does not fit; nothing changes.
        """
        context, turns = self.model.config.context_length, [*self.turns, ("user", user)]
        room = context - min(self.options.max_tokens, context // 2) + 1
        n_dropped = 0
        while (length := len(self._ids(turns[n_dropped:]))) > room and n_dropped < len(turns) - 1:
            n_dropped += 2  # a question and its answer
        if length > room:
            raise UserError(f"expected a message of at most {room} tokens with its template, got {length}")
        self.turns = turns[n_dropped:]
        return n_dropped // 2

    def answer(self, out: TextIO) -> None:
        """Print the answer to the last message and add it to the conversation; Ctrl-C cuts it short."""
        options, ids = self.options, self._ids(self.turns)
        n_tokens = min(options.max_tokens, self.model.config.context_length - len(ids) + 1)
        choose = sampler(SamplingParams(options.temperature, top_p=options.top_p), self._generator)
        stop_ids = self.tokenizer.eos_ids | {self.tokenizer.special[IM_END]}
        pieces = []
        with suppress(KeyboardInterrupt):
            for piece in stream_text(generate(self.model, ids, n_tokens, choose, stop_ids), self.tokenizer.decode):
                pieces.append(piece)
                print(piece, end="", file=out, flush=True)
        self.turns.append(("assistant", "".join(pieces)))
        print(file=out, flush=True)

    def _ids(self, turns: list[Message]) -> list[int]:
        system = [("system", self.options.system)] if self.options.system else []
        return conversation_ids(self.tokenizer, [*system, *turns])


def chat(folder: Path, options: GenerationOptions, lines: TextIO, out: TextIO, message: str | None = None) -> None:
    """Answer one message, of any number of lines; without it, line after line until /quit or the end."""
    model, tokenizer, chats = load(folder)
    if not chats:
        raise UserError(f"{folder}: expected a model with a chat template, got none; use: python -m llm generate")
    conversation = Conversation(model, tokenizer, options)
    if message is not None:
        conversation.add_user(message)
        conversation.answer(out)
        return
    for line in _read(lines, out):
        match line.strip():
            case "":
                continue
            case "/quit":
                return
            case "/new":
                conversation.reset()
                print("(a new conversation)", file=out, flush=True)
            case user:
                try:
                    if n_dropped := conversation.add_user(user):
                        print(f"(the context is full: the oldest {n_dropped} turns were dropped)", file=out)
                    conversation.answer(out)
                except UserError as error:
                    print(f"({error})", file=out, flush=True)


def _read(lines: TextIO, out: TextIO) -> Iterator[str]:
    """Yield the lines of a pipe, or those typed at a prompt."""
    if isinstance(lines, TextIOWrapper):  # bytes that are not valid text are replaced, as in files
        lines.reconfigure(errors="replace")
    if not lines.isatty():
        yield from lines
        return
    import readline  # noqa: F401 (gives input() a history and arrow keys)

    print("/new starts over, /quit or Ctrl-D ends, Ctrl-C ends an answer", file=out)
    while True:
        try:
            yield input("> ")
        except KeyboardInterrupt:
            print()
        except EOFError:
            print()
            return
