"""Every file of an export is loaded by the client that it is for, and one of another model is named."""

import shutil

import pytest
import torch
from typer.testing import CliRunner

from llm.__main__ import app
from llm.core.errors import UserError
from llm.export.clients import verify_export
from llm.export.gguf import write_gguf
from llm.export.hf.classifier import ClassifierInfo, write_classifier
from llm.export.hf.folder import write_folder
from llm.model.classifier import Classifier

TEXT = "The river runs, the rain falls; 2024 déjà vu. <|endoftext|>\n" * 3


@pytest.fixture
def folder(tmp_path, exported_folder, draw_gpt, small_tokenizer_file):
    """An export with two GGUF files."""
    shutil.copytree(exported_folder, tmp_path / "export")
    for format_ in ("gguf-f32", "gguf-q8_0"):
        write_gguf(tmp_path / "export/gguf", draw_gpt(), small_tokenizer_file, format_)
    return tmp_path / "export"


def test_verify_export_shows_every_file_and_no_fault(folder, one_process, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where there is no corpus
    shown = CliRunner().invoke(app, ["verify-export", str(folder)], catch_exceptions=False)
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["model.safetensors", "Transformers"],
        ["model-f32.gguf", "llama.cpp"],
        ["model-q8_0.gguf", "llama.cpp"],
    ]
    assert [line.split()[5] for line in lines[1:]] == ["1e-06", "1e-06", "0.05"]
    assert lines[1].split()[-7:] == ["0", "of", "10", "0", "of", "25", "–"]
    assert lines[2].split()[-4:] == ["0", "of", "25", "–"]


def test_a_text_is_read_by_every_tokenizer_and_costs_more_after_rounding(folder, one_process):
    table, wrong = verify_export(folder, 1, TEXT)
    assert wrong == []
    transformers, exact, rounded = (line.split() for line in table.splitlines()[1:])
    assert transformers[6:9] == ["0", "of", "11"]
    assert exact[6:9] == rounded[6:9] == ["0", "of", "22"]
    assert abs(float(exact[-1])) < 1e-4
    assert 1e-4 < abs(float(rounded[-1])) < 1


def test_a_long_text_is_asked_in_parts(folder, one_process):
    (folder / "gguf/model-q8_0.gguf").unlink()
    table, wrong = verify_export(folder, 1, "déjà vu " * 10_000)
    assert wrong == []
    assert table.splitlines()[2].split()[6:9] == ["0", "of", "23"]


def test_what_only_this_project_reads_has_a_row_without_figures(tmp_path, draw_gpt, small_tokenizer_file):
    write_folder(tmp_path, draw_gpt(family="gru"), small_tokenizer_file)
    table, wrong = verify_export(tmp_path, 1)
    _, row, note = table.splitlines()
    assert row.split() == ["model.safetensors", "Transformers", *["–"] * 7]
    assert note.startswith("model.safetensors is not for Transformers: wanted a model that Transformers knows")
    assert wrong == []


@pytest.fixture
def classifier(tmp_path, draw_gpt, small_tokenizer_file):
    """A writer of a classifier of three labels, whose scores are drawn."""

    def write(**shape):
        model = Classifier(draw_gpt(**shape), 3)
        with torch.no_grad():
            model.score.weight.normal_(generator=torch.Generator().manual_seed(7))
        info = ClassifierInfo(["rain", "river", "sun"], ["text"], None, 40)
        write_classifier(tmp_path, model, small_tokenizer_file, info)
        return tmp_path

    return write


@pytest.mark.parametrize(
    "shape", [{}, {"family": "qwen2"}, {"family": "gpt2", "n_kv_heads": 2, "tie_embeddings": False}]
)
def test_a_classifier_is_held_against_transformers(classifier, shape):
    folder = classifier(**shape)
    table, wrong = verify_export(folder, 1, TEXT)
    (row,) = (line.split() for line in table.splitlines()[1:])
    assert row[:2] == ["model.safetensors", "Transformers"]
    assert row[6:] == ["0", "of", "6", "–", "–"]
    assert 0 <= float(row[3]) <= 1e-4
    assert wrong == []


def test_another_frame_around_a_text_is_noticed(classifier, monkeypatch):
    from llm.export import verify

    folder = classifier()
    monkeypatch.setattr(verify, "frame", lambda texts, special, most: texts[0][:most])
    table, wrong = verify_export(folder, 1)
    assert wrong == ["model.safetensors"]
    assert "5 of 5" in table


def test_a_classifier_in_our_own_words_is_not_for_transformers(classifier):
    table, wrong = verify_export(classifier(positions="sinusoidal"), 1)
    assert table.splitlines()[-1].endswith("model.positions rope for qwen3, given sinusoidal")
    assert wrong == []


def test_verify_export_names_the_file_of_another_model(
    folder, draw_gpt, small_tokenizer_file, one_process, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    write_gguf(folder / "gguf", draw_gpt(seed=2), small_tokenizer_file, "gguf-f32")
    table, wrong = verify_export(folder, 1)
    assert wrong == ["model-f32.gguf"]
    assert len(table.splitlines()) == 4
    shown = CliRunner().invoke(app, ["verify-export", str(folder)])
    assert isinstance(shown.exception, UserError)
    assert str(shown.exception).endswith("model-f32.gguf is not within it")
