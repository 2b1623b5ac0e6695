"""The stages export and convert write folders that other software loads, or the reason why not."""

import json
from pathlib import Path

import pytest

from llm.core.errors import UserError
from llm.export import convert as formats
from llm.export import verify
from llm.export.formats import ExportParams
from llm.export.hf.classifier import ClassifierInfo, write_classifier
from llm.export.hf.folder import FILES, write_folder
from llm.export.verify import Parity
from llm.finetune.shared.chat import TEMPLATE
from llm.model.classifier import Classifier
from llm.model.weights import save_model
from llm.tokens.tokenizer import Tokenizer
from stages import convert, export


@pytest.fixture
def chats(monkeypatch):
    """The chats that llama.cpp was compared with; it and ONNX Runtime agree, and no graph is traced."""
    found: list[object] = []

    def agree(*_: object, chat: object = None) -> Parity:
        found.append(chat)
        return Parity("llama.cpp", 0.0, 0.0, 0, 1, 0, 1)

    def write_graph(folder: Path, model: object) -> None:
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"a graph")

    for name in ("compare_with_llama_cpp", "compare_with_onnxruntime"):
        monkeypatch.setattr(formats, name, agree)
    monkeypatch.setattr(formats, "write_onnx", write_graph)
    return found


@pytest.fixture
def run(tmp_path, draw_gpt, small_tokenizer_file, chats):
    """A function that exports drawn weights into a folder; returns the metrics."""

    def run_export(folder: Path, *names: str, **shape: object) -> dict:
        save_model(tmp_path / "pretrained", draw_gpt(**shape))
        outputs = {name: folder / name for name in ("hf", "gguf", "onnx")} | {"metrics": folder / "export.json"}
        params = ExportParams(formats=list(names))
        export.main(seed=1, export=params, weights=tmp_path / "pretrained", tokenizer=small_tokenizer_file, **outputs)
        return json.loads((folder / "export.json").read_text())

    return run_export


def skipped(folder: Path) -> str:
    return json.loads((folder / "skipped.json").read_text())["skipped"]


def test_a_second_run_writes_the_same_bytes(tmp_path, run):
    first, second = (run(tmp_path / name, "gguf-f16", "gguf-f32") for name in ("first", "second"))
    assert {path.name for path in (tmp_path / "first/hf").iterdir()} == {*FILES}
    assert skipped(tmp_path / "first/onnx") == "onnx is not in export.formats"
    assert first == second and first["max_logit_difference"] < 1e-4 and first["tokenization_mismatches"] == 0
    assert first["bytes"] == sum((tmp_path / "first/hf" / name).stat().st_size for name in FILES)
    assert (first["gguf"].keys(), first["onnx"]) == ({"gguf-f16", "gguf-f32"}, {})
    files = [path for path in (tmp_path / "first").rglob("*") if path.is_file()]
    assert len(files) == len(FILES) + 5
    for path in files:
        assert path.read_bytes() == (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes()


@pytest.mark.parametrize("shape", [{"family": "gru"}, {"attention": "simplified"}, {"positions": "none"}], ids=str)
def test_a_shape_without_architecture_is_skipped(tmp_path, run, shape):
    names = ("onnx",) if "positions" in shape else ()
    metrics = run(tmp_path / "out", *names, n_layers=1, **shape)
    assert metrics["skipped"] == skipped(tmp_path / "out/hf")
    assert "for which Transformers has an architecture, got" in metrics["skipped"]
    assert metrics["gguf"] == {} and bool(metrics["onnx"]) == bool(names)


def test_other_token_ids_in_transformers_are_refused(tmp_path, run, small_tokenizer_file, monkeypatch):
    ours = Tokenizer.load(small_tokenizer_file)
    monkeypatch.setattr(verify, "open_tokenizer", lambda folder: ours)
    monkeypatch.setattr(ours, "encode", lambda text: [7])
    with pytest.raises(UserError, match="10 of 10 texts with other ids, 5 of 25 other texts"):
        run(tmp_path / "out")
    assert not (tmp_path / "out/export.json").exists()


def test_models_that_answer_are_converted_and_no_others(tmp_path, chats, draw_gpt, small_tokenizer_file):
    def run_convert() -> dict:
        outputs = {name: tmp_path / "out" / name for name in ("gguf", "onnx", "metrics")}
        params = ExportParams(formats=["gguf-f16"])
        convert.main(seed=1, export=params, name="task", model=tmp_path / "model", **outputs)
        return json.loads((tmp_path / "out/metrics").read_text())

    info = ClassifierInfo(["a", "b"], ["text"], None, 16)
    write_classifier(tmp_path / "model", Classifier(draw_gpt(), 2), small_tokenizer_file, info)
    assert run_convert()["skipped"] == skipped(tmp_path / "out/gguf") == skipped(tmp_path / "out/onnx")
    (tmp_path / "model/skipped.json").write_text('{"skipped": "no rows"}')
    assert run_convert() == {"skipped": "no rows"}
    (tmp_path / "model/skipped.json").unlink()
    write_folder(tmp_path / "model", draw_gpt(), small_tokenizer_file, chat_template=TEMPLATE)
    assert run_convert()["gguf"]["gguf-f16"]["tokenization_mismatches"] == 0
    assert "<|im_start|>" in (tmp_path / "out/gguf/Modelfile").read_text()
    assert [len(chat.messages) > 0 for chat in chats] == [True]
