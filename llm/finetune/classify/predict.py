"""A classifier and a file of texts in, the same file with a prediction in every row out: `python -m llm predict`."""

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

CHUNK_ROWS = 512
BATCH_ROWS = 16
DIGITS = 6  # of a probability


@dataclass(frozen=True)
class Predictions:
    """Where they were written, how many rows there are, how many of them have no text and no prediction.

    `encoding` is the file's one where it was guessed, with the confidence in it.
    """

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

    The texts are in `text_columns`, or where none are named in the columns that the classifier was trained on.
    Written is `out`, or FILE.predictions beside the file, whole or not at all; what is wrong is a UserError in one
    line. See `llm.finetune.data.columns` for the formats and the `header`.
    """
    params.check(EncodingName | None, encoding, "--encoding", "predict")
    model, tokenizer, info = read_classifier(folder)
    if text_columns and len(text_columns) != len(info.text_columns):
        given = ", ".join(text_columns)
        raise UserError(f"--text: wanted {len(info.text_columns)} in number, as {folder} learned from, given {given}")
    # The same probabilities in every chunk and client: rounded products would hang on the rows of a batch.
    machine = replace(machine, matmul_dtype="float32")
    model = model.to(machine.device)
    each = [f"probability_{label}" for label in info.labels] if every_label else []
    change = Change(
        text_columns or info.text_columns, ["prediction", "probability", *each], header, chunk_rows, encoding
    )
    out = out or file.with_name(f"{file.stem}.predictions{file.suffix}")
    n_rows, n_empty = 0, 0
    with tqdm(desc="predict", unit=" rows") as bar:

        def add(texts: list[list[str]]) -> list[list[Value]]:
            nonlocal n_rows, n_empty
            places = [place for place, row in enumerate(texts) if all(text.strip() for text in row)]
            rows = _probabilities(model, tokenizer, info, [texts[place] for place in places], machine)
            added: list[list[Value]] = [[None] * len(change.names) for _ in texts]
            for place, probabilities in zip(places, rows, strict=True):
                shown = probabilities if every_label else []
                chosen, probability = choose(probabilities, info)
                added[place] = [chosen, *(round(of, DIGITS) for of in (probability, *shown))]
            n_rows, n_empty = n_rows + len(texts), n_empty + len(texts) - len(places)
            bar.update(len(texts))
            return added

        found = add_columns(file, out, change, add)
    return Predictions(out, n_rows, n_empty, ", ".join(found) if found and found.doubt else None)


def choose(probabilities: Sequence[float], info: ClassifierInfo) -> tuple[str, float]:
    """The predicted label and its probability.

    Where labels are any number, all those above one half, and the probability that just these are right: each label is
    a yes or no of its own.

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
    """Of each label, for each row of texts."""
    if not texts:
        return []
    ids = [classifier_ids(row, tokenizer.special, info.max_tokens) for row in encode_texts(texts, tokenizer)]
    return info.probabilities(predict(model, ids, tokenizer.pad, BATCH_ROWS, machine).double()).tolist()
