"""A classifier's folder gives in Transformers, without code of ours, the probabilities that it gives here."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, pipeline
from transformers.utils import logging

from llm.core.errors import UserError
from llm.export.hf.classifier import ClassifierInfo, read_classifier, write_classifier
from llm.export.hf.folder import read_folder, write_folder
from llm.finetune.classify.classifier import encode_texts, predict
from llm.model.classifier import Classifier
from llm.tokens.templates import classifier_ids
from llm.tokens.tokenizer import Tokenizer

MAX_TOKENS = 16
FAMILIES = {
    "qwen3": {},
    "qwen3, untied": {"tie_embeddings": False},
    "qwen2": {"family": "qwen2"},
    "llama": {"family": "llama"},
    "gpt2": {"family": "gpt2", "n_kv_heads": 2},
    "gpt2, untied": {"family": "gpt2", "n_kv_heads": 2, "tie_embeddings": False},
}
LONG = "The rain falls " * 12
TEXTS = ["The river runs", LONG, "déjà vu <|pad|><|endoftext|>", "   spaces, \n\n and 100%   "]
PAIRS = [("The river runs", "the rain falls"), (LONG, "short"), ("short", LONG), (LONG, LONG + "!"), ("<|eos|>", "a")]
LABELS = {2: ["rain", "river"], 3: ["rain", "river", "sun"]}


@pytest.fixture(autouse=True, scope="module")
def quiet():
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture
def write(tmp_path, draw_gpt, small_tokenizer_file):
    """A writer of a classifier with drawn scores, which says how the folder is to be called."""

    def write_one(n_labels: int = 3, n_texts: int = 1, separator: str | None = None, **shape: object) -> Path:
        model = Classifier(draw_gpt(**shape), n_labels)
        with torch.no_grad():
            model.score.weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(2))
        info = ClassifierInfo(LABELS[n_labels], ["text", "other"][:n_texts], separator, MAX_TOKENS)
        write_classifier(tmp_path / "folder", model, small_tokenizer_file, info)
        return tmp_path / "folder"

    return write_one


def probabilities(folder: Path, rows: list[list[str]], machine) -> torch.Tensor:
    """Of each label for each row, by the folder read back here."""
    model, tokenizer, info = read_classifier(folder)
    ids = [classifier_ids(row, tokenizer.special, info.max_tokens) for row in encode_texts(rows, tokenizer)]
    return info.probabilities(predict(model, ids, tokenizer.pad, 1, machine))


def in_transformers(folder: Path, rows: list, batch_size: int) -> torch.Tensor:
    """The same by the pipeline, told no more than a user would tell it."""
    classify = pipeline("text-classification", model=str(folder), dtype=torch.float32, top_k=None)
    numbers = classify.model.config.label2id
    found = torch.empty(len(rows), len(numbers))
    for row, scores in enumerate(classify(rows, truncation=True, batch_size=batch_size)):
        for score in scores:
            found[row, numbers[score["label"]]] = score["score"]
    return found


def _composing(folder: Path) -> None:
    """Transformers 5 composes the characters of a text for every Qwen2, whatever tokenizer.json says; so do we here."""
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.normalizer = tokenizers.normalizers.NFC()
    library.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("shape", FAMILIES.values(), ids=FAMILIES.keys())
def test_a_text_has_equal_probabilities_in_transformers_alone_and_padded(write, plain_cpu, shape):
    folder = write(**shape)
    if shape == FAMILIES["qwen2"]:
        _composing(folder)
    ours = probabilities(folder, [[text] for text in TEXTS], plain_cpu)
    torch.testing.assert_close(ours.sum(dim=-1), torch.ones(len(TEXTS)))
    for batch_size in (1, len(TEXTS)):
        torch.testing.assert_close(in_transformers(folder, TEXTS, batch_size), ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [{}, {"family": "gpt2", "n_kv_heads": 2}], ids=["qwen3", "gpt2"])
def test_a_pair_of_texts_has_equal_probabilities_in_transformers(write, plain_cpu, shape):
    folder = write(n_texts=2, **shape)
    ours = probabilities(folder, [list(pair) for pair in PAIRS], plain_cpu)
    asked = [{"text": first, "text_pair": second} for first, second in PAIRS]
    for batch_size in (1, len(PAIRS)):
        torch.testing.assert_close(in_transformers(folder, asked, batch_size), ours, atol=1e-5, rtol=0)
    swapped = probabilities(folder, [list(pair)[::-1] for pair in PAIRS], plain_cpu)
    assert not torch.allclose(ours, swapped, atol=1e-3)


@pytest.mark.parametrize("separator", [None, "|"], ids=["one label", "any number"])
def test_two_labels_have_a_score_each(write, plain_cpu, separator):
    folder = write(n_labels=2, separator=separator)
    ours = probabilities(folder, [[text] for text in TEXTS], plain_cpu)
    assert ours.shape == (len(TEXTS), 2)
    torch.testing.assert_close(in_transformers(folder, TEXTS, 1), ours, atol=1e-5, rtol=0)


def test_any_number_of_labels_has_a_probability_each(write, plain_cpu):
    folder = write(separator="|")
    ours = probabilities(folder, [[text] for text in TEXTS], plain_cpu)
    torch.testing.assert_close(in_transformers(folder, TEXTS, 2), ours, atol=1e-5, rtol=0)
    assert (ours.sum(dim=-1) - 1).abs().max() > 0.1


def test_what_is_read_back_is_what_was_written(write, draw_gpt):
    model, tokenizer, info = read_classifier(write(n_texts=2, separator=", ", tie_embeddings=False))
    assert info == ClassifierInfo(LABELS[3], ["text", "other"], ", ", MAX_TOKENS)
    assert tokenizer.encode("rain <|eos|>") == tokenizer.encode("rain ") + tokenizer.encode("<|eos|>")
    wanted = dict(draw_gpt(tie_embeddings=False).named_parameters())
    for name, weight in model.trunk.named_parameters():
        assert torch.equal(weight, wanted[name])
    assert not model.training


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_shape_that_transformers_lacks_is_read_back_too(write, draw_gpt, plain_cpu, tied):
    folder = write(family="gru", tie_embeddings=tied)
    content = json.loads((folder / "config.json").read_text())
    assert (content["model_type"], content["id2label"]) == ("groundup", {"0": "rain", "1": "river", "2": "sun"})
    model, tokenizer, _ = read_classifier(folder)
    before = Classifier(draw_gpt(family="gru", tie_embeddings=tied), 3)
    before.load_state_dict({"score.weight": model.score.weight}, strict=False)
    ids = [tokenizer.encode(text)[:40] for text in TEXTS]
    scores = (predict(of, ids, tokenizer.pad, 4, plain_cpu) for of in (model, before))
    assert torch.equal(*scores)


def test_a_language_model_begins_a_text_and_a_classifier_ends_it(write, tmp_path, draw_gpt, small_tokenizer_file):
    write_folder(tmp_path / "language", draw_gpt(), small_tokenizer_file)
    ids = Tokenizer.load(small_tokenizer_file).encode("The rain")
    assert AutoTokenizer.from_pretrained(tmp_path / "language")("The rain").input_ids == [0, *ids]
    assert AutoTokenizer.from_pretrained(write())("The rain").input_ids == [*ids, 0]


def test_neither_is_taken_for_the_other(write, exported_folder):
    with pytest.raises(UserError, match=r"architectures: wanted a classifier, .*, given \['Qwen3ForCausalLM'\]"):
        read_classifier(exported_folder)
    with pytest.raises(UserError, match="architectures: wanted one of Qwen3ForCausalLM"):
        read_folder(write())
    with pytest.raises(UserError, match="architectures: wanted GroundupForCausalLM alone"):
        read_folder(write(family="gru"))


def _change(file: str, **values: object):
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def _change_weights(change):
    def write_again(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return write_again


def _unframed(folder: Path) -> None:
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.post_processor = tokenizers.processors.Sequence([])
    library.save(str(folder / "tokenizer.json"))


BROKEN = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "wanted weights as safetensors"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "wanted a tokenizer.json, there is none"),
    "no setting of the tokenizer": (lambda folder: (folder / "tokenizer_config.json").unlink(), "wanted JSON"),
    "no labels": (_change("config.json", id2label=None), "id2label: wanted the labels by their numbers from 0"),
    "a label left out": (_change("config.json", id2label={"0": "a", "2": "b"}), "id2label: wanted the labels"),
    "a label twice": (_change("config.json", id2label={"0": "a", "1": "a", "2": "b"}), "id2label: wanted the labels"),
    "other labels than scores": (_change("config.json", id2label={"0": "a", "1": "b"}), r"\(3, 24\), wanted \(2, 24\)"),
    "no columns": (_change("config.json", text_columns=None), "text_columns: wanted one column or two, given nothing"),
    "three columns": (_change("config.json", text_columns=["a", "b", "c"]), "text_columns: wanted one column or two"),
    "another problem": (_change("config.json", problem_type="regression"), "problem_type: wanted single_label"),
    "a separator and one label": (_change("config.json", label_separator="|"), "problem_type: wanted multi_label"),
    "an empty separator": (_change("config.json", label_separator=""), "label_separator: wanted text or nothing"),
    "no length": (_change("tokenizer_config.json", model_max_length=None), "model_max_length: wanted a number from 2"),
    "too long for the model": (_change("tokenizer_config.json", model_max_length=49), "the model's context of 48"),
    "another frame": (_unframed, "given another post_processor"),
    "no scores": (_change_weights(lambda weights: weights.pop("score.weight")), "score.weight is missing"),
    "scores that are no number": (
        _change_weights(lambda weights: weights["score.weight"].fill_(float("nan"))),
        "NaN or infinity in score.weight",
    ),
    "a weight is missing": (_change_weights(lambda weights: weights.pop("model.norm.weight")), "norm.weight"),
}


@pytest.mark.parametrize(("change", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_folder_is_one_line_that_names_it(write, change, words):
    folder = write()
    change(folder)
    with pytest.raises(UserError, match=words) as caught:
        read_classifier(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message


def test_the_same_classifier_is_the_same_bytes(write, tmp_path):
    first = shutil.copytree(write(), tmp_path / "first")
    model, _, info = read_classifier(first)
    write_classifier(tmp_path / "second", model, first / "tokenizer.json", info)
    written = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("first", "second")]
    assert written[0] == written[1]
