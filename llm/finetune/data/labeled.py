"""Labeled rows, checked: a file in, rows in three splits out, and what was left out of it.

    read_classify   texts and labels               read_records   the columns of conversations and preferences

What is wrong with a row ends the stage with one line that names the rows, or with `on_error: skip` the row is left
out and counted. Row numbers are the file's, the first is 1; in .jsonl they are lines. A file that cannot be read to
its end ends the stage in any case.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llm.core.errors import UserError
from llm.core.tables import SPLITS
from llm.finetune.data.reading import as_text, read_file, some
from llm.finetune.data.splits import SHARES, draw_splits, split_named
from llm.finetune.params import ClassifyTask, DPOTask, InstructTask, TaskParams


@dataclass(frozen=True)
class Labeled:
    """Rows with their `split` and their number `row` in the file, and counts of what was left out."""

    table: pd.DataFrame
    counts: dict[str, Any]


def describe_rows(counts: Mapping[str, Any], max_tokens: int) -> list[str]:
    """Return lines that say how many rows there are, how the file was read, and what was left out, merged or cut.

    `counts` are a task's metrics.

    >>> describe_rows({"rows": {"train": 6, "val": 2}, "skipped": {"empty_text": 1}, "rows_cut_to_max_tokens": 2}, 32)
    ['rows: 6 train, 2 val', 'left out: 1 with empty_text', 'cut to max_tokens, 32: 2 of 8 rows (25.0%)']
    """
    lines = ["rows: " + ", ".join(f"{n:,} {split}" for split, n in counts["rows"].items())]
    if "encoding" in counts:
        lines.append(f"the file's encoding, which encoding: can name: {counts['encoding']}")
    if "dialect" in counts:
        lines.append(f"the file's rows: {counts['dialect']}")
    if counts["skipped"]:
        lines.append("left out: " + ", ".join(f"{n:,} with {reason}" for reason, n in counts["skipped"].items()))
    if same := counts.get("dropped_same_row_again"):
        lines.append(f"left out: {same:,} that another row equals")
    for split, n in counts.get("drawn_from_train", {}).items():
        lines.append(f"{split}: the file has none, {n:,} were drawn from train")
    n_rows = sum(counts["rows"].values())
    for key, (what, n_others) in TOO_LONG.items():
        if n := counts.get(key):
            total = n_rows + n * n_others
            lines.append(f"{what} max_tokens, {max_tokens}: {n:,} of {total:,} rows ({n / total:.1%})")
    return lines


def rows_section(described: Sequence[str]) -> str:
    """Return the Markdown section of a report with the lines of `describe_rows`."""
    return "\n".join(["", "## Rows", "", *(f"- {line}" for line in described), ""])


# A count → what happened to rows of more than max_tokens, and whether they are missing from the rows that are left.
TOO_LONG = {
    "rows_cut_to_max_tokens": ("cut to", 0),
    "cut_too_long": ("cut to", 0),
    "split_too_long": ("split, longer than", 0),
    "dropped_too_long": ("dropped, longer than", 1),
}


def read_classify(path: Path, task: ClassifyTask, seed: int) -> Labeled:
    """The columns `texts` (one or two a row), `labels` (exactly one where there is no label_separator), split, row."""
    rows = _Rows(path, task, [*task.text_columns, task.label_column], header=task.header)
    for column in task.text_columns:
        is_list = rows.table[column].map(_is_list)
        rows.leave_out(is_list, "list_of_texts", f"{column}: wanted text, given a list or a mapping")
        rows.leave_out_empty(column, "empty_text")
    label = task.label_column
    if task.label_separator is None:
        told = f"{label}: wanted one label, given a list (see label_separator)"
        rows.leave_out(rows.table[label].map(_is_list), "list_of_labels", told)
        rows.leave_out_empty(label, "empty_label")
        labels = [[as_text(cell).strip()] for cell in rows.table[label]]
    else:
        told = f"{label}: wanted labels, given a mapping or a list within a list"
        rows.leave_out(rows.table[label].map(_is_nested), "nested_labels", told)
        labels = [_many_labels(cell, task.label_separator) for cell in rows.table[label]]
    texts = [[as_text(text) for text in row] for row in rows.table[task.text_columns].itertuples(index=False)]
    rows.table["texts"], rows.table["labels"] = texts, labels
    key = rows.table["texts"].map(lambda texts: "\0".join(" ".join(text.split()) for text in texts))
    found = pd.DataFrame({"key": key, "label": rows.table["labels"].map(json.dumps)})
    conflicting = found.groupby("key")["label"].transform("nunique") > 1
    several = "given several" if task.label_separator is None else "given others"
    rows.leave_out(conflicting, "conflicting_labels", f"{label}: wanted one label for one text, {several}")
    rows.split(key[~conflicting], seed, None if task.label_separator else rows.table["labels"].map("".join))
    _check_labels(rows, task)
    return rows.finish(["texts", "labels"])


def read_records(
    path: Path,
    task: InstructTask | DPOTask,
    columns: list[str],
    seed: int,
    may_be_empty: frozenset[str] = frozenset(),
) -> Labeled:
    """The named columns, split, row; text as text, lists and mappings of JSON as they are."""
    if taken := [column for column in columns if column in ("split", "row")]:
        raise UserError(f"{path}: wanted columns of other names than split and row, given {taken[0]}")
    rows = _Rows(path, task, columns)
    for column in columns:
        if column not in may_be_empty:
            rows.leave_out_empty(column, "empty_text")
        rows.table[column] = [_plain(cell) for cell in rows.table[column]]
    whole = [json.dumps(row, default=str) for row in rows.table[columns].to_dict("records")]
    rows.split(pd.Series(whole, index=rows.table.index), seed, None)
    return rows.finish(columns)


class _Rows:
    """The rows of a file that are left, by number, and how many were left out for which reason."""

    def __init__(self, path: Path, task: TaskParams, columns: Sequence[str], header: bool = True):
        self.path, self.task = path, task
        self.skipped: Counter[str] = Counter()
        self.counts: dict[str, Any] = {}
        read = [*columns, *([] if task.split_column is None else [task.split_column])]
        if len(set(read)) < len(read):
            raise UserError(f"{path}: wanted different columns, given {', '.join(read)}")
        # A group may be what is read too: the prompt that several answers have, the first of two texts.
        wanted = list(dict.fromkeys([*read, *([] if task.group_column is None else [task.group_column])]))
        file = read_file(path, header, task.encoding)
        table = file.table
        if file.encoding and file.encoding.doubt:
            self.counts["encoding"] = ", ".join(file.encoding)
        if file.dialect:
            self.counts["dialect"] = file.dialect
        if table.empty:
            raise UserError(f"{path}: wanted labeled rows, given none")
        if missing := [column for column in wanted if column not in table.columns]:
            given = some(list(map(str, table.columns)), n_shown=20)
            raise UserError(
                f"{path}: wanted the columns {', '.join(wanted)}; {', '.join(missing)} is not among {given}"
            )
        if again := [column for column in wanted if list(table.columns).count(column) > 1]:
            raise UserError(f"{path}: {again[0]}: wanted one column of this name, given several")
        self.table = table[wanted].copy()
        # By itself, for what is read may take a column's place.
        self.group = None if task.group_column is None else table[task.group_column].map(as_text).str.strip()

    def leave_out_empty(self, column: str, reason: str) -> None:
        """Leave out the rows that have nothing but spaces there."""
        is_empty = self.table[column].map(lambda cell: not _is_list(cell) and not as_text(cell).strip())
        self.leave_out(is_empty, reason, f"{column}: wanted text in every row, empty")

    def leave_out(self, is_wrong: "pd.Series[bool]", reason: str, told: str) -> None:
        """Leave rows out and count them; or where the task wants it UserError, what is `told` and their numbers."""
        numbers = self.table.index[is_wrong.to_numpy(dtype=bool)]
        if not len(numbers):
            return
        if self.task.on_error == "fail":
            raise UserError(f"{self.path}: {told} in row {some(list(map(str, numbers)))}")
        self.skipped[reason] += len(numbers)
        self.table = self.table.drop(index=numbers)

    def split(self, key: "pd.Series[str]", seed: int, labels: "pd.Series[str] | None") -> None:
        """Give each row its split: the file's own, or one that is drawn; rows of one `key` are the same row twice."""
        column = self.task.split_column
        if self.group is not None:
            told = f"{self.task.group_column}: wanted text in every row, empty"
            self.leave_out(self.group[self.table.index] == "", "empty_group", told)
        if column is None:
            self._drop_same_again(key[self.table.index])
            self.table["split"] = self._draw(labels, seed, SHARES)
        else:
            self.leave_out_empty(column, "empty_split")
            given = self.table[column].map(as_text)
            is_unknown = given.map(split_named).isna()
            told = f"{column}: expected train, val or test, got {some(sorted(set(given[is_unknown])))}"
            self.leave_out(is_unknown, "unknown_split", told)
            self.table["split"] = self.table[column].map(as_text).map(split_named)
            self._refuse_leaks(key, column)
            self._draw_what_is_missing(key, labels, seed)
        self._one_split_a_group()
        for split in SPLITS:
            if not (self.table["split"] == split).any():
                groups = "" if self.group is None else f" in {self.group[self.table.index].nunique()} groups"
                told = f"{split} has none of {len(self.table)}{groups}"
                if self.skipped:
                    told += f"; left out: {', '.join(f'{n} of {reason}' for reason, n in self.skipped.items())}"
                raise UserError(f"{self.path}: wanted rows in train, val and test, {told}")

    def _drop_same_again(self, key: "pd.Series[str]") -> None:
        """Where splits are drawn a row counts once, or train and test could share it."""
        again = key[key.duplicated()].index
        if len(again):
            self.counts["dropped_same_row_again"] = len(again)
            self.table = self.table.drop(index=again)

    def _draw(self, labels: "pd.Series[str] | None", seed: int, shares: dict[str, float]) -> Any:
        groups = None if self.group is None else self.group[self.table.index].tolist()
        of_rows = None if labels is None else labels[self.table.index].tolist()
        return draw_splits(len(self.table), seed, of_rows, groups, shares)

    def _refuse_leaks(self, key: "pd.Series[str]", column: str) -> None:
        """What stands in train or val may not stand in test, nor what stands in train in val."""
        key = key[self.table.index]
        split = self.table["split"]
        tested, validated = set(key[split == "test"]), set(key[split == "val"])
        leaks = (split != "test") & key.isin(tested) | (split == "train") & key.isin(validated)
        self.leave_out(leaks, "in_two_splits", f"{column}: wanted each text in one split, a later one has it too,")

    def _draw_what_is_missing(self, key: "pd.Series[str]", labels: "pd.Series[str] | None", seed: int) -> None:
        """A file that brings train and one split more gets the other one out of train."""
        missing = {split: share for split, share in SHARES.items() if not (self.table["split"] == split).any()}
        if len(missing) != 1:
            return
        self._drop_same_again(key[self.table.index[self.table["split"] == "train"]])
        in_train = self.table["split"] == "train"
        whole, self.table = self.table, self.table[in_train].copy()
        whole.loc[in_train, "split"] = self._draw(labels, seed, missing)
        self.table = whole
        self.counts["drawn_from_train"] = {split: int((whole["split"] == split).sum()) for split in missing}

    def _one_split_a_group(self) -> None:
        if self.group is None or self.task.split_column is None:
            return
        n_splits = self.table["split"].groupby(self.group[self.table.index]).transform("nunique")
        told = f"{self.task.group_column}: wanted each group in one split, given in several"
        self.leave_out(n_splits > 1, "group_in_two_splits", told)

    def finish(self, columns: list[str]) -> Labeled:
        """The rows that are left, numbered."""
        table = self.table[[*columns, "split"]].assign(row=self.table.index).reset_index(drop=True)
        return Labeled(table, {"skipped": dict(sorted(self.skipped.items()))} | self.counts)


def _check_labels(rows: _Rows, task: ClassifyTask) -> None:
    """Labels have to be learned to be asked for, and there have to be two."""
    n_rows = Counter(label for row in rows.table.loc[rows.table["split"] == "train", "labels"] for label in row)
    rare = {label for label, n in n_rows.items() if n < task.min_rows_per_label}
    told = f"{task.label_column}: wanted {task.min_rows_per_label} rows or more of a label in train"
    shown = some([f"{n_rows[label]} of {label}" for label in sorted(rare)])
    rows.leave_out(rows.table["labels"].map(lambda row: bool(rare & set(row))), "rare_label", f"{told}, given {shown},")
    unknown = {label for row in rows.table["labels"] for label in row} - (set(n_rows) - rare)
    told = f"{task.label_column}: wanted labels that train has, given {some(sorted(unknown))}"
    rows.leave_out(rows.table["labels"].map(lambda row: bool(unknown & set(row))), "label_not_in_train", told)
    known = sorted(set(n_rows) - rare)
    if len(known) < (1 if task.label_separator else 2):
        given = f"only {some(known)}" if known else "none"
        raise UserError(f"{rows.path}: {task.label_column}: wanted two labels or more in train, given {given}")
    for split in SPLITS:
        if not (rows.table["split"] == split).any():
            raise UserError(f"{rows.path}: wanted rows in {split} whose label is in train, given none")


def _is_list(cell: Any) -> bool:
    return isinstance(cell, list | tuple | dict | np.ndarray)


def _is_nested(cell: Any) -> bool:
    return isinstance(cell, dict) or (_is_list(cell) and any(map(_is_list, cell)))


def _many_labels(cell: Any, separator: str) -> list[str]:
    """The labels of a cell in the order of the alphabet, each once."""
    parts = list(cell) if _is_list(cell) else as_text(cell).split(separator)
    return sorted({text for part in parts if (text := as_text(part).strip())})


def _plain(cell: Any) -> Any:
    """Text as text, and what Parquet reads as arrays as lists."""
    if isinstance(cell, np.ndarray | list | tuple):
        return [_plain(part) for part in cell]
    if isinstance(cell, dict):
        return {key: _plain(value) for key, value in cell.items()}
    return as_text(cell)
