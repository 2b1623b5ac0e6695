"""A classifier as a Hugging Face folder, and such a folder as a classifier.

    config.json  model.safetensors  tokenizer.json  tokenizer_config.json

`pipeline("text-classification")` of Transformers gives the probabilities that are computed here: tokenizer.json puts
the frame around a text, and the length that a row is cut to stands in tokenizer_config.json. A shape that Transformers
has no architecture for is written in our own words.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from llm.core import params
from llm.core.errors import UserError
from llm.export.hf.config import ARCHITECTURES, LONGEST_CONTEXT
from llm.export.hf.folder import (
    describe_model,
    describe_tokenizer,
    named_as_there,
    read_model,
    write_json,
    write_weights,
)
from llm.export.hf.native import CLASSIFIER, LANGUAGE_MODEL, is_native
from llm.export.hf.tensors import Stored, list_tensors, listed, read_object, read_tensors
from llm.model.classifier import Classifier
from llm.tokens.templates import has_classifier_template, min_tokens, with_classifier_template
from llm.tokens.tokenizer import Tokenizer, read_library

SCORE = "score.weight"
MOST_TEXTS = 2
PROBLEMS = {False: "single_label_classification", True: "multi_label_classification"}
# A classifier's name → the name of the language model that has its blocks.
LANGUAGE_MODELS = {format_.classifier: format_.language_model for _, format_ in ARCHITECTURES.values()} | {
    CLASSIFIER: LANGUAGE_MODEL
}


@dataclass(frozen=True)
class ClassifierInfo:
    """What a classifier's folder says beside its weights.

    `label_separator` stands between the labels of a row that may have any number of them; None where it has one.
    """

    labels: list[str]
    text_columns: list[str]
    label_separator: str | None
    max_tokens: int

    @property
    def is_multilabel(self) -> bool:
        """Whether a row has any number of labels."""
        return self.label_separator is not None

    def probabilities(self, scores: Tensor) -> Tensor:
        """Of each label, from scores (B, labels): they add up to 1 where a row has one label."""
        return scores.sigmoid() if self.is_multilabel else scores.softmax(dim=-1)


def write_classifier(folder: Path, model: Classifier, tokenizer_file: Path, info: ClassifierInfo) -> None:
    """Write a classifier's files."""
    folder.mkdir(parents=True, exist_ok=True)
    config, tokenizer = model.trunk.config, Tokenizer.load(tokenizer_file)
    library = read_library(tokenizer_file)
    about = describe_model(config, tokenizer, library)
    architecture = next(theirs for theirs, of in LANGUAGE_MODELS.items() if about["architectures"] == [of])
    about |= {
        "architectures": [architecture],
        "problem_type": PROBLEMS[info.is_multilabel],
        "id2label": {str(number): label for number, label in enumerate(info.labels)},
        "label2id": {label: number for number, label in enumerate(info.labels)},
        # Transformers passes these two over.
        "text_columns": info.text_columns,
        "label_separator": info.label_separator,
    }
    write_json(folder / "config.json", about)
    trunk: dict[str, Tensor] = {
        name: weight for name, weight in model.trunk.named_parameters() if name != "head.weight"
    }
    write_weights(folder / "model.safetensors", named_as_there(config, about, trunk) | {SCORE: model.score.weight})
    with_classifier_template(library).save(str(folder / "tokenizer.json"))
    # A text that spells a special token is ordinary text: a <|pad|> in it would hide what comes before.
    asked = {"model_max_length": info.max_tokens, "split_special_tokens": True}
    write_json(folder / "tokenizer_config.json", describe_tokenizer(config, tokenizer, chat=False) | asked)


def read_classifier(folder: Path) -> tuple[Classifier, Tokenizer, ClassifierInfo]:
    """Read what `write_classifier` wrote, in float32 on the CPU.

    UserError in one line where something is missing or other than it was written, before memory is taken for the model.
    """
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{folder}: wanted a classifier's folder, it has no config.json")
    content = read_object(path)
    given = content.get("architectures")
    if not isinstance(given, list) or len(given) != 1 or given[0] not in list(LANGUAGE_MODELS):
        wanted = "a classifier, such as the task library makes it in models/finetuned/library"
        raise UserError(f"{path}: architectures: wanted {wanted}, given {listed([params.describe(given)])}")
    tokenizer_file = folder / "tokenizer.json"
    tokenizer, info = Tokenizer.load(tokenizer_file), _read_info(content, path)
    if not has_classifier_template(read_library(tokenizer_file)):
        raise UserError(
            f"{tokenizer_file}: wanted what `llm.tokens.templates` puts around a text, given another post_processor"
        )
    score = _find_score(folder, info)
    as_language_model = content | {"architectures": [LANGUAGE_MODELS[given[0]]]}
    # It has no head: where that is the embedding, none is looked for.
    if is_native(content) and isinstance(content.get("model"), dict):
        as_language_model["model"] = content["model"] | {"tie_embeddings": True}
    else:
        as_language_model["tie_word_embeddings"] = True
    trunk = read_model(as_language_model, folder, beside=frozenset({SCORE}))
    config, n_labels = trunk.config, len(info.labels)
    if score.shape != (n_labels, config.d_model):
        raise UserError(f"{folder}: {SCORE} is {score.shape}, wanted {(n_labels, config.d_model)}")
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: wanted at most the model's {config.vocab_size} tokens, given {tokenizer.vocab_size}"
        )
    if info.max_tokens > config.context_length:
        wanted = f"at most the model's context of {config.context_length}"
        _refuse(folder / "tokenizer_config.json", "model_max_length", wanted, info.max_tokens)
    model = Classifier(trunk, n_labels).eval()
    with torch.no_grad():
        model.score.weight.copy_(read_tensors({SCORE: score})[SCORE])
    return model, tokenizer, info


def _find_score(folder: Path, info: ClassifierInfo) -> Stored:
    stored = list_tensors(folder)
    if SCORE not in stored:
        raise UserError(f"{folder}: {SCORE} is missing, the scores of {len(info.labels)} labels")
    return stored[SCORE]


def _read_info(content: dict[str, Any], path: Path) -> ClassifierInfo:
    names = content.get("id2label")
    numbers = [str(number) for number in range(len(names))] if isinstance(names, dict) else []
    if not isinstance(names, dict) or not names or set(names) != set(numbers) or not _are_texts(list(names.values())):
        _refuse(path, "id2label", "the labels by their numbers from 0", names)
    columns = content.get("text_columns")
    if not isinstance(columns, list) or not 1 <= len(columns) <= MOST_TEXTS or not _are_texts(columns):
        _refuse(path, "text_columns", "one column or two", columns)
    separator, problem = content.get("label_separator"), content.get("problem_type")
    if separator is not None and not (isinstance(separator, str) and separator):
        _refuse(path, "label_separator", "text or nothing", separator)
    if problem != PROBLEMS[separator is not None]:
        _refuse(path, "problem_type", PROBLEMS[separator is not None], problem)
    path = path.with_name("tokenizer_config.json")
    max_tokens = read_object(path).get("model_max_length")
    least = min_tokens(len(columns))
    if type(max_tokens) is not int or not least <= max_tokens <= LONGEST_CONTEXT:
        _refuse(path, "model_max_length", f"a number from {least} on", max_tokens)
    return ClassifierInfo([names[number] for number in numbers], columns, separator, max_tokens)


def _are_texts(values: list[Any]) -> bool:
    """Whether all are texts, each a different one."""
    return all(isinstance(value, str) and value for value in values) and len(set(values)) == len(values)


def _refuse(path: Path, key: str, wanted: str, given: Any) -> NoReturn:
    raise UserError(f"{path}: {key}: wanted {wanted}, given {listed([params.describe(given)])}")
