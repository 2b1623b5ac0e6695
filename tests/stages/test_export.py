"""The export stage writes a folder that Transformers loads, or nothing at all."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from llm.errors import UserError
from llm.export.huggingface import FILES
from llm.text.tokenizer import Tokenizer
from llm.train.checkpoint import save_model
from stages.export import main

OPTIONS = ("config", "model", "generation", "tokenizer_copy", "tokenizer_config")


@pytest.fixture
def weights(tmp_path, draw_gpt) -> Path:
    save_model(tmp_path / "pretrained", draw_gpt())
    return tmp_path / "pretrained"


def _export(weights: Path, tokenizer: Path, folder: Path, **other: Path) -> dict:
    outputs = {option: folder / name for option, name in zip(OPTIONS, FILES, strict=True)} | other
    main(seed=1, weights=weights, tokenizer=tokenizer, metrics=folder.parent / "export.json", **outputs)
    return json.loads((folder.parent / "export.json").read_text())


@torch.no_grad()
def test_transformers_loads_what_was_pretrained(tmp_path, weights, draw_gpt, small_tokenizer_file):
    metrics = _export(weights, small_tokenizer_file, tmp_path / "out/export")
    folder = tmp_path / "out/export"
    assert {path.name for path in folder.iterdir()} == set(FILES)
    ids = torch.arange(6, 46)[None]
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(theirs(ids).logits, draw_gpt()(ids), atol=1e-4, rtol=0)
    assert metrics["max_logit_difference"] < 1e-4
    assert metrics["texts_with_other_ids"] == 0
    assert metrics["bytes"] == sum(path.stat().st_size for path in folder.iterdir())


def test_a_second_run_writes_the_same_bytes(tmp_path, weights, small_tokenizer_file):
    for name in ("first", "second"):
        _export(weights, small_tokenizer_file, tmp_path / name / "export")
    for name in (*FILES, "../export.json"):
        assert (tmp_path / "first/export" / name).read_bytes() == (tmp_path / "second/export" / name).read_bytes()


def test_a_tokenizer_that_transformers_reads_otherwise_is_refused(tmp_path, weights, small_tokenizer_file, monkeypatch):
    ours = Tokenizer.load(small_tokenizer_file)
    monkeypatch.setattr(Tokenizer, "load", lambda path: ours)
    monkeypatch.setattr(ours, "encode", lambda text: [7])
    with pytest.raises(UserError, match="5 texts with other ids") as caught:
        _export(weights, small_tokenizer_file, tmp_path / "out/export")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/export.json").exists()


@pytest.mark.parametrize("other", ["elsewhere/model.safetensors", "export/weights.safetensors"])
def test_files_that_make_no_one_folder_are_refused(tmp_path, weights, small_tokenizer_file, other):
    with pytest.raises(UserError, match="in one folder") as caught:
        _export(weights, small_tokenizer_file, tmp_path / "export", model=tmp_path / other)
    assert str(tmp_path / other) in str(caught.value)


def test_weights_that_are_not_there_are_one_line(tmp_path, small_tokenizer_file):
    with pytest.raises(UserError, match=r"config\.json") as caught:
        _export(tmp_path / "nothing", small_tokenizer_file, tmp_path / "export")
    assert "\n" not in str(caught.value)
