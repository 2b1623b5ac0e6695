"""Add a finetuning task for a file of labeled rows to params.yaml.

    review,stars                    reviews:
    Warm and dry.,5        ──►        kind: classify
    It leaks.,1                       text_columns: [review]
                                      label_column: stars …

Columns are guessed by name (`llm.commands.columns`), and the task states only what differs from `finetune.defaults`. It
is inserted as the first task.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pandas as pd

from llm.commands.columns import find_split, guess_columns, split_values
from llm.commands.presets import edited
from llm.core import params
from llm.core.errors import UserError
from llm.core.params import EncodingName, Name
from llm.corpus.readers.rows import SEPARATED
from llm.export.hf.base import open_base
from llm.finetune.data.labeled import as_text, describe_rows, read_classify, read_file, some
from llm.finetune.data.messages import read_conversations
from llm.finetune.dpo.job import make_pair, read_preferences
from llm.finetune.params import KINDS, merge_defaults, resolve_task
from llm.finetune.shared.language import spread
from llm.finetune.shared.rows import make_row
from llm.tokens.bpe import train_bpe
from llm.tokens.params import WindowParams
from llm.tokens.tokenizer import Tokenizer

EXPORT = Path("models/export/hf")
TARGET_STEPS = 300  # of training: 150 to 400 where 1 to 10 epochs allow it
MEASURED_ROWS = 20_000  # of each split

RowsBySplit = dict[str, list[Any]]


def add_task(
    target: Path,
    name: str,
    file: Path,
    kind: str | None = None,
    texts: Sequence[str] = (),
    label: str | None = None,
    base: Path = EXPORT,
    header: bool = True,
    split: str | None = None,
    on_error: str = "fail",
    encoding: str | None = None,
) -> list[str]:
    """Insert a task into the params file `target`; return lines on what was guessed and on the next commands.

    `texts` and `label` name columns; `split` is a column or "none". UserError for a name that exists, columns that
    cannot be guessed, and a file that the task's stage would refuse; `target` is then unchanged.
    """
    content = params.read(target)
    defaults = content["finetune"]["defaults"]
    if name in content["finetune"]["tasks"]:
        raise UserError(f"{target}: finetune.tasks.{name}: expected a new name, it exists")
    _check_options(name, file, base, kind, on_error, header)
    table, read = read_file(file, header, params.check(EncodingName | None, encoding, "--encoding", "add-task"))
    named = _named_columns(table, file)
    split = find_split(named, file, split)
    columns = guess_columns(named.drop(columns=[split] if split else []), file, kind, texts, label, header)
    path = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    guessed = read.encoding.name if read.encoding and read.encoding.doubt else encoding
    task = {"kind": columns["kind"], "base": base.as_posix(), "data": path.as_posix()} | columns
    task |= {"split_column": split, "encoding": guessed, "on_error": on_error}
    task |= {"header": header, "min_rows_per_label": 1} if task["kind"] == "classify" else {}
    context = _max_context(base, params.load(target, "sample", WindowParams).context_length)
    rows, counts = _read_as_stage(task, defaults, name, file, content["seed"])
    max_tokens, notes = _suit(task, resolve_task(task, defaults, name, target), rows, base, context, file)
    batch_size, n_train = resolve_task(task, defaults, name, target).training.batch_size, len(rows["train"])
    task["training"] = {"epochs": choose_epochs(n_train, batch_size)}
    _insert(target, name, differing(task, _unstated(task["kind"], defaults)))
    n_steps = math.ceil(n_train / batch_size) * int(task["training"]["epochs"])
    splits = f"of {split}" if split else "drawn by the seed"
    is_tracked = any(Path(f"{part}.dvc").is_file() for part in (file, *file.parents))
    return [
        f"{name}: {task['kind']}, {_describe_columns(columns, rows)}; {len(table):,} rows, splits {splits}",
        *describe_rows(counts, max_tokens),
        *_describe_others(table, named, columns, split),
        f"epochs: {task['training']['epochs']:g}, about {n_steps:,} steps of {batch_size} rows",
        *notes,
        "next:",
        *([] if is_tracked else [f"  dvc add {task['data']}"]),
        f"  dvc repro finetune@{name}",
    ]


def _unstated(kind: str, defaults: Any) -> dict[str, Any]:
    """Return the values of a task of a kind that states nothing, of keys that have one."""
    optional = {key: field.default for key, field in KINDS[kind].model_fields.items() if not field.is_required()}
    return optional | merge_defaults({"kind": kind}, defaults)


def _named_columns(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Return the columns that have a name; UserError without rows or with two of a name."""
    if table.empty:
        raise UserError(f"{file}: expected labeled rows, got none")
    named = table[[column for column in dict.fromkeys(table.columns) if column.strip()]]
    if not named.columns.is_unique:
        raise UserError(f"{file}: expected columns of different names, got {some(list(named.columns), 20)}")
    return named


def _insert(target: Path, name: str, task: Any) -> None:
    with edited(target) as content:
        if content["finetune"]["tasks"]:
            content["finetune"]["tasks"].insert(0, name, task)
        else:  # {} is on one line, and would stay there
            content["finetune"]["tasks"] = {name: task}


def _check_options(name: str, file: Path, base: Path, kind: str | None, on_error: str, header: bool) -> None:
    params.check(Name, name, "NAME", "add-task")
    params.check(Literal["fail", "skip"], on_error, "--on-error", "add-task")
    if kind is not None and kind not in KINDS:
        raise UserError(f"--kind: expected {', '.join(KINDS)}, got {kind}")
    for path in (file, base):
        # They become part of a command in dvc.yaml.
        if not re.fullmatch(r"[\w./@%+=:,-]+", path.as_posix()):
            raise UserError(f"{path}: expected a path without spaces, quotes and the like")
    if not header and file.suffix.lower() not in SEPARATED:
        raise UserError(f"{file}: expected a .csv or .tsv with --no-header, got {file.suffix or 'no suffix'}")


def _max_context(base: Path, context_length: int) -> int:
    """Return the context of a base, which limits the tokens of a row."""
    if base == EXPORT:
        return context_length  # it may not exist yet
    if not (base / "config.json").is_file():
        raise UserError(f"--base: expected a Hugging Face folder, {base / 'config.json'} does not exist")
    shape = params.read(base / "config.json")  # JSON is YAML
    context = shape.get("max_position_embeddings", shape.get("n_positions", context_length))
    return int(context)


def _read_as_stage(task: Any, defaults: Any, name: str, file: Path, seed: int) -> tuple[RowsBySplit, Any]:
    """Return rows by split and counts, as the task's stage reads them; UserError where it would refuse the file."""

    def read(on_error: str) -> tuple[RowsBySplit, Any]:
        resolved = resolve_task(task | {"on_error": on_error}, defaults, name)
        if task["kind"] != "classify":
            read_rows: Any = read_conversations if task["kind"] == "instruct" else read_preferences
            rows, counts = read_rows(file, resolved, seed)
        else:
            table, counts = read_classify(file, resolved, seed)
            parts = {split: table[table["split"] == split] for split in ("train", "val", "test")}
            rows = {split: list(zip(part["texts"], part["labels"], strict=True)) for split, part in parts.items()}
        return rows, {"rows": {split: len(part) for split, part in rows.items()}} | counts

    try:
        rows, counts = read(task["on_error"])
    except UserError as error:
        try:
            dropped = read("skip")[1]["dropped"]
        except UserError:
            raise error from None
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in dropped.items())
        raise UserError(f"{error}; --on-error skip drops {reasons}") from None
    if empty := [split for split, part in rows.items() if not part]:
        raise UserError(f"{file}: expected rows in {empty[0]}, got none")
    return rows, counts


def _suit(task: Any, resolved: Any, rows: RowsBySplit, base: Path, context: int, file: Path) -> tuple[int, list[str]]:
    """Set values that suit the rows; return the most tokens of a row, and lines on the lengths of rows.

    UserError where no row of a split fits the base.
    """
    tokenizer, missing = _open_tokenizer(base)
    measure: dict[str, Callable[[Any], int]] = {  # the length of a row before it is truncated
        "classify": lambda row: sum(len(tokenizer.encode(text)) + 1 for text in row[0]),
        "instruct": lambda row: len(make_row(tokenizer, row).ids),
        "dpo": lambda row: make_pair(row, tokenizer).length,
    }
    by_split = {split: [*map(measure[task["kind"]], spread(part, MEASURED_ROWS))] for split, part in rows.items()}
    lengths = list(chain(*by_split.values()))
    longest, max_tokens = max(lengths), resolved.max_tokens_of(by_split["train"], context)
    action = "dropped, longer than"
    if task["kind"] == "classify":
        n_rows = Counter(chain(*(labels for _, labels in rows["train"])))
        task["min_rows_per_label"], action = min(2, *n_rows.values()), "truncated to"
    elif not missing and (shortest := max(map(min, by_split.values()))) > max_tokens:
        raise UserError(f"{file}: expected rows of at most {max_tokens} tokens in each split, got {shortest} or more")
    unit = f"bytes, at least as many as tokens ({missing} does not exist yet)" if missing else "tokens"
    at_most = "at most " if missing else ""
    lines = [f"max_tokens: {at_most}{max_tokens} by the rows of train; the longest row has {longest:,} {unit}"]
    if n := sum(np.array(lengths) > max_tokens):
        found = f"{at_most}{n:,} of {len(lengths):,} rows ({n / len(lengths):.1%})"
        lines.append(f"{action} max_tokens: {found}")
    return max_tokens, lines


def _open_tokenizer(base: Path) -> tuple[Tokenizer, Path | None]:
    """Return the base's tokenizer; where the file does not exist yet, one of bytes, and the file."""
    made = base / "tokenizer.json"
    if base == EXPORT and not made.is_file():
        made = Path("data/tokenizer/tokenizer.json")  # which the export will contain
    if not made.is_file():
        return Tokenizer.of(train_bpe([], 0)), base / "tokenizer.json"
    with TemporaryDirectory() as folder:
        return Tokenizer.load(open_base(made.parent, Path(folder) / "tokenizer.json")[0]), None


def choose_epochs(n_rows: int, batch_size: int) -> float:
    """Return 1 to 10 epochs with a number of steps near TARGET_STEPS.

    >>> choose_epochs(100, 32), choose_epochs(3_000, 32), choose_epochs(100_000, 32)
    (10.0, 3.0, 1.0)
    """
    return float(min(10, max(1, round(TARGET_STEPS * batch_size / n_rows))))


def differing(task: Any, defaults: Any) -> Any:
    """Return the keys of a task whose values are not the defaults, kind, base and data first.

    >>> differing({"kind": "dpo", "beta": 0.1, "training": {"epochs": 2.0}}, {"beta": 0.1, "training": {"epochs": 1.0}})
    {'kind': 'dpo', 'training': {'epochs': 2.0}}
    """
    found = {}
    for key, value in task.items():
        default = defaults.get(key)
        is_section = isinstance(value, dict) and isinstance(default, dict)
        stated = differing(value, default) if is_section else value
        if key == "kind" or stated not in (default, {}):
            found[key] = stated
    return found


def _names_of(columns: Any) -> list[str]:
    values = {key: of for key, of in columns.get("rows", columns).items() if key not in ("kind", "label_separator")}
    return [*values.pop("text_columns", []), *filter(None, values.values())]


def _describe_columns(columns: Any, rows: RowsBySplit) -> str:
    """Return the columns of a task on one line."""
    names = _names_of(columns)
    if columns["kind"] == "instruct":
        return f"{columns['rows']['kind']} ({', '.join(names)})"
    if columns["kind"] == "dpo":
        return f"{' and '.join(names[:-2])} → {names[-2]} rather than {names[-1]}"
    n_labels = f"{len({label for _, labels in rows['train'] for label in labels}):,} labels"
    if columns["label_separator"] is not None:
        n_labels = f"any number of labels, separated by {columns['label_separator']}"
    return f"{' and '.join(names[:-1])} → {names[-1]} ({n_labels})"


def _describe_others(table: pd.DataFrame, named: pd.DataFrame, columns: Any, split: str | None) -> list[str]:
    """Return lines on names of splits, and on columns that are not read."""
    splits = split_values(named[split]) if split else {}
    renamed = [f"{value} → {of}" for value, of in splits.items() if value != of]
    ignored = [column for column in named.columns if column not in {split, *_names_of(columns)}]
    unnamed = table.loc[:, table.columns.str.strip() == ""]
    lines = [f"splits: {', '.join(renamed)}"] if renamed else []
    lines += [f"ignored columns: {some(ignored, 20)}"] if ignored else []
    if unnamed.shape[1]:
        n_rows = int(unnamed.map(lambda cell: bool(as_text(cell).strip())).any(axis=1).sum())
        lines.append(f"ignored columns: {unnamed.shape[1]} without a name, with text in {n_rows:,} rows")
    return lines
