"""The card of a finetuned model says what the folder holds, and its snippets run."""

import re
import shutil

import pytest
import torch
from huggingface_hub import ModelCard

from llm.export.gguf import write_gguf, write_modelfile
from llm.export.hf.classifier import ClassifierInfo, write_classifier
from llm.export.hf.folder import write_folder
from llm.finetune.shared.chat import TEMPLATE
from llm.model.classifier import Classifier
from llm.report.markdown import weights_line
from llm.report.task_card import task_card

LABELED = {
    "rows": {"train": 1601, "val": 223, "test": 227},
    "test": {
        "tfidf": {"accuracy": 0.6345, "macro_f1": 0.5456},
        "pretrained": {"accuracy": 0.8123, "macro_f1": 0.7234},
    },
}
ANSWERED = {
    "rows": {"train": 1733, "val": 233, "test": 239},
    "test": {"answer_bits_per_byte": {"before": 3.456, "after": 2.135}, "other": 7},
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where the pipeline puts models; the snippets look there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models/finetuned"


@pytest.fixture
def write_labels(place, draw_gpt, small_tokenizer_file):
    """A writer of a classifier's folder."""

    def write(texts=("text",), labels=("rain", "river"), **shape):
        model = Classifier(draw_gpt(**shape), len(labels))
        with torch.no_grad():
            model.score.weight.normal_(generator=torch.Generator().manual_seed(7))
        write_classifier(place / "topics", model, small_tokenizer_file, ClassifierInfo([*labels], [*texts], None, 40))
        return place / "topics"

    return write


@pytest.fixture
def chat(place, draw_gpt, small_tokenizer_file):
    """The folder of a model that answers, without other formats."""
    write_folder(place / "answers", draw_gpt(context_length=96), small_tokenizer_file, chat_template=TEMPLATE)
    return place / "answers"


def snippet(text):
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    return code


@pytest.mark.parametrize("texts", [("text",), ("question", "answer")])
def test_the_snippet_of_a_classifier_gives_every_label(write_labels, capsys, texts):
    text = task_card("topics", write_labels(texts), "models/export", LABELED)
    exec(snippet(text), {})  # noqa: S102 (our own text)
    found = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert found.keys() == {"rain", "river"}
    assert sum(map(float, found.values())) == pytest.approx(1)


def test_a_card_names_its_weights(write_labels):
    folder = write_labels()
    assert weights_line(folder / "model.safetensors") in task_card("topics", folder, "base", LABELED).splitlines()


def test_the_hub_reads_the_front_matter_of_a_classifier(write_labels):
    data = ModelCard(task_card("topics", write_labels(), "models/export", LABELED)).data
    assert (data.pipeline_tag, data.base_model, data.library_name) == (
        "text-classification",
        "models/export",
        "transformers",
    )
    assert data.tags == ["groundup", "qwen3"]
    found = {(result.metric_type, result.metric_value) for result in data.eval_results}
    assert found == {("accuracy", 0.8123), ("f1", 0.7234)}


def test_the_figures_and_the_labels_are_in_the_text(write_labels):
    text = task_card("topics", write_labels(), "models/export", LABELED)
    assert "| pretrained | 0.8123 | 0.7234 |\n| tfidf | 0.6345 | 0.5456 |" in text
    assert "Labels: `rain`, `river`." in text
    assert "1,601 train, 223 val, 227 test rows" in text


def test_of_many_labels_the_first_are_named(write_labels):
    labels = [f"label {number:02}" for number in range(53)]
    text = task_card("topics", write_labels(labels=labels), "models/export", LABELED)
    assert "`label 49` and 3 more." in text
    assert "label 50" not in text


def test_the_snippet_of_a_model_that_answers_runs(chat, capsys):
    exec(snippet(task_card("answers", chat, "models/export", ANSWERED)), {})  # noqa: S102 (our own text)
    assert capsys.readouterr().out.endswith("\n")


def test_only_the_formats_that_are_there_are_offered(chat, draw_gpt, small_tokenizer_file):
    text = task_card("answers", chat, "models/export", ANSWERED)
    assert [word for word in ("llama-cli", "ollama", "ONNX") if word in text] == []
    assert "python -m llm chat models/finetuned/answers" in text
    assert "| answer bits per byte | 3.456 | 2.135 |" in text
    file = write_gguf(chat / "gguf", draw_gpt(), small_tokenizer_file, "gguf-q8_0", chat_template=TEMPLATE)
    write_modelfile(file, draw_gpt().config, small_tokenizer_file, chat=True)
    (chat / "onnx").mkdir()
    shutil.copy(file, chat / "onnx/model.onnx")
    text = task_card("answers", chat, "models/export", ANSWERED)
    assert "llama-cli -m models/finetuned/answers/gguf/model-q8_0.gguf" in text
    assert "ollama create answers -f models/finetuned/answers/gguf/Modelfile" in text
    assert "ONNX" in text
    data = ModelCard(text).data
    assert (data.pipeline_tag, data.tags) == ("text-generation", ["groundup", "qwen3", "gguf", "onnx"])
    assert [(result.metric_type, result.metric_value) for result in data.eval_results] == [
        ("answer_bits_per_byte", 2.135)
    ]
