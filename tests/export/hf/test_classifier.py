"""A classifier's folder gives the same probabilities in Transformers, without code of ours, as here."""

from pathlib import Path

import pytest
import tokenizers
import torch
from transformers import pipeline

from llm.core.errors import UserError
from llm.export.hf.classifier import ClassifierInfo, read_classifier, write_classifier
from llm.export.hf.folder import read_folder
from llm.finetune.classify.classifier import encode_texts, predict
from llm.model.classifier import Classifier
from llm.tokens.templates import classifier_ids
from tests.export.hf.changes import change_json, config, drop, remove

MAX_TOKENS = 16
FAMILIES = {
    "qwen3": {},
    "qwen2": {"family": "qwen2"},
    "llama, untied": {"family": "llama", "tie_embeddings": False},
    "gpt2": {"family": "gpt2", "n_kv_heads": 2},
}
LONG = "The rain falls " * 12
TEXTS = ["The river runs", LONG, "déjà vu <|pad|><|endoftext|>", "   spaces, \n\n and 100%   "]
PAIRS = [("The river runs", "the rain falls"), (LONG, "short"), ("short", LONG), (LONG, LONG + "!"), ("<|eos|>", "a")]
LABELS = {2: ["rain", "river"], 3: ["rain", "river", "sun"]}


@pytest.fixture
def write(tmp_path, draw_gpt, small_tokenizer_file):
    """A function that writes a classifier with drawn scores and returns its folder."""

    def write_one(n_labels: int = 3, n_texts: int = 1, separator: str | None = None, **shape: object) -> Path:
        model = Classifier(draw_gpt(**shape), n_labels)
        with torch.no_grad():
            model.score.weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(2))
        info = ClassifierInfo(LABELS[n_labels], ["text", "other"][:n_texts], separator, MAX_TOKENS)
        write_classifier(tmp_path / "folder", model, small_tokenizer_file, info)
        return tmp_path / "folder"

    return write_one


def probabilities(folder: Path, rows: list[list[str]], machine) -> torch.Tensor:
    """Each label's probability for each row, by the folder read back here."""
    model, tokenizer, info = read_classifier(folder)
    ids = [classifier_ids(row, tokenizer.special, info.max_tokens) for row in encode_texts(rows, tokenizer)]
    return info.probabilities(predict(model, ids, tokenizer.pad, 1, machine))


def in_transformers(folder: Path, rows: list, batch_size: int) -> torch.Tensor:
    """The same by the pipeline, with the arguments that a user gives."""
    classify = pipeline("text-classification", model=str(folder), dtype=torch.float32, top_k=None)
    numbers = classify.model.config.label2id
    found = torch.empty(len(rows), len(numbers))
    for row, scores in enumerate(classify(rows, truncation=True, batch_size=batch_size)):
        for score in scores:
            found[row, numbers[score["label"]]] = score["score"]
    return found


@pytest.mark.parametrize("shape", FAMILIES.values(), ids=FAMILIES)
def test_probabilities_are_those_of_transformers(write, plain_cpu, shape):
    folder = write(**shape)
    ours = probabilities(folder, [[text] for text in TEXTS], plain_cpu)
    torch.testing.assert_close(ours.sum(dim=-1), torch.ones(len(TEXTS)))
    for batch_size in (1, len(TEXTS)):
        torch.testing.assert_close(in_transformers(folder, TEXTS, batch_size), ours, atol=1e-5, rtol=0)


def test_a_composing_tokenizer_is_read_as_in_transformers(write, plain_cpu):
    folder = write(family="qwen2")  # Transformers 5 composes characters for every tokenizer of this type
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.normalizer = tokenizers.normalizers.NFC()
    library.save(str(folder / "tokenizer.json"))
    ours = probabilities(folder, [[text] for text in TEXTS], plain_cpu)
    torch.testing.assert_close(in_transformers(folder, TEXTS, 2), ours, atol=1e-5, rtol=0)


def test_probabilities_of_pairs_are_those_of_transformers(write, plain_cpu):
    folder = write(n_texts=2)
    ours, swapped = (probabilities(folder, [list(pair)[::turn] for pair in PAIRS], plain_cpu) for turn in (1, -1))
    rows = [{"text": first, "text_pair": second} for first, second in PAIRS]
    torch.testing.assert_close(in_transformers(folder, rows, len(PAIRS)), ours, atol=1e-5, rtol=0)
    assert not torch.allclose(ours, swapped, atol=1e-3)


@pytest.mark.parametrize(("n_labels", "separator"), [(2, None), (3, "|")])
def test_several_labels_have_a_probability_each(write, plain_cpu, n_labels, separator):
    folder = write(n_labels=n_labels, separator=separator)
    ours = probabilities(folder, [[text] for text in TEXTS], plain_cpu)
    torch.testing.assert_close(in_transformers(folder, TEXTS, 2), ours, atol=1e-5, rtol=0)
    assert ((ours.sum(dim=-1) - 1).abs().max() > 0.1) == (separator is not None)


def test_a_classifier_is_read_back(write, draw_gpt, tmp_path):
    folder = write(n_texts=2, separator=", ")
    model, tokenizer, info = read_classifier(folder)
    assert info == ClassifierInfo(LABELS[3], ["text", "other"], ", ", MAX_TOKENS)
    assert tokenizer.encode("rain <|eos|>") == tokenizer.encode("rain ") + tokenizer.encode("<|eos|>")
    expected = dict(draw_gpt().named_parameters())
    for name, weight in model.trunk.named_parameters():
        assert torch.equal(weight, expected[name])
    assert not model.training
    write_classifier(tmp_path / "again", model, folder / "tokenizer.json", info)
    written = [{path.name: path.read_bytes() for path in of.iterdir()} for of in (folder, tmp_path / "again")]
    assert written[0] == written[1]


def test_neither_kind_of_model_is_read_as_the_other(write, exported_folder):
    with pytest.raises(UserError, match=r"architectures: expected a classifier, .*, got \['Qwen3ForCausalLM'\]"):
        read_classifier(exported_folder)
    with pytest.raises(UserError, match="architectures: expected one of Qwen3ForCausalLM"):
        read_folder(write())


def _remove_template(folder: Path) -> None:
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.post_processor = tokenizers.processors.Sequence([])
    library.save(str(folder / "tokenizer.json"))


def settings(**values: object):
    return lambda folder: change_json(folder / "tokenizer_config.json", **values)


INVALID = {
    "no tokenizer settings": (remove("tokenizer_config.json"), "expected JSON"),
    "no labels": (config(id2label=None), "id2label: expected"),
    "a missing label": (config(id2label={"0": "a", "2": "b"}), "id2label: expected different labels"),
    "a label twice": (config(id2label={"0": "a", "1": "a"}), "id2label: expected different labels"),
    "other labels than scores": (config(id2label={"0": "a", "1": "b"}), r"\(2, 24\), got \(3, 24\)"),
    "a separator and one label": (config(label_separator="|"), "problem_type: expected multi_label"),
    "no length": (settings(model_max_length=None), "model_max_length: expected a number from 2"),
    "too long for the model": (settings(model_max_length=49), "the model's context of 48"),
    "another template": (_remove_template, "got another one"),
    "no scores": (drop("score.weight"), "score.weight is missing"),
}


@pytest.mark.parametrize(("change", "words"), INVALID.values(), ids=INVALID.keys())
def test_an_invalid_folder_is_one_line(write, change, words):
    folder = write()
    change(folder)
    with pytest.raises(UserError, match=words) as caught:
        read_classifier(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
