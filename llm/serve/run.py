"""`python -m llm serve`: a folder is loaded, a port is bound, and uvicorn serves until Ctrl-C."""

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
from llm.serve.chat import can_chat, conversation_of_others
from llm.tokens.tokenizer import Tokenizer

LOCAL = ("127.0.0.1", "localhost")
GRACE_SECONDS, TICK_SECONDS = 3, 0.1  # for aborted answers to be told so after Ctrl-C; between looks for a Ctrl-C


def serve(folder: Path, host: str, port: int, n_slots: int, public: bool) -> None:
    """Serve the model of a Hugging Face folder until Ctrl-C; port 0 is a free one, the first line says which.

    UserError without FastAPI or uvicorn, for a host that others reach unless `public`, for a port that is taken.
    """
    for library in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(library) is None:
            raise UserError(f"serve: wanted the package {library}, it is not installed (make extras)")
    if host not in LOCAL and not public:
        raise UserError(f"--host: wanted {' or '.join(LOCAL)}, or --public beside it, given {host}")
    import uvicorn

    from llm.serve.app import make_app, serve_model

    model, tokenizer = load(folder)
    name = name_of(folder)
    with memory_advice(f"try fewer --slots than {n_slots}"):
        served = serve_model(name, model, tokenizer, can_chat(folder), n_slots)
    with bind(host, port) as listening:
        print(f"{name} on http://{host}:{listening.getsockname()[1]}/v1, Ctrl-C ends it", flush=True)
        settings = uvicorn.Config(make_app(served), log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS)
        server = uvicorn.Server(settings)

        async def work() -> None:
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            while not server.should_exit:
                await asyncio.sleep(TICK_SECONDS)
            await asyncio.to_thread(served.engine.close)  # else uvicorn would wait for long answers
            await serving

        # uvicorn ends in order, and then hands the Ctrl-C on.
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(work())


def name_of(folder: Path) -> str:
    """Return a folder's name as text: it may be any bytes, and an answer cannot hold those."""
    return os.fsencode(folder.resolve().name).decode(errors="replace")


def load(folder: Path) -> tuple[GPT, Tokenizer]:
    """The model and the tokenizer of a folder; UserError where the tokenizer has ids that the model does not."""
    model, tokenizer = open_model(folder)
    tokenizer.encode_chat = conversation_of_others(folder)
    return model, tokenizer


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; who connects before the server runs waits a moment."""
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise UserError(f"--port: wanted one that is free on {host}, given {port}: {error.strerror}") from None
