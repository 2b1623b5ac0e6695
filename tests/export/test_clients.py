"""Every file of an export is loaded by the client that it is for, and one of another model is named."""

import shutil

import pytest
from typer.testing import CliRunner

from llm.__main__ import app
from llm.errors import UserError
from llm.export.clients import verify_export
from llm.export.gguf import write_gguf


@pytest.fixture
def folder(tmp_path, exported_folder, draw_gpt, small_tokenizer_file):
    """An export with two GGUF files."""
    shutil.copytree(exported_folder, tmp_path / "export")
    for format_ in ("gguf-f32", "gguf-q8_0"):
        write_gguf(tmp_path / "export/gguf", draw_gpt(), small_tokenizer_file, format_)
    return tmp_path / "export"


def test_verify_export_shows_every_file_and_no_fault(folder, one_process):
    shown = CliRunner().invoke(app, ["verify-export", str(folder)], catch_exceptions=False)
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["model.safetensors", "Transformers"],
        ["model-f32.gguf", "llama.cpp"],
        ["model-q8_0.gguf", "llama.cpp"],
    ]
    assert lines[2].split()[4] == "0.0001" and lines[3].split()[4] == "–"
    assert lines[2].endswith("0 of 20")


def test_verify_export_names_the_file_of_another_model(folder, draw_gpt, small_tokenizer_file, one_process):
    write_gguf(folder / "gguf", draw_gpt(seed=2), small_tokenizer_file, "gguf-f32")
    table, wrong = verify_export(folder, 1)
    assert wrong == ["model-f32.gguf"]
    assert len(table.splitlines()) == 4
    shown = CliRunner().invoke(app, ["verify-export", str(folder)])
    assert isinstance(shown.exception, UserError)
    assert str(shown.exception).endswith("model-f32.gguf is not within it")
