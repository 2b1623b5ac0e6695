"""Predictions of a classifier for the rows of a file of any size: `python -m llm predict`.

    text              ──►      text            prediction  probability
    the rain falls             the rain falls  rain        0.93

One chunk of rows is in memory at a time. The output has the format, delimiter and quoting of the input, in UTF-8, and
replaces an older one when it is complete.
"""

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from llm.core import params
from llm.core.device import Machine
from llm.core.errors import UserError
from llm.core.params import EncodingName
from llm.corpus.readers.encodings import Encoding
from llm.corpus.readers.rows import SEPARATED, SUFFIXES, Row, Rows, open_rows
from llm.corpus.readers.streams import ContentError
from llm.export.hf.classifier import ClassifierInfo, read_classifier
from llm.finetune.classify.classifier import encode_texts, predict
from llm.finetune.data.labeled import as_text
from llm.tokens.templates import classifier_ids

CHUNK_ROWS, BATCH_ROWS = 512, 16
DIGITS = 6  # of a probability

Added = Sequence[str | float | None]  # the values of the new columns of a row
Add = Callable[[list[list[str]]], list[Added]]
Extended = Iterator[tuple[Row, Added]]


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

    Texts are in `text_columns`, by default those of training. Without a `header` the columns of a .csv or .tsv are
    called 1, 2, …. `out` (default FILE.predictions) is complete or absent; an invalid file is a UserError in one line.
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
    out, n_empty = out or file.with_name(f"{file.stem}.predictions{file.suffix}"), 0

    def add(texts: list[list[str]]) -> list[Added]:
        nonlocal n_empty
        places = [place for place, row in enumerate(texts) if all(text.strip() for text in row)]
        encoded = encode_texts([texts[place] for place in places], tokenizer)
        ids = [classifier_ids(row, tokenizer.special, info.max_tokens) for row in encoded]
        found = info.probabilities(predict(model, ids, tokenizer.pad, BATCH_ROWS, machine).double()).tolist()
        added: list[Added] = [[None] * len(names) for _ in texts]
        for place, probabilities in zip(places, found, strict=True):
            label, probability = choose(probabilities, info)
            numbers = [probability, *(probabilities if every_label else [])]
            added[place] = [label, *(round(number, DIGITS) for number in numbers)]
        n_empty += len(texts) - len(places)
        bar.update(len(texts))
        return added

    with tqdm(desc="predict", unit=" rows") as bar:
        guess = add_columns(file, out, text_columns or info.text_columns, names, add, header, encoding, chunk_rows)
    return Predictions(out, int(bar.n), n_empty, ", ".join(guess) if guess and guess.doubt else None)


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


def add_columns(
    file: Path,
    out: Path,
    texts: Sequence[str],
    names: Sequence[str],
    add: Add,
    header: bool = True,
    encoding: str | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> Encoding | None:
    """Write the rows of `file` and the columns `names`, a text and numbers that `add` makes of `texts`, to `out`."""
    suffix, part = file.suffix.lower(), out.with_name(f".{out.name}.part")
    if suffix not in SUFFIXES or not file.is_file():
        raise UserError(f"{file}: expected a {', '.join(SUFFIXES)} file, got {suffix if file.is_file() else 'none'}")
    if out.suffix.lower() != suffix or out.resolve() == file.resolve():
        raise UserError(f"{out}: expected another {suffix} file than {file} to write to")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open_rows(file, header, encoding) as rows:
            extended = _extend(rows, texts, names, add, chunk_rows)
            if suffix in SEPARATED:
                _write_separated(part, rows, names if header else None, extended)
            elif suffix == ".parquet":
                _write_parquet(part, file, names, extended, chunk_rows)
            else:
                _write_json(part, rows, names, extended)
        part.replace(out)
        return rows.encoding
    except (ContentError, pa.ArrowException, csv.Error) as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}") from None
    finally:
        part.unlink(missing_ok=True)


def _extend(rows: Rows, texts: Sequence[str], names: Sequence[str], add: Add, chunk_rows: int) -> Extended:
    if rows.columns is not None:
        _check_columns(rows.columns, texts, names)

    def texts_of(row: Row) -> list[str]:
        is_named = isinstance(row.values, dict)
        values = row.values if is_named else dict(zip(rows.columns or (), row.values, strict=True))
        if rows.columns is None:
            _check_columns(list(values), texts, names)
        if nested := [name for name in texts if isinstance(values[name], dict | list)]:
            problem = f"{nested[0]}: expected text, got {params.describe(values[nested[0]])}"
            raise ContentError("text", f"{row.place}: {problem}")
        return [as_text(values[name]) for name in texts]

    chunks = iter(lambda: list(islice(rows.rows, chunk_rows)), [])
    return chain.from_iterable(zip(chunk, add([*map(texts_of, chunk)]), strict=True) for chunk in chunks)


def _check_columns(columns: list[str], texts: Sequence[str], names: Sequence[str]) -> None:
    if missing := [column for column in texts if column not in columns]:
        raise ContentError("columns", f"expected columns {', '.join(missing)}, got {', '.join(map(str, columns))}")
    if several := [column for column in texts if columns.count(column) > 1]:
        raise ContentError("columns", f"{several[0]}: expected one column of this name, got several")
    if taken := [name for name in names if name in columns]:
        raise ContentError("columns", f"expected no column {taken[0]}, which is to be added, got one")


def _write_separated(part: Path, rows: Rows, names: Sequence[str] | None, extended: Extended) -> None:
    assert rows.columns is not None and rows.dialect is not None
    with part.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target, lineterminator="\n", **rows.dialect.options)
        if names:
            writer.writerow([*rows.columns, *names])
        for row, added in extended:
            try:
                writer.writerow([*row.values, *added])
            except csv.Error as error:  # a label with a tab or a line break, where quotes are text
                problem = f"expected values without quotes ({rows.dialect}), got others: {error}"
                raise ContentError("quotes", problem) from None


def _write_json(part: Path, rows: Rows, names: Sequence[str], extended: Extended) -> None:
    begin, between, end = ("[\n", ",\n", "\n]\n") if rows.is_array else ("", "\n", "\n")
    with part.open("w", encoding="utf-8") as target:
        mark = begin
        for row, added in extended:
            target.write(mark + json.dumps(row.values | dict(zip(names, added, strict=True)), ensure_ascii=False))
            mark = between
        target.write(end if mark == between else begin + end.lstrip())


def _write_parquet(part: Path, file: Path, names: Sequence[str], extended: Extended, chunk_rows: int) -> None:
    with pq.ParquetFile(file) as source:
        schema, kinds = source.schema_arrow, [pa.string(), *(pa.float64() for _ in names[1:])]
        whole = pa.schema([*schema, *map(pa.field, names, kinds)], metadata=schema.metadata)
        with pq.ParquetWriter(part, whole) as writer:
            for batch in source.iter_batches(chunk_rows):
                added = [values for _, values in islice(extended, batch.num_rows)]
                columns = [pa.array(column, kind) for column, kind in zip(zip(*added, strict=True), kinds, strict=True)]
                writer.write_batch(pa.RecordBatch.from_arrays([*batch.columns, *columns], schema=whole))
