"""Add a finetuning task for a file of labeled rows to params.yaml.

    review,stars                    reviews:
    Warm and dry.,5        ──►        kind: classify
    It leaks.,1                       text_columns: [review]
                                      label_column: stars …

Columns are guessed by name (`llm.commands.columns`), and the task states only what differs from `finetune.defaults`. It
is inserted as the first task; every other byte of the file stays.
"""

import io
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from llm.commands.columns import describe_columns, find_split, guess_columns, names_of, split_values
from llm.core import params
from llm.core.errors import UserError
from llm.core.params import EncodingName
from llm.corpus.readers.rows import SEPARATED
from llm.export.hf.base import open_base
from llm.finetune.data.labeled import describe_rows, read_classify
from llm.finetune.data.messages import read_conversations
from llm.finetune.data.reading import as_text, read_file, some
from llm.finetune.dpo.dpo import read_preferences
from llm.finetune.params import KINDS, TaskName, merge_defaults, resolve_task
from llm.finetune.shared.answers import spread
from llm.tokens.params import WindowParams
from llm.tokens.tokenizer import Tokenizer

EXPORT = Path("models/export/hf")
TARGET_STEPS = 300  # of training: 150 to 400 where 1 to 10 epochs allow it
MAX_ROW_TOKENS = 1024  # unless windows of the corpus are longer: a base may read far more
MEASURED_ROWS = 20_000  # of each split
EXTRA_TOKENS = {"classify": 1, "instruct": 4, "dpo": 4}  # special tokens and line ends around a text


class Lengths(NamedTuple):
    """Tokens of rows by split; bytes, where the tokenizer `missing` does not exist yet."""

    by_split: dict[str, Any]
    missing: Path | None

    @property
    def every(self) -> Any:
        """The lengths of all splits."""
        return np.concatenate(list(self.by_split.values()))


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
    read = read_file(file, header, params.check(EncodingName | None, encoding, "--encoding", "add-task"))
    if read.table.empty:
        raise UserError(f"{file}: expected labeled rows, got none")
    named = read.table.loc[:, [bool(str(column).strip()) for column in read.table.columns]]
    if not named.columns.is_unique:
        raise UserError(f"{file}: expected columns of different names, got {some(list(named.columns), 20)}")
    split = find_split(named, file, split)
    columns = guess_columns(named.drop(columns=[split] if split else []), file, kind, texts, label, header)
    path = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    guessed = read.encoding.name if read.encoding and read.encoding.doubt else encoding
    task = {"kind": columns["kind"], "base": base.as_posix(), "data": path.as_posix()} | columns
    task |= {"split_column": split, "encoding": guessed, "on_error": on_error}
    task |= {"header": header, "min_rows_per_label": 1} if task["kind"] == "classify" else {}
    task["max_tokens"] = _max_context(base, params.load(target, "sample", WindowParams).context_length)
    rows, counts = _read_as_stage(task, defaults, name, file, content["seed"])
    lengths = _measure(rows, task["kind"], base)
    task |= _suit(task, rows, lengths, file)
    batch_size = resolve_task(task, defaults, name, target).training.batch_size
    n_train = counts["rows"]["train"]
    task["training"] = {"epochs": choose_epochs(n_train, batch_size)}
    insert_task(target, name, differing(task, merge_defaults({"kind": task["kind"]}, defaults)))
    n_steps = math.ceil(n_train / batch_size) * int(task["training"]["epochs"])
    splits = f"of {split}" if split else "drawn by the seed"
    return [
        f"{name}: {task['kind']}, {describe_columns(columns, rows)}; {len(read.table):,} rows, splits {splits}",
        *describe_rows(counts, task["max_tokens"]),
        *_describe_columns(read.table, named, columns, split),
        f"epochs: {task['training']['epochs']:g}, about {n_steps:,} steps of {batch_size} rows",
        *_describe_lengths(lengths, task),
        "next:",
        *([] if any(Path(f"{of}.dvc").is_file() for of in (file, *file.parents)) else [f"  dvc add {task['data']}"]),
        f"  dvc repro finetune@{name}",
    ]


def _check_options(name: str, file: Path, base: Path, kind: str | None, on_error: str, header: bool) -> None:
    params.check(TaskName, name, "NAME", "add-task")
    params.check(Literal["fail", "skip"], on_error, "--on-error", "add-task")
    if kind is not None and kind not in KINDS:
        raise UserError(f"--kind: expected {', '.join(KINDS)}, got {kind}")
    for path in (file, base):
        # They become part of a command in dvc.yaml.
        if not re.fullmatch(r"[\w./@%+=:,-]+", path.as_posix()):
            raise UserError(f"{path}: expected a path without spaces, quotes and the like")
    if not header and file.suffix.lower() not in SEPARATED:
        raise UserError(f"{file}: expected a .csv or .tsv with --no-header, got {file.suffix or 'no suffix'}")


def _read_as_stage(task: Any, defaults: Any, name: str, file: Path, seed: int) -> tuple[dict[str, list[Any]], Any]:
    """Return rows by split and counts, as the task's stage reads them; UserError where it would refuse the file."""

    def read(on_error: str) -> tuple[dict[str, list[Any]], Any]:
        resolved = resolve_task(task | {"on_error": on_error}, defaults, name)
        if task["kind"] == "instruct":
            return read_conversations(file, resolved, seed)
        if task["kind"] == "dpo":
            return read_preferences(file, resolved, seed)
        labeled = read_classify(file, resolved, seed)
        by_split = labeled.table.groupby("split")
        return {str(of): list(zip(part["texts"], part["labels"], strict=True)) for of, part in by_split}, labeled.counts

    try:
        rows, counts = read(task["on_error"])
    except UserError as error:
        if task["on_error"] == "skip":
            raise
        try:
            dropped = read("skip")[1]["dropped"]
        except UserError:
            raise error from None
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in dropped.items())
        raise UserError(f"{error}; --on-error skip drops {reasons}") from None
    if empty := [split for split, part in rows.items() if not part]:
        raise UserError(f"{file}: expected rows in {empty[0]}, got none")
    return rows, {"rows": {split: len(rows[split]) for split in ("train", "val", "test")}} | counts


def _max_context(base: Path, context_length: int) -> int:
    """Return the number of tokens that a row may have."""
    if base == EXPORT:
        return context_length  # it may not exist yet
    if not (base / "config.json").is_file():
        raise UserError(f"--base: expected a Hugging Face folder, {base / 'config.json'} does not exist")
    shape = params.read(base / "config.json")  # JSON is YAML
    context = shape.get("max_position_embeddings", shape.get("n_positions", context_length))
    return min(int(context), max(MAX_ROW_TOKENS, context_length))


def _measure(rows: dict[str, list[Any]], kind: str, base: Path) -> Lengths:
    """Return the lengths of some rows of each split, as the base's tokenizer counts them."""
    made = base / "tokenizer.json"
    if base == EXPORT and not made.is_file():
        made = Path("data/tokenizer/tokenizer.json")  # which the export will contain
    tokenizer = None
    if made.is_file():
        with TemporaryDirectory() as folder:
            tokenizer = Tokenizer.load(open_base(made.parent, Path(folder) / "tokenizer.json")[0])
    lengths = {}
    for split, part in rows.items():
        texts = [row_texts(kind, row) for row in spread(part, MEASURED_ROWS)]
        flat = [text for of in texts for text in of]
        encoded = tokenizer.encode_batch(flat, n_threads=2) if tokenizer else [text.encode() for text in flat]
        ends = np.cumsum([len(of) for of in texts])
        sums = np.cumsum([len(ids) + EXTRA_TOKENS[kind] for ids in encoded])[ends - 1]
        lengths[split] = np.diff(sums, prepend=0)
    return Lengths(lengths, None if tokenizer else base / "tokenizer.json")


def row_texts(kind: str, row: Any) -> list[str]:
    """Return the texts of a row: of a conversation with their roles, of a preference with the longer answer."""
    if kind == "classify":
        return list(row[0])
    turns = row if kind == "instruct" else [*row.prompt, ("assistant", max(row.chosen, row.rejected, key=len))]
    return [f"{role}\n{content}" for role, content in turns]


def _suit(task: Any, rows: dict[str, list[Any]], lengths: Lengths, file: Path) -> dict[str, Any]:
    """Return values that suit the rows; UserError where no row of a split fits the base."""
    max_tokens = min(task["max_tokens"], 32 * math.ceil(int(lengths.every.max()) / 32))
    if task["kind"] == "classify":
        n_rows = Counter(label for _, labels in rows["train"] for label in labels)
        return {"max_tokens": max_tokens, "min_rows_per_label": min(2, *n_rows.values())}
    long = [split for split, of in lengths.by_split.items() if of.min() > max_tokens]
    if long and not lengths.missing:
        raise UserError(f"{file}: expected rows of at most {max_tokens} tokens in {long[0]}, got longer ones")
    return {"max_tokens": max_tokens}


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


def insert_task(target: Path, name: str, task: Any) -> None:
    """Insert a task as the first one of a params file; every other byte stays, and an error changes nothing."""
    text = target.read_bytes().decode()
    node = YAML(typ="safe", pure=True).compose(text)
    for key in ("finetune", "tasks"):
        key_node, node = next(pair for pair in node.value if pair[0].value == key)
    if node.value and node.flow_style:
        raise UserError(f"{target}: finetune.tasks: expected each task on lines of its own, got one line")
    if not node.value:  # {}
        text = text[: node.start_mark.index].rstrip(" ") + text[node.end_mark.index :]
    indent = node.value[0][0].start_mark.column if node.value else key_node.start_mark.column + 2
    at = text.find("\n", key_node.end_mark.index) + 1 or len(text)
    end = "\r\n" if "\r\n" in text else "\n"
    before = text[:at] if text[:at].endswith("\n") else text[:at] + end
    added = "".join(" " * indent + line + end for line in _to_yaml({name: task}).splitlines())
    after = before + added + text[at:]
    checked = YAML(typ="safe", pure=True).load(after)
    assert checked["finetune"]["tasks"].pop(name) == task
    assert checked == params.read(target)
    part = target.resolve().with_name(f".{target.name}.part")
    part.write_bytes(after.encode())
    part.chmod(target.stat().st_mode)
    part.replace(target.resolve())


def _to_yaml(content: Any) -> str:
    """Return YAML with the innermost lists and mappings on one line."""
    yaml, text = YAML(), io.StringIO()
    yaml.default_flow_style, yaml.width, yaml.allow_unicode = None, 1 << 20, True
    yaml.representer.add_representer(type(None), lambda of, _: of.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml.dump(content, text)
    return text.getvalue()


def _describe_columns(table: pd.DataFrame, named: pd.DataFrame, columns: Any, split: str | None) -> list[str]:
    """Return lines on names of splits, and on columns that are not read."""
    renamed = [f"{value} → {of}" for value, of in split_values(named, split).items() if value != of]
    ignored = [column for column in map(str, named.columns) if column not in {split, *names_of(columns)}]
    unnamed = table.iloc[:, [place for place, column in enumerate(table.columns) if not str(column).strip()]]
    lines = [f"splits: {', '.join(renamed)}"] if renamed else []
    lines += [f"ignored columns: {some(ignored, 20)}"] if ignored else []
    if unnamed.shape[1]:
        n_rows = int(unnamed.map(lambda cell: bool(as_text(cell).strip())).any(axis=1).sum())
        lines.append(f"ignored columns: {unnamed.shape[1]} without a name, with text in {n_rows:,} rows")
    return lines


def _describe_lengths(lengths: Lengths, task: Any) -> list[str]:
    every, max_tokens, missing = lengths.every, task["max_tokens"], lengths.missing
    unit = f"bytes, at least as many as tokens ({missing} does not exist yet)" if missing else "tokens"
    lines = [f"max_tokens: {max_tokens}; the longest row has {int(every.max()):,} {unit}"]
    if n := int((every > max_tokens).sum()):
        action = "truncated to" if task["kind"] == "classify" else "dropped, longer than"
        at_most = "at most " if missing else ""
        lines.append(f"{action} max_tokens: {at_most}{n:,} of {len(every):,} rows ({n / len(every):.1%})")
    return lines
