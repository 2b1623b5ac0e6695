"""Guess the kind and the columns of a finetuning task by the names of columns, or by cells where names are opaque."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from llm.core.errors import UserError
from llm.corpus.readers.rows import SEPARATED
from llm.finetune.data.reading import as_text, some
from llm.finetune.data.splits import split_named

# Names of columns in files that people share, the most common first.
TEXTS = ["text", "sentence", "content", "review", "body", "message", "comment", "tweet", "post", "document"]
TEXTS += ["utterance", "query", "question", "description", "headline", "title"]
PAIRS = [["premise", "hypothesis"], ["sentence1", "sentence2"], ["question1", "question2"], ["text1", "text2"]]
LABELS = ["label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "emotion", "tag", "tags"]
LABELS += ["genre", "stars", "rating"]
INPUTS = ["input", "context"]
PROMPTS = ["prompt", "question", "query", "input"]
ANSWERS = ["output", "completion", "response", "answer"]
CONVERSATIONS = ["messages", "conversations", "conversation", "dialogue", "chat"]
SPLITS = ["split", "fold", "set", "subset", "partition"]

Task = dict[str, Any]


def find_split(table: pd.DataFrame, file: Path, given: str | None) -> str | None:
    """Return the column of splits: `given`, or one that contains names of splits only, train and another one.

    UserError where a column has such a name and only some of its values are names of splits.
    """
    columns = list(table.columns)
    if given is not None:
        if given not in ("none", *columns):
            raise UserError(f"--split: expected none or one of the columns {some(columns, 20)}, got {given}")
        return None if given == "none" else given
    usual = _named(columns, SPLITS)
    for column in dict.fromkeys([*usual, *columns]):
        values = split_values(table[column])
        splits, unknown = set(values.values()) - {None}, [value for value, split in values.items() if split is None]
        if "train" in splits and not unknown and len(splits) > 1:
            return column
        if column in usual and splits and unknown:
            found = some([value or "nothing" for value in unknown])
            raise UserError(
                f"{file}: {column}: expected train, val and test in every row, got {found} as well; rename them, or "
                f"see --split none, which draws splits"
            )
    return None


def split_values(cells: "pd.Series[Any]") -> dict[str, str | None]:
    """Return the different values of a column with the splits that they denote."""
    return {value: split_named(value) for value in sorted(set(cells.map(as_text).str.strip()))}


def guess_columns(
    table: pd.DataFrame, file: Path, kind: str | None, texts: Sequence[str], label: str | None, header: bool
) -> Task:
    """Return the kind and the columns of a task, by the options and by a table without splits."""
    columns, see_header = list(table.columns), header and file.suffix.lower() in SEPARATED
    for option, column in [*(("--text", text) for text in texts), ("--label", label)]:
        if column is not None and column not in columns:
            raise UserError(f"{option}: expected one of the columns {some(columns, 20)}, got {column}")
    is_open = not texts and not label  # --text and --label alone are a text and its label
    if kind in (None, "dpo") and is_open and (found := _guess_dpo(columns)):
        return {"kind": "dpo"} | found
    if (kind == "instruct" or (kind is None and is_open)) and (rows := _guess_rows(table, columns, texts, label)):
        if not label:
            _refuse_ratings(table, file)
        system = _first([column for column in columns if column not in rows.values()], ["system"])
        return {"kind": "instruct", "rows": rows | ({"system": system} if system else {})}
    if kind in (None, "classify") and (found := _guess_classify(table, columns, list(texts), label)):
        if see_header and (value := found["label_column"]) in set(table[value].map(as_text)):
            raise UserError(
                f"{file}: expected a header, got a row as the first line ({some([value])}); see --no-header"
            )
        return {"kind": "classify"} | found
    if kind == "dpo":
        raise UserError(f"{file}: expected the columns prompt, chosen and rejected, got {some(columns, 20)}")
    expected = "an instruction and an answer" if kind == "instruct" else "a text and a label"
    options = "--text and --label" + (", or see --no-header" if see_header else "")
    raise UserError(f"{file}: expected {expected}, got the columns {some(columns, 20)}; name them with {options}")


def _guess_dpo(columns: list[str]) -> Task | None:
    names = (["prompt", "instruction", *PROMPTS], ["chosen"], ["rejected"])
    prompt, chosen, rejected = (_first(columns, of) for of in names)
    if not (prompt and chosen and rejected):
        return None
    given = _first(columns, INPUTS) if prompt.strip().lower() == "instruction" else None
    return {"prompt_column": prompt, "input_column": given, "chosen_column": chosen, "rejected_column": rejected}


def _guess_rows(table: pd.DataFrame, columns: list[str], texts: Sequence[str], label: str | None) -> Task | None:
    for column in [] if label else texts or _named(columns, CONVERSATIONS):
        match _sender_key(table[column]):
            case "role":
                return {"kind": "messages", "messages": column}
            case "from":
                return {"kind": "sharegpt", "conversations": column}
    answer = label or _first([column for column in columns if column not in texts], ANSWERS)
    instruction = texts[0] if texts else _first(columns, ["instruction"])
    if answer and instruction and len(texts) != 1:
        given = texts[1] if texts else _first(columns, INPUTS)
        return {"kind": "alpaca", "instruction": instruction, "input": given, "output": answer}
    prompt = texts[0] if texts else _first([column for column in columns if column != answer], PROMPTS)
    return {"kind": "prompt_completion", "prompt": prompt, "completion": answer} if answer and prompt else None


def _guess_classify(table: pd.DataFrame, columns: list[str], texts: list[str], label: str | None) -> Task | None:
    if len(texts) > 2:
        raise UserError(f"--text: expected one column or two, got {len(texts)}")
    label = label or _first([column for column in columns if column not in texts], LABELS)
    others = [column for column in columns if column != label]
    pair = next((found for names in PAIRS if len(found := _named(others, names)) == 2), None)
    texts = texts or pair or _named(others, TEXTS)[:1]
    if len(columns) == 2:  # one of them is named, or neither
        rest = [column for column in columns if column not in texts]
        label = label or (rest[0] if texts else _more_repeated(table, columns))
        texts = texts or [column for column in columns if label and column != label]
    if label is None or not texts or label in texts:
        return None
    has_several = table[label].map(lambda cell: isinstance(cell, list | dict) or "|" in as_text(cell)).any()
    return {"text_columns": texts, "label_column": label, "label_separator": "|" if has_several else None}


def _refuse_ratings(table: pd.DataFrame, file: Path) -> None:
    """Raise UserError where a column rates each answer, as in rows for KTO."""
    for column in _named(list(table.columns), ["label"]):
        values = [value.lower() for value in split_values(table[column])]
        if values in (["false", "true"], ["0", "1"]):
            raise UserError(
                f"{file}: {column}: expected good answers only, got {' and '.join(values)} beside them (KTO); keep the "
                "good ones, or make pairs with the columns prompt, chosen and rejected, or take all with --kind "
                "instruct --text … --label …, or learn the column itself with --kind classify"
            )


def _named(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the columns with one of the names, ignoring case, in the order of the names."""
    return [column for name in names for column in columns if column.strip().lower() == name]


def _first(columns: Sequence[str], names: Sequence[str]) -> str | None:
    return next(iter(_named(columns, names)), None)


def _more_repeated(table: pd.DataFrame, columns: list[str]) -> str | None:
    """Return which of two columns has few values, often repeated, where the other one has not."""
    n_values = {column: table[column].map(as_text).nunique() for column in columns}
    fewer, more = sorted(columns, key=lambda column: n_values[column])
    return fewer if 2 * n_values[fewer] <= min(n_values[more], len(table)) else None


def _sender_key(cells: "pd.Series[Any]") -> str | None:
    """Return the key of the sender in messages, role or from; None where the cells are not lists of messages."""
    for cell in cells:
        try:
            messages = json.loads(cell) if isinstance(cell, str) else cell
        except (ValueError, RecursionError):
            continue
        if isinstance(messages, list) and messages and isinstance(messages[0], dict):
            return next((key for key in ("role", "from") if key in messages[0]), None)
    return None
