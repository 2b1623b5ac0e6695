"""What the tests of the server share: a model that never ends a text by itself, a folder and a server of it."""

from pathlib import Path

import pytest


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
def web(talker, tokenizer):
    """A client of the app in this process, with 8 slots."""
    pytest.importorskip("fastapi", reason="FastAPI is not installed (make extras)")
    from fastapi.testclient import TestClient

    from llm.serve.app import make_app
    from llm.serve.exchange import Served

    with TestClient(make_app(Served("talker", talker, tokenizer, True, 8)), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def client(web):
    """OpenAI's own client of it."""
    openai = pytest.importorskip("openai", reason="OpenAI's client is not installed (make extras)")
    return openai.OpenAI(base_url="http://testserver/v1", api_key="none", max_retries=0, http_client=web)
