"""Labeled rows: a file in, checked rows in three splits out, and counts of the rows that were dropped.

    read_classify   texts and labels               read_records   columns of conversations and preferences

An invalid row ends the stage with one line that names the rows; with `on_error: skip` it is dropped and counted. Rows
are numbered as in the file, from 1; in .jsonl by lines. A file that cannot be parsed to its end always ends the stage.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from llm.core.errors import UserError
from llm.core.tables import SPLITS
from llm.corpus.readers.rows import SUFFIXES, Rows, open_rows
from llm.corpus.readers.streams import ContentError
from llm.finetune.data.splits import FRACTIONS, draw_splits, split_named
from llm.finetune.params import ClassifyTask, DPOTask, InstructTask, TaskParams

# Columns of our own beside those of the file: equal for duplicates, the group, the label that splits are stratified by.
KEY, GROUP, STRATUM = "\0key", "\0group", "\0stratum"


class Labeled(NamedTuple):
    """Rows with their `split` and their number `row` in the file, and counts of the rows that were dropped."""

    table: pd.DataFrame
    counts: dict[str, Any]


def read_file(path: Path, header: bool = True, encoding: str | None = None) -> tuple[pd.DataFrame, Rows]:
    """Return rows, numbered from 1 or by lines of JSON, with their encoding and dialect; UserError in one line."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: expected a {', '.join(SUFFIXES)} file, got {path.suffix or 'no suffix'}")
    try:
        with open_rows(path, header, encoding) as rows:
            found = list(rows)
    except ContentError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: expected a file of labeled rows, got an error: {error.strerror or error}") from None
    index = [row.number for row in found]
    return pd.DataFrame([row.values for row in found], index=index, columns=rows.columns, dtype=object), rows


def as_text(value: Any) -> str:
    """Return the value of a cell as text; a missing value is empty, and a whole number has no decimal point.

    >>> as_text(None), as_text(2.0), as_text(True)
    ('', '2', 'true')
    """
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            # NaN: a JSON row without the key.
            return "" if math.isnan(value) else str(int(value) if value.is_integer() else value)
        case bytes():  # a Parquet file need not declare bytes as text
            return value.decode(errors="backslashreplace")
    return str(value)


def some(values: list[str], n_shown: int = 5) -> str:
    """Return the first values on one line, long ones shortened.

    >>> some(["a", "b", "c"], n_shown=2)
    'a, b and 1 more'
    """
    shown = [value if value.isprintable() and len(value) <= 60 else repr(value[:60])[:60] for value in values[:n_shown]]
    return ", ".join(shown) + (f" and {len(values) - n_shown} more" if len(values) > n_shown else "")


def describe_rows(counts: Mapping[str, Any], max_tokens: int) -> list[str]:
    """Return lines on the number of rows, the format of the file, and the rows that were dropped, truncated or split.

    >>> describe_rows({"rows": {"train": 6, "val": 2}, "dropped": {"empty_text": 1}, "truncated": 2}, 32)
    ['rows: 6 train, 2 val', 'dropped: 1 empty_text', 'truncated to max_tokens (32): 2 of 8 rows (25.0%)']
    """
    lines = ["rows: " + ", ".join(f"{n:,} {split}" for split, n in counts["rows"].items())]
    lines += [f"{key}: {counts[key]}" for key in ("encoding", "dialect") if key in counts]
    if dropped := [f"{n:,} {reason}" for reason, n in counts["dropped"].items() if n]:
        lines.append(f"dropped: {', '.join(dropped)}")
    for split, n in counts.get("drawn_from_train", {}).items():
        lines.append(f"{split}: none in the file, {n:,} drawn from train")
    n_rows = sum(counts["rows"].values())
    for key, action in (("truncated", "truncated to"), ("split", "split at")):
        if n := counts.get(key):
            lines.append(f"{action} max_tokens ({max_tokens}): {n:,} of {n_rows:,} rows ({n / n_rows:.1%})")
    return lines


def read_classify(path: Path, task: ClassifyTask, seed: int) -> Labeled:
    """Return the columns `texts` (one or two per row), `labels` (one, or with a label_separator any number)."""
    label, separator = task.label_column, task.label_separator
    rows = _Rows(path, task, [*task.text_columns, label], task.header)
    for column in task.text_columns:
        rows.drop_where(column, _is_list, "list_of_texts", "text, got a list or a mapping")
        rows.drop_where(column, _is_empty, "empty_text", "text, got nothing")
    if separator is None:
        rows.drop_where(label, _is_list, "list_of_labels", "one label, got a list (see label_separator)")
        rows.drop_where(label, _is_empty, "empty_label", "text, got nothing")
    else:
        rows.drop_where(label, _is_nested, "nested_labels", "labels, got a mapping or a list within a list")
    table = rows.table
    texts = [[as_text(text) for text in row] for row in table[task.text_columns].itertuples(index=False)]
    table["texts"], table["labels"] = texts, [_split_labels(cell, separator) for cell in table[label]]
    table[KEY] = ["\0".join(" ".join(text.split()) for text in row) for row in texts]
    if separator is None:
        table[STRATUM] = table["labels"].map("".join)
    n_labels = table["labels"].map(json.dumps).groupby(table[KEY]).transform("nunique")
    rows.drop(n_labels > 1, "conflicting_labels", f"{label}: expected the same label for the same text, got several")
    rows.split(seed)
    _check_labels(rows, task)
    return rows.finish(["texts", "labels"])


def read_records(
    path: Path, task: InstructTask | DPOTask, columns: list[str], seed: int, optional: Collection[str] = ()
) -> Labeled:
    """Return the named columns: text as text, lists and mappings of JSON as they are; `optional` ones may be empty."""
    if reserved := [column for column in columns if column in ("split", "row")]:
        raise UserError(f"{path}: expected columns of other names than split and row, got {reserved[0]}")
    rows = _Rows(path, task, columns)
    for column in columns:
        if column not in optional:
            rows.drop_where(column, _is_empty, "empty_text", "text, got nothing")
        rows.table[column] = [_plain(cell) for cell in rows.table[column]]
    rows.table[KEY] = [json.dumps(row, default=str) for row in rows.table[columns].to_dict("records")]
    rows.split(seed)
    return rows.finish(columns)


class _Rows:
    """The valid rows of a file, by number, and how many were dropped for each reason."""

    def __init__(self, path: Path, task: TaskParams, columns: list[str], header: bool = True):
        self.path, self.task, self.dropped, self.counts = path, task, Counter[str](), dict[str, Any]()
        read = [*columns, *filter(None, [task.split_column])]
        if len(set(read)) < len(read):
            raise UserError(f"{path}: expected different columns, got {', '.join(read)}")
        # The group may be a column that is read as well: the prompt of several answers, the first of two texts.
        read = list(dict.fromkeys([*read, *filter(None, [task.group_column])]))
        table, file = read_file(path, header, task.encoding)
        if file.encoding and file.encoding.doubt:
            self.counts["encoding"] = ", ".join(file.encoding)
        if file.dialect:
            self.counts["dialect"] = str(file.dialect)
        _check_table(path, table, read)
        self.table = table[read].copy()
        if task.group_column is not None:
            self.table[GROUP] = self.table[task.group_column].map(as_text).str.strip()

    def drop_where(self, column: str, is_wrong: Callable[[Any], bool], reason: str, problem: str) -> None:
        self.drop(self.table[column].map(is_wrong), reason, f"{column}: expected {problem}")

    def drop(self, is_wrong: "pd.Series[Any]", reason: str, problem: str | None = None) -> None:
        """Drop rows and count them; with a `problem` and `on_error: fail` UserError with their numbers instead."""
        numbers = self.table.index[is_wrong.to_numpy(dtype=bool)]
        if len(numbers) and problem and self.task.on_error == "fail":
            raise UserError(f"{self.path}: {problem} in row {some(list(map(str, numbers)))}")
        self.dropped += Counter({reason: len(numbers)})
        self.table = self.table.drop(index=numbers)

    def split(self, seed: int) -> None:
        """Assign each row the split of the file, or a drawn one."""
        column, group = self.task.split_column, self.task.group_column
        if group is not None:
            self.drop(self.table[GROUP] == "", "empty_group", f"{group}: expected text, got nothing")
        if column is None:
            self.table["split"] = "train"
            self._draw_from_train(seed, FRACTIONS)
        else:
            self._read_split(column)
            missing = {name: of for name, of in FRACTIONS.items() if name not in set(self.table["split"])}
            if len(missing) == 1:  # the file has only the other one of val and test
                self._draw_from_train(seed, missing)
                self.counts["drawn_from_train"] = {name: int((self.table["split"] == name).sum()) for name in missing}
            if group is not None:
                n_splits = self.table["split"].groupby(self.table[GROUP]).transform("nunique")
                problem = f"{group}: expected each group in one split, got several"
                self.drop(n_splits > 1, "group_in_two_splits", problem)
        self.check_splits()

    def _read_split(self, column: str) -> None:
        self.drop_where(column, _is_empty, "empty_split", "text, got nothing")
        given = self.table[column].map(as_text)
        is_unknown = given.map(split_named).isna()
        unknown = some(sorted(set(given[is_unknown])))
        self.drop(is_unknown, "unknown_split", f"{column}: expected train, val or test, got {unknown}")
        split = self.table["split"] = self.table[column].map(as_text).map(split_named)
        # A text of train or val must not be in test, nor one of train in val.
        key = self.table[KEY]
        leaks = (split != "test") & key.isin(key[split == "test"]) | (split == "train") & key.isin(key[split == "val"])
        self.drop(leaks, "in_two_splits", f"{column}: expected each text in one split, got it in a later one too,")

    def _draw_from_train(self, seed: int, fractions: dict[str, float]) -> None:
        """Draw splits from the rows of train, of equal rows from the first: splits must not share them."""
        is_train = self.table["split"] == "train"
        self.drop(is_train & self.table[KEY].where(is_train).duplicated(), "duplicate")
        train = self.table[self.table["split"] == "train"]
        labels, groups = (train[name].tolist() if name in train else None for name in (STRATUM, GROUP))
        self.table.loc[train.index, "split"] = draw_splits(len(train), seed, labels, groups, fractions)

    def check_splits(self) -> None:
        """Raise UserError for a split without rows."""
        if empty := [split for split in SPLITS if split not in set(self.table["split"])]:
            groups = f" in {self.table[GROUP].nunique()} groups" if GROUP in self.table else ""
            dropped = ", ".join(f"{n} {reason}" for reason, n in self.dropped.items())
            problem = f"got none in {empty[0]} of {len(self.table)}{groups}{'; dropped: ' if dropped else ''}{dropped}"
            raise UserError(f"{self.path}: expected rows in train, val and test, {problem}")

    def finish(self, columns: list[str]) -> Labeled:
        table = self.table[[*columns, "split"]].assign(row=self.table.index).reset_index(drop=True)
        return Labeled(table, {"dropped": dict(sorted(self.dropped.items()))} | self.counts)


def _check_table(path: Path, table: pd.DataFrame, read: list[str]) -> None:
    if table.empty:
        raise UserError(f"{path}: expected labeled rows, got none")
    if missing := [column for column in read if column not in table]:
        raise UserError(f"{path}: expected columns {', '.join(missing)}, got {some(list(table.columns), 20)}")
    if several := [column for column in read if table.columns.tolist().count(column) > 1]:
        raise UserError(f"{path}: {several[0]}: expected one column of this name, got several")


def _check_labels(rows: _Rows, task: ClassifyTask) -> None:
    """Drop rows of labels that train lacks, or has too rarely; UserError unless two labels remain."""
    column, least = task.label_column, task.min_rows_per_label
    n_rows = Counter(rows.table.loc[rows.table["split"] == "train", "labels"].explode().dropna())
    rare = {label for label, n in n_rows.items() if n < least}
    found = some([f"{n_rows[label]} of {label}" for label in sorted(rare)])
    problem = f"{column}: expected at least {least} rows of each label in train, got {found},"
    rows.drop(rows.table["labels"].map(lambda row: not rare.isdisjoint(row)), "rare_label", problem)
    known = set(n_rows) - rare
    unknown = some(sorted(set(rows.table["labels"].explode().dropna()) - known))
    problem = f"{column}: expected labels that train has, got {unknown}"
    rows.drop(rows.table["labels"].map(lambda row: not known.issuperset(row)), "label_not_in_train", problem)
    if len(known) < (1 if task.label_separator else 2):
        found = some(sorted(known)) or "none"
        raise UserError(f"{rows.path}: {column}: expected two labels or more in train, got {found}")
    rows.check_splits()


def _is_list(cell: Any) -> bool:
    return isinstance(cell, list | dict)


def _is_nested(cell: Any) -> bool:
    return isinstance(cell, dict) or (_is_list(cell) and any(map(_is_list, cell)))


def _is_empty(cell: Any) -> bool:
    return not _is_list(cell) and not as_text(cell).strip()


def _split_labels(cell: Any, separator: str | None) -> list[str]:
    """Return the labels of a cell: the one, or where there is a separator each once, sorted."""
    if separator is None:
        return [as_text(cell).strip()]
    parts = cell if _is_list(cell) else as_text(cell).split(separator)
    return sorted({text for part in parts if (text := as_text(part).strip())})


def _plain(cell: Any) -> Any:
    """Return lists and mappings with all that is in them as text."""
    if isinstance(cell, list):
        return [_plain(part) for part in cell]
    if isinstance(cell, dict):
        return {key: _plain(value) for key, value in cell.items()}
    return as_text(cell)
