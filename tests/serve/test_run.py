"""What is wrong with a start is one line, before anything is loaded or bound."""

import importlib.util
import os
import socket

import pytest

from llm.core.errors import UserError
from llm.serve import run
from llm.serve.run import bind, load, name_of, serve


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_a_missing_package_is_named(monkeypatch, tmp_path, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(UserError, match=f"expected the package {missing}, it is not installed \\(make extras\\)"):
        serve(tmp_path, "127.0.0.1", 0, 1, public=False)


def test_a_host_that_others_reach_is_refused_unless_it_is_meant(tmp_path):
    with pytest.raises(UserError, match=r"--host: expected 127\.0\.0\.1 or localhost, or --public beside it"):
        serve(tmp_path, "0.0.0.0", 0, 1, public=False)  # noqa: S104 (it is refused)
    with pytest.raises(UserError, match=r"no config\.json"):
        serve(tmp_path, "0.0.0.0", 0, 1, public=True)  # noqa: S104 (it is not reached)


def test_a_port_that_is_taken_is_named():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port: expected a free one on 127.0.0.1, got {port}"):
            bind("127.0.0.1", port)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))


def test_a_tokenizer_that_is_larger_than_the_model_is_refused(tmp_path, draw_gpt, small_tokenizer_file):
    from llm.export.hf.folder import write_folder

    write_folder(tmp_path, draw_gpt(vocab_size=310), small_tokenizer_file)
    with pytest.raises(UserError, match="at most the model's 310 tokens, got 320"):
        load(tmp_path)


def test_the_name_of_any_folder_is_valid_text(tmp_path):
    assert name_of(tmp_path / "река") == "река"
    assert name_of(tmp_path / os.fsdecode(b"m\xff")) == "m\ufffd"


def test_a_folder_without_our_special_tokens_is_served(tmp_path, draw_gpt, small_tokenizer_file):
    """No <|pad|>, no <|im_end|>: what others' folders have is enough to generate."""
    from fastapi.testclient import TestClient
    from transformers import AutoTokenizer

    from llm.export.hf.folder import write_folder
    from llm.serve.app import make_app, serve_model

    write_folder(tmp_path, draw_gpt(), small_tokenizer_file)
    text = (tmp_path / "tokenizer.json").read_text().replace("<|pad|>", "<fill>").replace("<|im_end|>", "<over>")
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 5}')
    model, tokenizer = load(tmp_path)
    assert (model.config.vocab_size, tokenizer.eos_ids) == (320, {0, 5})
    with TestClient(make_app(serve_model("others", model, tokenizer, False, 1))) as client:
        body = {"model": "others", "prompt": "The rain", "max_tokens": 8, "temperature": 0}
        answer = client.post("/v1/completions", json=body).json()
    assert answer["usage"]["prompt_tokens"] == len(AutoTokenizer.from_pretrained(tmp_path)("The rain")["input_ids"])
