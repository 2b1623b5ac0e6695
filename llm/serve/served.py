"""The model that a server has: its engine, its card, and clients' texts as ids that fit its context."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from llm.finetune.shared.chat import conversation_ids
from llm.model.gpt import GPT
from llm.serve.engine import Engine
from llm.serve.errors import RequestError, shorten
from llm.tokens.special import IM_END
from llm.tokens.tokenizer import Tokenizer

Result = TypeVar("Result")


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
