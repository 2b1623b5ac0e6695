"""The stages export and convert write folders that other software loads, or the reason why not."""

import json
from pathlib import Path

import pytest
import tokenizers
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm.core.errors import UserError
from llm.export import verify
from llm.export.hf.classifier import ClassifierInfo, write_classifier
from llm.export.hf.folder import FILES, write_folder
from llm.export.params import ExportParams
from llm.finetune.shared.chat import TEMPLATE
from llm.model.classifier import Classifier
from llm.model.weights import save_model
from llm.tokens.tokenizer import Tokenizer
from stages import convert, export


@pytest.fixture
def run(tmp_path, draw_gpt, small_tokenizer_file):
    """A function that exports drawn weights into a folder; returns the metrics."""

    def run_export(folder: Path, *formats: str, **shape: object) -> dict:
        save_model(tmp_path / "pretrained", draw_gpt(**shape))
        outputs = {name: folder / name for name in ("hf", "gguf", "onnx")} | {"metrics": folder / "export.json"}
        params = ExportParams(formats=list(formats))
        export.main(seed=1, export=params, weights=tmp_path / "pretrained", tokenizer=small_tokenizer_file, **outputs)
        return json.loads((folder / "export.json").read_text())

    return run_export


def skipped(folder: Path) -> str:
    (path,) = folder.iterdir()
    assert path.name == "skipped.json"
    return json.loads(path.read_text())["skipped"]


@torch.no_grad()
def test_transformers_loads_the_pretrained_model(tmp_path, run, draw_gpt):
    metrics = run(tmp_path / "out")
    folder = tmp_path / "out/hf"
    assert {path.name for path in folder.iterdir()} == {*FILES}
    assert skipped(tmp_path / "out/gguf") == "gguf is not in export.formats"
    ids = torch.arange(6, 46)[None]
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(theirs(ids).logits, draw_gpt()(ids), atol=1e-4, rtol=0)
    assert metrics["max_logit_difference"] < 1e-4
    assert metrics["tokenization_mismatches"] == 0
    assert metrics["bytes"] == sum((folder / name).stat().st_size for name in FILES)
    assert metrics["gguf"] == metrics["onnx"] == {}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer("The rain")["input_ids"][0] == library.encode("The rain").ids[0] == tokenizer.bos_token_id == 0


def test_a_second_run_writes_the_same_bytes(tmp_path, run):
    for name in ("first", "second"):
        run(tmp_path / name, "gguf-f16", "gguf-f32")
    files = [path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file()]
    assert len(files) == len(FILES) + 5
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.parametrize("shape", [{"family": "gru"}, {"attention": "simplified"}, {"positions": "none"}], ids=str)
def test_a_shape_without_architecture_is_skipped(tmp_path, run, shape):
    formats = ("onnx",) if "positions" in shape else ()
    metrics = run(tmp_path / "out", *formats, n_layers=1, **shape)
    assert metrics["skipped"] == skipped(tmp_path / "out/hf")
    assert "for which Transformers has an architecture, got" in metrics["skipped"]
    assert metrics["gguf"] == {} and bool(metrics["onnx"]) == bool(formats)


def test_other_token_ids_in_transformers_are_refused(tmp_path, run, small_tokenizer_file, monkeypatch):
    ours = Tokenizer.load(small_tokenizer_file)
    monkeypatch.setattr(verify, "open_tokenizer", lambda folder: ours)
    monkeypatch.setattr(ours, "encode", lambda text: [7])
    with pytest.raises(UserError, match="10 of 10 texts with other ids, 5 of 25 other texts") as caught:
        run(tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/export.json").exists()


@pytest.fixture
def run_convert(tmp_path):
    """A function that converts the folder `model`; returns the metrics."""

    def run_stage(*formats: str) -> dict:
        outputs = {name: tmp_path / "out" / name for name in ("gguf", "onnx", "metrics")}
        params = ExportParams(formats=list(formats))
        convert.main(seed=1, export=params, name="task", model=tmp_path / "model", **outputs)
        return json.loads((tmp_path / "out/metrics").read_text())

    return run_stage


def test_a_finetuned_model_is_converted(tmp_path, run_convert, draw_gpt, small_tokenizer_file):
    write_folder(tmp_path / "model", draw_gpt(), small_tokenizer_file, chat_template=TEMPLATE)
    metrics = run_convert("gguf-f16")
    assert metrics["gguf"]["gguf-f16"]["tokenization_mismatches"] == 0
    assert "<|im_start|>" in (tmp_path / "out/gguf/Modelfile").read_text()
    assert skipped(tmp_path / "out/onnx") == "onnx is not in export.formats"


def test_a_classifier_or_a_skipped_task_is_not_converted(tmp_path, run_convert, draw_gpt, small_tokenizer_file):
    info = ClassifierInfo(["a", "b"], ["text"], None, 16)
    write_classifier(tmp_path / "model", Classifier(draw_gpt(), 2), small_tokenizer_file, info)
    assert run_convert("gguf-f16")["skipped"] == skipped(tmp_path / "out/gguf") == skipped(tmp_path / "out/onnx")
    (tmp_path / "model/skipped.json").write_text('{"skipped": "no rows"}')
    assert run_convert("gguf-f16") == {"skipped": "no rows"}
