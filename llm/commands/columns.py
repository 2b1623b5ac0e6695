"""Guess the kind and the columns of a finetuning task by the names of columns, or by cells where names are opaque."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from llm.core.errors import UserError
from llm.corpus.readers.rows import SEPARATED
from llm.finetune.data.labeled import as_text, some
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
    candidates = dict.fromkeys([*usual, *columns])
    return next((column for column in candidates if _is_split(table[column], column in usual, file)), None)


def _is_split(cells: "pd.Series[Any]", is_usual: bool, file: Path) -> bool:
    values = split_values(cells)
    splits, unknown = {*values.values()} - {None}, [key or "nothing" for key in values if not values[key]]
    if is_usual and splits and unknown:
        problem = f"expected train, val and test in every row, got {some(unknown)} as well"
        raise UserError(f"{file}: {cells.name}: {problem}; rename them, or see --split none, which draws splits")
    return "train" in splits and len(splits) > 1 and not unknown


def split_values(cells: "pd.Series[Any]") -> dict[str, str | None]:
    """Return the different values of a column with the splits that they denote."""
    return {value: split_named(value) for value in sorted(set(cells.map(as_text).str.strip()))}


def guess_columns(
    table: pd.DataFrame, file: Path, kind: str | None, texts: Sequence[str], label: str | None, header: bool
) -> Task:
    """Return the kind and the columns of a task, by the options and by a table without splits."""
    columns, see_header = list(table.columns), header and file.suffix.lower() in SEPARATED
    _check_named(columns, texts, label)
    # --text and --label without --kind are a text and its label.
    kinds = [kind] if kind else ["classify"] if texts or label else ["dpo", "instruct", "classify"]
    guesses = {"dpo": _guess_dpo, "instruct": _guess_instruct, "classify": _guess_classify}
    for each in kinds:
        if found := guesses[each](table, file, list(texts), label):
            if see_header:
                _check_header(table, file, found.get("label_column"))
            return {"kind": each} | found
    expected = {"dpo": "the columns prompt, chosen and rejected", "instruct": "an instruction and an answer"}
    advice = "" if kind == "dpo" else "; name them with --text and --label" + ", or see --no-header" * see_header
    needed = expected.get(kind or "", "a text and a label")
    raise UserError(f"{file}: expected {needed}, got the columns {some(columns, 20)}{advice}")


def _check_named(columns: list[str], texts: Sequence[str], label: str | None) -> None:
    for option, column in [*(("--text", text) for text in texts), ("--label", label)]:
        if column not in (None, *columns):
            raise UserError(f"{option}: expected one of the columns {some(columns, 20)}, got {column}")


def _check_header(table: pd.DataFrame, file: Path, name: str | None) -> None:
    if name and name in set(table[name].map(as_text)):
        raise UserError(f"{file}: expected a header, got a row as the first line ({some([name])}); see --no-header")


def _guess_dpo(table: pd.DataFrame, _: Path, texts: list[str], label: str | None) -> Task | None:
    columns = list(table.columns)
    prompt, chosen, rejected = (_first(columns, of) for of in (["instruction", *PROMPTS], ["chosen"], ["rejected"]))
    if texts or label or not (prompt and chosen and rejected):
        return None
    given = _first(columns, INPUTS) if prompt.strip().lower() == "instruction" else None
    return {"prompt_column": prompt, "input_column": given, "chosen_column": chosen, "rejected_column": rejected}


def _guess_instruct(table: pd.DataFrame, file: Path, texts: list[str], label: str | None) -> Task | None:
    columns = list(table.columns)
    rows = (None if label else _find_messages(table, texts)) or _find_answers(columns, texts, label)
    if rows is None:
        return None
    ratings = [] if label else _named(columns, ["label"])
    if any([value.lower() for value in split_values(table[of])] in (["false", "true"], ["0", "1"]) for of in ratings):
        problem = f"{ratings[0]}: expected good answers only, got a column that rates them (KTO)"
        options = "--kind instruct --text … --label … takes all, --kind classify learns the ratings"
        raise UserError(f"{file}: {problem}; keep the good ones, or make pairs of chosen and rejected; {options}")
    system = _first(_without(columns, *rows.values()), ["system"])
    return {"rows": rows | ({"system": system} if system else {})}


def _find_messages(table: pd.DataFrame, texts: list[str]) -> Task | None:
    for column in texts or _named(list(table.columns), CONVERSATIONS):
        keys = next(filter(None, map(_message_keys, table[column])), set())
        if "role" in keys:
            return {"kind": "messages", "messages": column}
        if "from" in keys:
            return {"kind": "sharegpt", "conversations": column}
    return None


def _message_keys(cell: Any) -> set[str]:
    """Return the keys of the first message in a cell; none where it is not a list of messages."""
    try:
        messages = json.loads(cell) if isinstance(cell, str) else cell
    except (ValueError, RecursionError):
        return set()
    is_list = isinstance(messages, list) and messages and isinstance(messages[0], dict)
    return {*messages[0]} if is_list else set()


def _find_answers(columns: list[str], texts: list[str], label: str | None) -> Task | None:
    answer = label or _first(_without(columns, *texts), ANSWERS)
    inputs: list[str | None] = [*texts[:2]]
    if not texts and (instruction := _first(columns, ["instruction"])):
        inputs = [instruction, _first(columns, INPUTS)]
    inputs = inputs or [*_named(_without(columns, answer), PROMPTS)[:1]]
    if not answer or not inputs:
        return None
    if len(inputs) == 2:
        return {"kind": "alpaca", "instruction": inputs[0], "input": inputs[1], "output": answer}
    return {"kind": "prompt_completion", "prompt": inputs[0], "completion": answer}


def _guess_classify(table: pd.DataFrame, _: Path, texts: list[str], label: str | None) -> Task | None:
    columns = list(table.columns)
    if len(texts) > 2:
        raise UserError(f"--text: expected one column or two, got {len(texts)}")
    label = label or _first(_without(columns, *texts), LABELS)
    texts = texts or _usual_texts(_without(columns, label))
    if len(columns) == 2:
        texts, label = _of_two(table, texts, label)
    if label is None or not texts or label in texts:
        return None
    is_list = table[label].map(lambda cell: isinstance(cell, list | dict) or "|" in as_text(cell))
    return {"text_columns": texts, "label_column": label, "label_separator": "|" if is_list.any() else None}


def _usual_texts(columns: list[str]) -> list[str]:
    pair = next((found for names in PAIRS if len(found := _named(columns, names)) == 2), None)
    return pair or _named(columns, TEXTS)[:1]


def _of_two(table: pd.DataFrame, texts: list[str], label: str | None) -> tuple[list[str], str | None]:
    """Return the text and the label of a table of two columns, of which one is found, or neither."""
    columns = list(table.columns)
    label = label or (next(iter(_without(columns, *texts)), None) if texts else _more_repeated(table))
    return texts or (_without(columns, label) if label else []), label


def _more_repeated(table: pd.DataFrame) -> str | None:
    """Return which of two columns has few values, often repeated, where the other one has not."""
    n_values = {column: table[column].map(as_text).nunique() for column in table.columns}
    fewer, more = sorted(n_values, key=lambda column: n_values[column])
    return fewer if 2 * n_values[fewer] <= min(n_values[more], len(table)) else None


def _named(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the columns with one of the names, ignoring case, in the order of the names."""
    return [column for name in names for column in columns if column.strip().lower() == name]


def _without(columns: list[str], *taken: str | None) -> list[str]:
    return [column for column in columns if column not in taken]


def _first(columns: Sequence[str], names: Sequence[str]) -> str | None:
    return next(iter(_named(columns, names)), None)
