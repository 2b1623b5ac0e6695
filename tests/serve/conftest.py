"""What the tests of the server share: a model that never ends a text by itself, a server process of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def talker(draw_gpt):
    """A model of 320 tokens and a context of 1,024 whose special tokens are far too unlikely to be drawn."""
    import torch

    model = draw_gpt(context_length=1024, tie_embeddings=False).eval()
    with torch.no_grad():
        model.head.weight.mul_(4)
        model.head.weight[:6] = 0
    return model


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory, talker, small_tokenizer_file) -> Path:
    """That model as a folder with a chat template. Only to be read."""
    from llm.export.hf.folder import write_folder
    from llm.finetune.shared.chat import TEMPLATE

    folder = tmp_path_factory.mktemp("chat") / "talker"
    write_folder(folder, talker, small_tokenizer_file, chat_template=TEMPLATE)
    return folder


@pytest.fixture(scope="session")
def start_server():
    """A starter of server processes on free ports; gives the process and its address, and ends it."""
    for library in ("fastapi", "uvicorn"):
        pytest.importorskip(library, reason=f"{library} is not installed (make extras)")
    started = []

    def start(folder: Path, *options: str) -> tuple[subprocess.Popen, str]:
        command = [sys.executable, "-m", "llm", "serve", str(folder), "--port", "0", *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        line = process.stdout.readline()
        assert " on http://127.0.0.1:" in line, process.stderr.read()
        return process, line.split(" on ")[1].split("/v1")[0]

    yield start
    for process in started:
        process.terminate()
    for process in started:
        process.communicate(timeout=20)


@pytest.fixture(scope="session")
def address(start_server, chat_folder) -> str:
    """Where a server of that model answers, with 8 slots."""
    return start_server(chat_folder, "--slots", "8")[1]


@pytest.fixture
def client(address):
    """OpenAI's own client of it."""
    openai = pytest.importorskip("openai", reason="OpenAI's client is not installed (make extras)")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client
