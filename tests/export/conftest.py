"""Shared by the tests of exports: shapes of each family, llama.cpp in another process, tokenizers of other patterns."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from llm.export import llama_cpp
from llm.export.onnx import write_onnx
from llm.tokens.bpe import train_bpe

TEXT = "def walk(path):\n    return [name for name in path if name]\n\nThe river runs, the rain falls; 2024 déjà vu.\n"
LARGE = {"d_model": 48, "n_heads": 6, "n_kv_heads": 2, "n_layers": 3}
# Head counts, widths and layers that differ from each other, so that a swapped axis cannot pass.
SHAPES = {
    "tied": {},
    "untied, layers of two digits": {"tie_embeddings": False, "n_layers": 11},
    "grouped queries": LARGE | {"rope_theta": 500.0},
    "more rows than tokens": {"vocab_size": 333},
    "one wide head": {"attention": "causal"},
    "heads of another width": {"head_width": 14},
    "qwen2": {"family": "qwen2"} | LARGE,
    "llama, untied": {"family": "llama", "tie_embeddings": False} | LARGE,
    "llama, many heads": {"family": "llama", "attention": "multi_head", "d_model": 30, "n_heads": 3},
    "gpt2": {"family": "gpt2", "n_kv_heads": 2, "n_layers": 3, "norm_eps": 1e-3},
    "gpt2, untied": {"family": "gpt2", "d_model": 30, "n_heads": 3, "n_kv_heads": 3, "tie_embeddings": False},
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def shape(request):
    """A shape that other software has an architecture for."""
    return request.param


@pytest.fixture(scope="session")
def other_process():
    """A process for llama.cpp, which may block for ever while a server is destroyed."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        yield process


@pytest.fixture
def one_process(other_process, monkeypatch):
    """Have all tests use one process for llama.cpp: starting one takes longest."""
    serve = llama_cpp.serve_file
    monkeypatch.setattr(llama_cpp, "serve_file", lambda file, context, _: serve(file, context, other_process))


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory, draw_gpt):
    """The graph of a small model, which takes seconds to trace. Only to be read."""
    return write_onnx(tmp_path_factory.mktemp("onnx") / "new", draw_gpt())


@pytest.fixture(scope="session")
def tokenizer_of(tmp_path_factory):
    """A function that writes a tokenizer.json of 320 tokens with another split pattern."""

    def train(pattern: str):
        path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
        train_bpe([TEXT] * 4, 320, pattern).save(str(path))
        return path

    return train
