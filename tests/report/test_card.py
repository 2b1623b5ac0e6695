"""Model cards: every figure is one that was measured, the Hub reads them, and their snippets run."""

import hashlib
import json
import re
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard, ModelCardData

from llm.export.gguf import write_gguf
from llm.report.card import write_card, write_task_card
from llm.report.metrics import NO_DOCSTRINGS, Metrics
from llm.report.tables import Table, shell_string
from tests.report.samples import CONFIG, CONTENT, DETAILS, PARAMS, merged, rows_of

WEIGHTS = b"weights"
LINEAGE = Table(["file", "md5"], [["data/corpus/train.parquet", "0" * 32]])


@pytest.fixture
def write(tmp_path):
    """Writes the card with metrics changed and params replaced."""

    def write(changes: dict | None = None, config: dict = CONFIG, **params: object) -> str:
        (tmp_path / "hf").mkdir(exist_ok=True)
        (tmp_path / "hf" / "model.safetensors").write_bytes(WEIGHTS)
        metrics = Metrics(merged(CONTENT, changes or {}), DETAILS)
        return write_card(metrics, merged(PARAMS, params), config, tmp_path / "hf", LINEAGE)

    return write


def test_every_figure_in_the_text_was_measured(write):
    text = re.sub(r"^```.*?^```", "", write().split("# A language model")[1], flags=re.MULTILINE | re.DOTALL)
    figures = re.findall(r"(?<![\w.`-])\d(?:[\w,.-]*\w)?", text)
    given = {value for figure in _figures([CONTENT, DETAILS, PARAMS]) for value in _forms(figure)}
    # Names of systems, the level of the intervals, the license's number, and a product: 10 × 2,340,000.
    given |= {"95", "9e", "3", "2.0", "2.34e", "07", "25", "50", "5-grams", "0" * 32}
    assert len(figures) > 60
    assert [figure for figure in figures if figure.replace(",", "") not in given] == []


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        ("prepare: empty", ["31"]),
        ("label: too short", ["67"]),
        ("optimizer", ["muon, muon_lr 0.0213, adamw_lr 0.0061"]),
        ("this model", ["1.2500 [1.1250, 1.5000]", "1.3750 [1.1250, 1.5000]"]),
        ("last word", ["137", "0.5710 [0.4810, 0.6770]", "0.5330", "0.2530"]),
        ("chosen answer more likely", ["0.5123", "0.7345 [0.6543, 0.8012]"]),
    ],
)
def test_the_figures_that_matter_are_in_their_rows(write, row, cells):
    assert rows_of(write())[row][: len(cells)] == cells


GONE = {"test": ..., "val": ...}
NOTHING = {"model": {"prefixes": 0, "verbatim_25": ..., "verbatim_50": ..., "mean_verbatim_tokens": ...}}


@pytest.mark.parametrize(
    ("changes", "shown", "absent"),
    [
        ({}, "On test, this model minus xz -9e, given the training text: -0.1600 [-0.2000, -0.1200] bits per", ""),
        ({}, "- TF-IDF: C 19.0\n- this model, finetuned: learning rate 0.017, val loss by lr (0.017: 0.5)", ""),
        ({}, "The cards of finetuned models are in `models/cards`.", "onnxruntime"),
        ({}, "ollama create", "meaningless"),
        ({"evaluate": GONE, "cloze": {"test": ...}}, "nothing was measured", "model-index"),
        ({"evaluate": {"non_causal": True}}, "its bits per byte are meaningless", "pipeline_tag"),
        ({"evaluate": {"lossless_tokens": False}}, "its bits per byte are too low", ""),
        ({"memorise": {"train": NOTHING}}, "No document of train is long enough", "The model copies"),
        ({"finetune/topics": {"test": {"tfidf": {"accuracy": 0.9}}}}, "On topics logistic regression on words", ""),
        (
            {"export": {"gguf": {"Modelfile": {"skipped": "the pattern"}}}},
            "Modelfile | – | skipped: the pattern",
            "ollama",
        ),
        ({"finetune/none": {"skipped": NO_DOCSTRINGS}}, "## Finetuned: topics", "Finetuned: none"),
    ],
)
def test_sentences_state_what_is_and_is_not_there(write, changes, shown, absent):
    text = write(changes)
    assert shown in text
    assert not absent or absent not in text


def test_a_card_of_another_corpus_does_not_mention_python(write):
    sources = [
        {"name": "mine", "kind": "files", "globs": ["data/raw/*.txt"]},
        {"name": "web", "kind": "url", "url": "https://example.org/a.txt", "sha256": "cd" * 32},
        {"name": "hub", "kind": "huggingface", "dataset": "some/words", "revision": "ef" * 20},
        {"name": "docs", "kind": "docstrings", "packages": ["numpy", "scipy"]},
    ]
    prepare = {"python": ..., "dropped": {}, "bytes_by_source": {"mine": 4567}}
    text = write({"prepare": prepare, "label": {"dropped": {"too_short": 0}}}, prepare={"sources": sources})
    shown = ["the user's own files", "data/raw/*.txt", "cd" * 32, "4,567", "dataset some/words", "ef" * 20, "unknown"]
    shown += ["docstrings of Python packages: numpy, scipy | 0 | each package's own"]
    assert [part for part in shown if part not in text] == []
    assert [word for word in ("sha256 of the modules", "Python's own modules", "dropped") if word in text] == []


def test_the_hub_reads_the_front_matter(write):
    data = ModelCard(write()).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", "other")
    assert data.tags == ["groundup", "qwen3", "gguf"]
    found = {(result.dataset_split, result.metric_type, result.metric_value) for result in data.eval_results}
    assert found == {("val", "bits_per_byte", 1.25), ("test", "bits_per_byte", 1.375), ("test", "accuracy", 0.571)}
    assert ModelCardData(**data.__dict__).to_dict() == data.to_dict()


def test_the_card_of_a_model_that_was_not_exported(write, tmp_path):
    export = {"skipped": "Transformers has no gru", "gguf": {}, "onnx": {}}
    text = write({"export": export | {"bytes": ...}}, config=CONFIG | {"family": "gru", "norm_eps": 1e-6})
    assert text.count("Transformers has no gru") == 2 and "| `norm_eps` | 1e-06 |" in text
    assert (ModelCard(text).data.library_name, ModelCard(text).data.tags) == ("groundup", ["groundup", "gru"])
    assert [word for word in ("from transformers", "xllamacpp", "ollama") if word in text] == []
    assert "python -m llm generate --model models/pretrained" in text


@pytest.mark.parametrize("prompt", ['It\'s "déjà vu"', "def f(x, y='a')\n\n"])
def test_every_snippet_has_the_prompt_on_one_line(write, prompt):
    text = write({"evaluate": {"example_prompt": prompt}})
    lines = [line for line in text.splitlines() if re.search(r"llm generate|llama-cli|ollama run", line)]
    assert [line.endswith(shell_string(prompt)) for line in lines] == [True] * 3
    assert text.count(repr(prompt)) == 3


@pytest.fixture
def finetuned(tmp_path):
    """Writes the card of a finetuned model, with keys of its config.json and metrics of a conversion."""

    def write(name: str, config: dict | None = None, **converted: object) -> str:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"} | (config or {})))
        (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
        metrics = Metrics(CONTENT | {f"convert/{name}": converted}, DETAILS)
        return write_task_card(name, {"base": "models/export/hf"}, metrics, tmp_path)

    return write


def test_the_card_of_a_classifier(finetuned):
    labels = {str(number): f"label {number:02}" for number in range(53)}
    text = finetuned("topics", {"id2label": labels, "text_columns": ["a", "b"]})
    data = ModelCard(text).data
    assert (data.pipeline_tag, data.base_model) == ("text-classification", "models/export/hf")
    scores = {(result.metric_type, result.metric_value) for result in data.eval_results}
    assert scores == {("accuracy", 0.8123), ("f1", 0.7234)}
    assert "`label 49` and 3 more." in text and "label 50" not in text
    assert "1,601 train, 223 val, 227 test rows" in text
    assert "- dropped: 3 without a text" in text
    assert rows_of(text)["TF-IDF"][0] == "0.6345"
    assert f"sha256 of `model.safetensors`: `{hashlib.sha256(WEIGHTS).hexdigest()}`" in text.splitlines()
    assert "python -m llm predict models/finetuned/topics rows.csv" in text
    assert '"text_pair"' in text and '"text_pair"' not in finetuned("topics", {"id2label": labels})


def test_the_card_of_a_model_that_answers(finetuned):
    text = finetuned("answers")
    assert [word for word in ("llama-cli", "ollama", "ONNX") if word in text] == []
    assert "python -m llm chat models/finetuned/answers" in text
    assert rows_of(text)["bits per byte of the right answers"] == ["3.4560", "2.1350"]
    text = finetuned("answers", gguf={"gguf-q8_0": {"bytes": 1}}, onnx={"bytes": 1})
    assert "llama-cli -m models/converted/answers/gguf/model-q8_0.gguf -cnv" in text
    assert "ollama create answers -f models/converted/answers/gguf/Modelfile" in text
    data = ModelCard(text).data
    assert (data.pipeline_tag, data.tags) == ("text-generation", ["groundup", "qwen3", "gguf", "onnx"])
    assert "ollama" not in finetuned("answers", gguf={"gguf-f16": {"bytes": 1}, "Modelfile": {"skipped": "x"}})
    assert "Skipped: no function of the corpus is left in test." in finetuned("none")


# -- snippets


def snippet(text: str, word: str) -> str:
    """The one piece of Python in a card that has a word in it."""
    (found,) = (code for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if word in code)
    return found


@pytest.fixture
def exported(tmp_path, monkeypatch, exported_folder):
    """An export where the snippets look for it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported_folder, tmp_path / "models/export/hf")
    return tmp_path / "models/export"


def test_the_snippets_generate_the_same_text(write, exported, capsys, draw_gpt, small_tokenizer_file):
    pytest.importorskip("xllamacpp", reason="llama.cpp is the package xllamacpp (make extras)")
    exec(snippet(write(), "from transformers"), {})  # noqa: S102 (our own text)
    written = capsys.readouterr().out
    write_gguf(exported / "gguf", draw_gpt(), small_tokenizer_file, "gguf-f16")
    # A server that is stopped may wait forever; this one ends with its process.
    code = snippet(write(), "xllamacpp") + "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    prompt = CONTENT["evaluate"]["example_prompt"]
    assert written.startswith(prompt) and len(written) > len(prompt) + 20
    assert done.stdout == written


def test_the_snippet_of_onnx_runs(write, exported, capsys, draw_gpt):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is the package onnxruntime (the extra onnx)")
    from llm.export.onnx import write_onnx

    (exported / "onnx").mkdir()
    write_onnx(exported / "onnx", draw_gpt())
    exec(snippet(write({"export": {"onnx": {"bytes": 1}}}), "onnxruntime"), {})  # noqa: S102 (our own text)
    assert capsys.readouterr().out


@pytest.mark.parametrize("columns", [["text"], ["question", "answer"]])
def test_the_snippet_of_a_classifier_runs(finetuned, exported, capsys, draw_gpt, small_tokenizer_file, columns):
    from llm.export.hf.classifier import ClassifierInfo, write_classifier
    from llm.model.classifier import Classifier

    folder, labels = exported.parent / "finetuned/topics", ["rain", "river"]
    write_classifier(folder, Classifier(draw_gpt(), 2), small_tokenizer_file, ClassifierInfo(labels, columns, None, 40))
    text = finetuned("topics", {"id2label": dict(enumerate(labels)), "text_columns": columns})
    exec(snippet(text, "pipeline"), {})  # noqa: S102 (our own text)
    found = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert found.keys() == {"rain", "river"}
    assert sum(map(float, found.values())) == pytest.approx(1)


def test_the_snippet_of_a_model_that_answers_runs(finetuned, exported, capsys, draw_gpt, small_tokenizer_file):
    from llm.export.hf.folder import write_folder
    from llm.finetune.shared.chat import TEMPLATE

    folder = exported.parent / "finetuned/answers"
    write_folder(folder, draw_gpt(context_length=96), small_tokenizer_file, chat_template=TEMPLATE)
    exec(snippet(finetuned("answers"), "apply_chat_template"), {})  # noqa: S102 (our own text)
    assert capsys.readouterr().out.endswith("\n")


def _figures(value: object) -> list[object]:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    return [figure for part in value for figure in _figures(part)] if isinstance(value, list) else [value]


def _forms(value: object) -> list[str]:
    """The ways to write a value, and the numbers in a text."""
    if isinstance(value, str):
        return [value, *re.findall(r"\d[\w.]*", value)]
    if isinstance(value, float):
        return [str(value), *(f"{value:.{digits}f}" for digits in (2, 4))]
    return [str(value)]
