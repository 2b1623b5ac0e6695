"""What the tests of GGUF files share: llama.cpp in another process, tokenizers with other split patterns."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from llm.export import llama_cpp
from llm.export.llama_cpp import ask
from llm.tokens.bpe import train_bpe

TEXT = "def walk(path):\n    return [name for name in path if name]\n\nThe river runs, the rain falls; 2024 déjà vu.\n"


@pytest.fixture(scope="session")
def other_process():
    """A process for llama.cpp, which may wait for ever while a server is taken down."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        yield process


@pytest.fixture
def one_process(other_process, monkeypatch):
    """llama.cpp in a process that the tests share: starting one takes longer than all that it is asked."""
    monkeypatch.setattr(
        llama_cpp, "_in_own_process", lambda file, *asked: other_process.submit(ask, str(file), 1, *asked).result()
    )


@pytest.fixture(scope="session")
def tokenizer_of(tmp_path_factory):
    """A writer of tokenizer.json files of 320 tokens with other split patterns."""

    def train(pattern: str):
        path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
        train_bpe([TEXT] * 4, 320, pattern).save(str(path))
        return path

    return train
