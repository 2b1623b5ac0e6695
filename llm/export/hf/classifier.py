"""A classifier as a Hugging Face folder, and such a folder as a classifier.

`pipeline("text-classification")` of Transformers gives the same probabilities: tokenizer.json puts the frame around a
text, and tokenizer_config.json has the length that a row is truncated to.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor

from llm.core import params
from llm.core.errors import UserError
from llm.core.outputs import write_json
from llm.export.hf.config import BY_NAME, MAX_CONTEXT, describe_model, refuse
from llm.export.hf.folder import describe_tokenizer, read_config_file, read_folder, rename_weights
from llm.export.hf.tensors import check_tensors, list_tensors, read_object, read_tensors, shorten, write_tensors
from llm.model.classifier import Classifier
from llm.tokens.special import END_OF_TEXT
from llm.tokens.templates import has_classifier_template, min_tokens, with_classifier_template
from llm.tokens.tokenizer import Tokenizer, read_library

SCORE = "score.weight"
PROBLEM_TYPES = {False: "single_label_classification", True: "multi_label_classification"}
LANGUAGE_MODELS = {of.classifier: name for name, of in BY_NAME.items()}  # that have a classifier's blocks
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class ClassifierInfo:
    """What a classifier's folder holds beside its weights."""

    labels: list[str]
    text_columns: list[str]
    label_separator: str | None  # None where a row has one label, not any number of them
    max_tokens: int

    @property
    def is_multilabel(self) -> bool:
        """Whether a row has any number of labels."""
        return self.label_separator is not None

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return each label's probability from scores (B, labels); they add up to 1 where a row has one label."""
        return scores.sigmoid() if self.is_multilabel else scores.softmax(dim=-1)


def _are_numbered(labels: dict[str, str]) -> dict[str, str]:
    if set(labels) != set(map(str, range(len(labels)))) or len({*labels.values()}) < max(len(labels), 1):
        raise ValueError(f"expected different labels by their numbers from 0, got {shorten([params.describe(labels)])}")
    return labels


class _Config(BaseModel):
    """The keys of config.json that describe a classifier; Transformers ignores the last two."""

    model_config = ConfigDict(strict=True)

    id2label: Annotated[dict[str, Text], AfterValidator(_are_numbered)]
    problem_type: str
    text_columns: Annotated[list[Text], Field(min_length=1, max_length=2)]
    label_separator: Text | None = None


def write_classifier(folder: Path, model: Classifier, tokenizer_file: Path, info: ClassifierInfo) -> None:
    """Write a classifier's files."""
    folder.mkdir(parents=True, exist_ok=True)
    config, tokenizer = model.trunk.config, Tokenizer.load(tokenizer_file)
    library = read_library(tokenizer_file)
    content = describe_model(config, tokenizer, library)
    content |= {
        "architectures": [BY_NAME[content["architectures"][0]].classifier],
        "problem_type": PROBLEM_TYPES[info.is_multilabel],
        "id2label": {str(number): label for number, label in enumerate(info.labels)},
        "label2id": {label: number for number, label in enumerate(info.labels)},
        "text_columns": info.text_columns,
        "label_separator": info.label_separator,
    }
    write_json(folder / "config.json", content)
    trunk: dict[str, Tensor] = {
        name: weight for name, weight in model.trunk.named_parameters() if name != "head.weight"
    }
    write_tensors(folder / "model.safetensors", rename_weights(config, content, trunk) | {SCORE: model.score.weight})
    with_classifier_template(library).save(str(folder / "tokenizer.json"))
    about = describe_tokenizer(info.max_tokens, tokenizer, END_OF_TEXT)
    # A text that spells a special token is ordinary text: a <|pad|> in it would hide the tokens before it.
    write_json(folder / "tokenizer_config.json", about | {"split_special_tokens": True})


def read_classifier(folder: Path) -> tuple[Classifier, Tokenizer, ClassifierInfo]:
    """Read what `write_classifier` wrote, in float32 on the CPU; UserError for a file that is missing or changed."""
    content, tokenizer_file = read_config_file(folder), folder / "tokenizer.json"
    if not is_classifier(content):
        expected = "a classifier, such as the task library makes it in models/finetuned/library"
        refuse(folder / "config.json", "architectures", expected, content.get("architectures"))
    tokenizer, info = Tokenizer.load(tokenizer_file), _read_info(content, folder)
    if not has_classifier_template(read_library(tokenizer_file)):
        raise UserError(f"{tokenizer_file}: expected the post_processor of `llm.tokens.templates`, got another one")
    # A classifier has no language model head, and a tied head needs no tensor.
    trunk = {"architectures": [LANGUAGE_MODELS[content["architectures"][0]]], "tie_word_embeddings": True}
    model = Classifier(read_folder(folder, content | trunk, beside=frozenset({SCORE})), len(info.labels)).eval()
    config, stored = model.trunk.config, {name: of for name, of in list_tensors(folder).items() if name == SCORE}
    check_tensors(stored, {SCORE: model.score.weight}, f"{len(info.labels)} labels", folder)
    if (n_tokens := tokenizer.vocab_size) > config.vocab_size:
        raise UserError(f"{folder}: expected at most the model's {config.vocab_size} tokens, got {n_tokens}")
    if info.max_tokens > config.context_length:
        most = f"at most the model's context of {config.context_length}"
        refuse(folder / "tokenizer_config.json", "model_max_length", most, info.max_tokens)
    with torch.no_grad():
        model.score.weight.copy_(read_tensors(stored)[SCORE])
    return model, tokenizer, info


def is_classifier(content: dict[str, Any]) -> bool:
    """Return whether a config.json is of a classifier."""
    names = content.get("architectures")
    return isinstance(names, list) and len(names) == 1 and names[0] in list(LANGUAGE_MODELS)


def _read_info(content: dict[str, Any], folder: Path) -> ClassifierInfo:
    config: _Config = params.check(_Config, content, "", folder / "config.json")
    if config.problem_type != (expected := PROBLEM_TYPES[config.label_separator is not None]):
        refuse(folder / "config.json", "problem_type", expected, config.problem_type)
    path = folder / "tokenizer_config.json"
    max_tokens, least = read_object(path).get("model_max_length"), min_tokens(len(config.text_columns))
    if type(max_tokens) is not int or not least <= max_tokens <= MAX_CONTEXT:
        refuse(path, "model_max_length", f"a number from {least} on", max_tokens)
    labels = [config.id2label[str(number)] for number in range(len(config.id2label))]
    return ClassifierInfo(labels, config.text_columns, config.label_separator, max_tokens)
