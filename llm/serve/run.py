"""`python -m llm serve`: load a folder, bind a port, serve until Ctrl-C."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm.core.device import memory_advice
from llm.core.errors import UserError
from llm.export.formats import missing_package
from llm.export.hf.base import open_model
from llm.export.hf.folder import CHAT_TEMPLATE
from llm.export.hf.tensors import read_object
from llm.finetune.shared.chat import TEMPLATE
from llm.model.gpt import GPT
from llm.serve.errors import RequestError
from llm.tokens.tokenizer import Tokenizer

LOCAL = ("127.0.0.1", "localhost")
GRACE_SECONDS, POLL_SECONDS = 3, 0.1  # for the last responses after Ctrl-C; between checks for a Ctrl-C
Message = tuple[str, str]  # role and content


class TemplateError(RequestError, UserError):
    """Messages that a folder's template refuses, such as a system message."""


def serve(folder: Path, host: str, port: int, n_slots: int, public: bool) -> None:
    """Serve the model of a Hugging Face folder until Ctrl-C; port 0 is a free one, which the first line names."""
    if reason := missing_package("fastapi", "uvicorn"):
        raise UserError(f"serve: {reason}")
    if host not in LOCAL and not public:
        raise UserError(f"--host: expected {' or '.join(LOCAL)}, or --public beside it, got {host}")
    import uvicorn

    from llm.serve.app import make_app
    from llm.serve.exchange import Served

    model, tokenizer, chats = load(folder)
    # A folder's name may be any bytes, which a response cannot hold.
    name = os.fsencode(folder.resolve().name).decode(errors="replace")
    with memory_advice(f"try fewer --slots than {n_slots}"):
        served = Served(name, model, tokenizer, chats, n_slots)
    with bind(host, port) as listening:
        print(f"{name} on http://{host}:{listening.getsockname()[1]}/v1, Ctrl-C ends it", flush=True)
        settings = uvicorn.Config(make_app(served), log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS)
        server = uvicorn.Server(settings)

        async def work() -> None:
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            while not server.should_exit:
                await asyncio.sleep(POLL_SECONDS)
            await asyncio.to_thread(served.engine.close)  # otherwise uvicorn would wait for long responses
            await serving

        # uvicorn raises the Ctrl-C again after an orderly end.
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(work())


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; clients that connect before the server runs wait."""
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise UserError(f"--port: expected a free one on {host}, got {port}: {error.strerror}") from None


def load(folder: Path) -> tuple[GPT, Tokenizer, bool]:
    """Load a folder's model, its tokenizer, and whether it has a chat template; UserError where these do not fit."""
    model, tokenizer = open_model(folder)
    if reason := model.config.non_causal_reason:
        raise UserError(f"{folder}: {reason}")
    file, config = folder / CHAT_TEMPLATE, folder / "tokenizer_config.json"
    # In older folders the template is a part of tokenizer_config.json.
    template = read_object(config).get("chat_template") if config.is_file() else None
    if file.is_file():
        template = file.read_text(encoding="utf-8")
    if isinstance(template, str) and template.strip() != TEMPLATE:
        tokenizer.encode_chat = _foreign_template(folder)
    return model, tokenizer, isinstance(template, str)


def _foreign_template(folder: Path) -> Callable[[list[Message]], list[int]]:
    """Return a function that encodes messages as Transformers renders the folder's template.

    Our own template is written as ids instead, so that a marker inside a message is ordinary text.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def encode(messages: list[Message]) -> list[int]:
        turns = [{"role": role, "content": content} for role, content in messages]
        try:
            ids: list[int] = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        except Exception as error:  # a template may raise anything
            reason = " ".join(str(error).split())
            raise TemplateError(f"expected messages that {folder.name}'s chat template takes, got: {reason}") from None
        return ids

    return encode
