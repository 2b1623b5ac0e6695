"""`python -m llm serve`: load a folder, bind a port, serve until Ctrl-C."""

import asyncio
import contextlib
import importlib.util
import os
import socket
from pathlib import Path

from llm.core.device import memory_advice
from llm.core.errors import UserError
from llm.export.hf.base import open_model
from llm.model.gpt import GPT
from llm.serve.chat import can_chat, foreign_template
from llm.tokens.tokenizer import Tokenizer

LOCAL = ("127.0.0.1", "localhost")
GRACE_SECONDS, POLL_SECONDS = 3, 0.1  # for the last responses after Ctrl-C; between checks for a Ctrl-C


def serve(folder: Path, host: str, port: int, n_slots: int, public: bool) -> None:
    """Serve the model of a Hugging Face folder until Ctrl-C; port 0 is a free one, which the first line names.

    UserError without FastAPI or uvicorn, for a host that others reach unless `public`, and for a port in use.
    """
    for library in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(library) is None:
            raise UserError(f"serve: expected the package {library}, it is not installed (make extras)")
    if host not in LOCAL and not public:
        raise UserError(f"--host: expected {' or '.join(LOCAL)}, or --public beside it, got {host}")
    import uvicorn

    from llm.serve.app import make_app
    from llm.serve.served import Served

    model, tokenizer = load(folder)
    name = name_of(folder)
    with memory_advice(f"try fewer --slots than {n_slots}"):
        served = Served(name, model, tokenizer, can_chat(folder), n_slots)
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


def name_of(folder: Path) -> str:
    """Return a folder's name as text: it may be any bytes, and a response cannot hold those."""
    return os.fsencode(folder.resolve().name).decode(errors="replace")


def load(folder: Path) -> tuple[GPT, Tokenizer]:
    """Load the model and the tokenizer of a folder; UserError where they do not fit, or the model is not causal."""
    model, tokenizer = open_model(folder)
    if reason := model.config.non_causal_reason:
        raise UserError(f"{folder}: {reason}")
    tokenizer.encode_chat = foreign_template(folder)
    return model, tokenizer


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; clients that connect before the server runs wait."""
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise UserError(f"--port: expected a free one on {host}, got {port}: {error.strerror}") from None
