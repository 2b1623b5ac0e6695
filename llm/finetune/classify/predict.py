"""Predictions of a classifier for the rows of a file: `python -m llm predict`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from llm.core import params
from llm.core.device import Machine
from llm.core.errors import UserError
from llm.core.params import EncodingName
from llm.export.hf.classifier import ClassifierInfo, read_classifier
from llm.finetune.classify.classifier import encode_texts, predict
from llm.finetune.data.columns import Change, Value, add_columns
from llm.model.classifier import Classifier
from llm.tokens.templates import classifier_ids
from llm.tokens.tokenizer import Tokenizer

CHUNK_ROWS, BATCH_ROWS = 512, 16
DIGITS = 6  # of a probability


@dataclass(frozen=True)
class Predictions:
    """The output, its rows, those without a text and so without a prediction, and a guessed encoding of the file."""

    out: Path
    rows: int
    without_text: int
    encoding: str | None = None


def predict_file(
    folder: Path,
    file: Path,
    out: Path | None,
    text_columns: Sequence[str],
    machine: Machine,
    *,
    every_label: bool = False,
    header: bool = True,
    encoding: str | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> Predictions:
    """Add `prediction` and `probability` to the rows of `file`, and with `every_label` the probability of each label.

    Texts are in `text_columns`, by default those of training. `out` (default FILE.predictions) is complete or absent;
    an invalid file is a UserError in one line.
    """
    params.check(EncodingName | None, encoding, "--encoding", "predict")
    model, tokenizer, info = read_classifier(folder)
    if text_columns and len(text_columns) != len(info.text_columns):
        expected = f"{len(info.text_columns)} of them, as {folder} was trained on"
        raise UserError(f"--text: expected {expected}, got {', '.join(text_columns)}")
    # Equal probabilities in any chunk: rounded products would depend on the other rows of a batch.
    machine = replace(machine, matmul_dtype="float32")
    model = model.to(machine.device)
    names = ["prediction", "probability", *(f"probability_{label}" for label in info.labels if every_label)]
    change = Change(text_columns or info.text_columns, names, header, chunk_rows, encoding)
    out = out or file.with_name(f"{file.stem}.predictions{file.suffix}")
    n_rows = n_empty = 0
    with tqdm(desc="predict", unit=" rows") as bar:

        def add(texts: list[list[str]]) -> list[list[Value]]:
            nonlocal n_rows, n_empty
            places = [place for place, row in enumerate(texts) if all(text.strip() for text in row)]
            added: list[list[Value]] = [[None] * len(names) for _ in texts]
            found = _probabilities(model, tokenizer, info, [texts[place] for place in places], machine)
            for place, probabilities in zip(places, found, strict=True):
                label, probability = choose(probabilities, info)
                numbers = [probability, *(probabilities if every_label else [])]
                added[place] = [label, *(round(number, DIGITS) for number in numbers)]
            n_rows, n_empty = n_rows + len(texts), n_empty + len(texts) - len(places)
            bar.update(len(texts))
            return added

        found = add_columns(file, out, change, add)
    return Predictions(out, n_rows, n_empty, ", ".join(found) if found and found.doubt else None)


def choose(probabilities: Sequence[float], info: ClassifierInfo) -> tuple[str, float]:
    """Return the predicted label and its probability.

    With any number of labels: those above one half, and the probability that exactly these are right.

    >>> choose([0.2, 0.8], ClassifierInfo(["rain", "sun"], ["text"], None, 9))
    ('sun', 0.8)
    >>> choose([0.75, 0.5, 1.0], ClassifierInfo(["ice", "rain", "sun"], ["text"], "|", 9))
    ('ice|sun', 0.375)
    """
    if info.label_separator is None:
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        return info.labels[best], probabilities[best]
    chosen = [label for label, of in zip(info.labels, probabilities, strict=True) if of > 0.5]
    return info.label_separator.join(chosen), math.prod(max(of, 1 - of) for of in probabilities)


def _probabilities(
    model: Classifier, tokenizer: Tokenizer, info: ClassifierInfo, texts: list[list[str]], machine: Machine
) -> list[list[float]]:
    if not texts:
        return []
    ids = [classifier_ids(row, tokenizer.special, info.max_tokens) for row in encode_texts(texts, tokenizer)]
    return info.probabilities(predict(model, ids, tokenizer.pad, BATCH_ROWS, machine).double()).tolist()
