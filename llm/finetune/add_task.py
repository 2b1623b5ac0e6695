"""A file of labeled rows in, a task for it in params.yaml: the kind, the columns, numbers that suit the rows.

    review,stars                    reviews:
    Warm and dry.,5        ──►        kind: classify
    It leaks.,1                       text_columns: [review]
                                      label_column: stars …

Columns are known by their names, and two that say nothing by what is in them. What is guessed is told; what cannot be
is asked for. The text is added behind the last task, so that all else in params.yaml stays as it was, byte for byte.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode

from llm import params
from llm.errors import UserError
from llm.finetune.labeled import SPLIT_NAMES
from llm.finetune.params import FinetuneParams, TaskName
from llm.finetune.reading import as_text, read_file, some
from llm.text.params import SampleParams

SEPARATED = (".csv", ".tsv")
KINDS = ("classify", "instruct", "prefer")
# What columns are called in files that people share, the plainest name first.
TEXTS = ["text", "sentence", "content", "review", "body", "message", "comment", "tweet", "post", "document"]
TEXTS += ["utterance", "query", "question", "description", "headline", "title"]
PAIRS = [["premise", "hypothesis"], ["sentence1", "sentence2"], ["question1", "question2"], ["text1", "text2"]]
LABELS = ["label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "emotion", "tag", "tags"]
LABELS += ["genre", "stars", "rating"]
INPUTS = ["input", "context"]
PROMPTS = ["prompt", "question", "query", "input"]
ANSWERS = ["output", "completion", "response", "answer"]
CONVERSATIONS = ["messages", "conversations", "conversation", "dialogue", "chat"]
SPLIT_COLUMNS = ["split", "fold", "set"]

BATCH_ROWS = 32
AIMED_STEPS = 300  # between 150 and 400 where 1 to 10 epochs allow
BYTES_A_TOKEN = 3.3
TRAIN_SHARE = 0.7  # where the file brings no splits


@dataclass(frozen=True)
class Columns:
    """The kind of a task, its keys for columns, and the columns whose text the model reads, one after the other."""

    kind: str
    keys: dict[str, Any]
    texts: list[str]


def add_task(
    target: Path,
    name: str,
    file: Path,
    kind: str | None = None,
    texts: Sequence[str] = (),
    label: str | None = None,
    base: Path = Path("models/export"),
    header: bool = True,
) -> list[str]:
    """Add a task to the params file `target`; gives lines that say what was guessed and how to go on.

    `texts` and `label` are columns: what is read, and what is to be said of it. UserError in one line for a name that
    is taken, a file that cannot be read, and columns that cannot be guessed; `target` is then as it was.
    """
    finetune: FinetuneParams = params.load(target, "finetune", FinetuneParams)
    sample: SampleParams = params.load(target, "sample", SampleParams)
    if name in finetune.tasks:
        raise UserError(f"{target}: finetune.tasks.{name}: wanted a name that is free, it is there")
    _check_words(name, file, base, kind)
    if not header and file.suffix.lower() not in SEPARATED:
        raise UserError(f"{file}: wanted a .csv or .tsv with --no-header, given {file.suffix or 'no ending'}")
    table = read_file(file, header)
    if table.empty:
        raise UserError(f"{file}: wanted labeled rows, given none")
    if not table.columns.is_unique:
        raise UserError(f"{file}: wanted columns of different names, given {some(list(map(str, table.columns)), 20)}")
    split = find_split(table)
    columns = guess_columns(table.drop(columns=[split] if split else []), file, kind, texts, label, header)
    weights, context = _read_base(base, sample.context_length)
    values: dict[str, Any] = {"base": base.as_posix(), "weights": weights, "data": _inside(file), "split_column": split}
    values |= columns.keys | {"max_tokens": min(context, choose_max_tokens(table, columns.texts))}
    values["epochs"] = choose_epochs(_n_train(table, split))
    if columns.kind == "classify":
        values["min_rows_per_label"] = _choose_min_rows(table, values)
    section = write_section(columns.kind, values)
    insert_task(target, name, section)
    return _tell(name, table, file, columns, values)


def _check_words(name: str, file: Path, base: Path, kind: str | None) -> None:
    params.check(TaskName, name, "NAME", "add-task")
    if kind is not None and kind not in KINDS:
        raise UserError(f"--kind: wanted {', '.join(KINDS)}, given {kind}")
    for path in (file, base):
        # dvc.yaml puts them into a command as they are.
        if not re.fullmatch(r"[\w./@%+=:,-]+", path.as_posix()):
            raise UserError(f"{path}: wanted a path without spaces, quotes and the like")


def _inside(file: Path) -> str:
    """A path as params.yaml has it: from the root of the repository, where the file is in it."""
    return (file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file).as_posix()


def find_split(table: pd.DataFrame) -> str | None:
    """The column that says which split a row is in: by its name, and it holds known splits only, two or more."""
    for column in _named(list(table.columns), SPLIT_COLUMNS):
        values = set(map(str.strip, map(as_text, table[column])))
        if values <= set(SPLIT_NAMES) and len({SPLIT_NAMES[value] for value in values}) > 1:
            return column
    return None


def guess_columns(
    table: pd.DataFrame, file: Path, kind: str | None, texts: Sequence[str], label: str | None, header: bool
) -> Columns:
    """The kind and the columns of a table without its split, by what is given and by the names that columns have."""
    given = list(map(str, table.columns))
    for option, wanted in [*(("--text", text) for text in texts), *([("--label", label)] if label else [])]:
        if wanted not in given:
            raise UserError(f"{option}: wanted one of the columns {some(given, 20)}, given {wanted}")
    wanted_kinds = KINDS if kind is None else (kind,)
    if "prefer" in wanted_kinds and not texts and not label:
        prompt = _first(given, PROMPTS)
        if prompt and (chosen := _first(given, ["chosen"])) and (rejected := _first(given, ["rejected"])):
            keys = {"prompt_column": prompt, "chosen_column": chosen, "rejected_column": rejected}
            return Columns("prefer", keys, [prompt, chosen])
    # What is given by --text and --label alone is a text and its label.
    if "instruct" in wanted_kinds and (kind == "instruct" or not (texts or label)):
        rows = _guess_conversations(table, given, list(texts), label)
        if rows is not None:
            return Columns(
                "instruct", {"rows": rows}, [value for key, value in rows.items() if key != "kind" and value]
            )
    if "classify" in wanted_kinds:
        found = _guess_classify(table, file, list(texts), label, header)
        if found is not None:
            return found
    if kind == "prefer":
        raise UserError(f"{file}: wanted columns called prompt, chosen and rejected, given {some(given, 20)}")
    wanted = "an instruction and an answer" if kind == "instruct" else "a text and a label"
    options = "--text and --label" + (", or see --no-header" if header and file.suffix.lower() in SEPARATED else "")
    raise UserError(f"{file}: wanted {wanted}, given the columns {some(given, 20)}; name them with {options}")


def _named(columns: Sequence[Any], names: Sequence[str]) -> list[str]:
    """The columns with one of the names, capitals aside, in the order of the names."""
    return [column for name in names for column in map(str, columns) if column.strip().lower() == name]


def _first(columns: Sequence[str], names: Sequence[str]) -> str | None:
    return next(iter(_named(columns, names)), None)


def _guess_conversations(
    table: pd.DataFrame, given: list[str], texts: list[str], label: str | None
) -> dict[str, Any] | None:
    for column in [] if label else texts or _named(given, CONVERSATIONS):
        sender = _sender_key(table[column])
        if sender == "role":
            return {"kind": "messages", "messages": column}
        if sender == "from":
            return {"kind": "sharegpt", "conversations": column}
    answer = label or _first([column for column in given if column not in texts], ANSWERS)
    instruction = texts[0] if texts else _first(given, ["instruction"])
    if answer is None:
        return None
    if instruction and len(texts) != 1:
        extra = texts[1] if texts else _first(given, INPUTS)
        return {"kind": "alpaca", "instruction": instruction, "input": extra, "output": answer}
    prompt = texts[0] if texts else _first([column for column in given if column != answer], PROMPTS)
    return {"kind": "prompt_completion", "prompt": prompt, "completion": answer} if prompt else None


def _sender_key(cells: "pd.Series[Any]") -> str | None:
    """What a message calls the one who says it, role or from; None where the cells are no lists of messages."""
    for cell in cells:
        messages = _parse(cell)
        if isinstance(messages, list | np.ndarray) and len(messages) and isinstance(messages[0], Mapping):
            return next((key for key in ("role", "from") if key in messages[0]), None)
    return None


def _parse(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return None


def _guess_classify(
    table: pd.DataFrame, file: Path, texts: list[str], label: str | None, header: bool
) -> Columns | None:
    if len(texts) > 2:
        raise UserError(f"--text: wanted one column or two, given {len(texts)}")
    columns = list(map(str, table.columns))
    label = label or _first([column for column in columns if column not in texts], LABELS)
    rest = [column for column in columns if column != label]
    pairs = [_named(rest, pair) for pair in PAIRS]
    texts = texts or next((pair for pair in pairs if len(pair) == 2), []) or _named(rest, TEXTS)[:1]
    if label is None and not texts and len(columns) == 2:
        label = _more_repeated(table, *columns)
        texts = [column for column in columns if column != label] if label else []
    elif label and not texts and len(rest) == 1:
        texts = rest
    elif label is None and len(texts) == 1 and len(columns) == 2:
        label = next(column for column in columns if column not in texts)
    if label is None or not texts or label in texts:
        return None
    if header and file.suffix.lower() in SEPARATED and label in set(table[label]):
        raise UserError(f"{file}: wanted a header, given a row as its first line ({some([label])}); see --no-header")
    separator = "|" if table[label].map(_has_several).any() else None
    return Columns(
        "classify",
        {"text_columns": texts, "label_column": label, "label_separator": separator, "header": header},
        texts,
    )


def _more_repeated(table: pd.DataFrame, one: str, other: str) -> str | None:
    """Which of two columns holds few values, again and again, where the other one does not."""
    n_values = {column: table[column].map(as_text).nunique() for column in (one, other)}
    fewer, more = sorted(n_values, key=lambda column: n_values[column])
    return fewer if 2 * n_values[fewer] <= min(n_values[more], len(table)) else None


def _has_several(cell: Any) -> bool:
    return isinstance(cell, list | np.ndarray) or (isinstance(cell, str) and "|" in cell)


def choose_max_tokens(table: pd.DataFrame, texts: list[str]) -> int:
    """What 95 rows of 100 need, by their bytes, and a few tokens between the texts; a multiple of 32."""
    n_bytes = sum(table[column].map(lambda cell: len(_content(cell).encode())) for column in texts)
    tokens = float(np.quantile(np.asarray(n_bytes, dtype=np.float64), 0.95)) / BYTES_A_TOKEN + 2 + 4 * len(texts)
    return 32 * math.ceil(tokens / 32)


def _content(cell: Any) -> str:
    """The text of a cell; of messages, as a list or as JSON, what is said."""
    messages = _parse(cell) if not isinstance(cell, str) or cell.lstrip().startswith("[") else None
    if isinstance(messages, list | np.ndarray):
        parts = [message.values() if isinstance(message, Mapping) else [message] for message in messages]
        return "\n".join(as_text(value) for part in parts for value in part)
    return as_text(cell)


def choose_epochs(n_rows: int) -> float:
    """Whole passes over the rows of train that come nearest to the steps that are aimed at, 1 to 10.

    >>> choose_epochs(100), choose_epochs(3_000), choose_epochs(100_000)
    (10.0, 3.0, 1.0)
    """
    return float(min(10, max(1, round(AIMED_STEPS * BATCH_ROWS / n_rows))))


def _n_train(table: pd.DataFrame, split: str | None) -> int:
    if split is None:
        return max(1, round(TRAIN_SHARE * len(table)))
    return max(1, sum(as_text(cell).strip() == "train" for cell in table[split]))


def _read_base(base: Path, context_length: int) -> tuple[str, int]:
    """The base's weights as dvc.yaml wants them, and how many tokens it sees at once."""
    if base == Path("models/export"):
        return "model.safetensors", context_length  # it may not have been made yet
    if not (base / "config.json").is_file():
        raise UserError(f"--base: wanted a Hugging Face folder, {base / 'config.json'} is not there")
    shape = params.read(base / "config.json")  # JSON is YAML too
    context = shape.get("max_position_embeddings", shape.get("n_positions", context_length))
    weights = "model.safetensors" if (base / "model.safetensors").is_file() else "."
    return weights, min(int(context), context_length)


def _choose_min_rows(table: pd.DataFrame, values: dict[str, Any]) -> int:
    """2, or where a label has too few rows for that: of fewer than 4 one is in train where the splits are drawn."""
    if values["label_separator"] is not None:
        return 2
    return 2 if table[values["label_column"]].map(as_text).value_counts().min() >= 4 else 1


# A task as it stands in params.yaml; a comment moves to the column where the comments there are.
FILES = """\
kind: {kind}
base: {base}  # the Hugging Face folder to start from
weights: {weights}  # its file of weights, or . where it has several
data: {data}  # .csv, .tsv, .jsonl or .parquet
"""
SPLIT = """\
split_column: {split_column}  # with the values train, val and test; null: drawn by the seed
group_column: null  # rows with one value here stay in one split
on_error: fail  # skip: rows with a problem are left out and counted
"""
LEARNING = """\
method:
  kind: full  # full, lora, dora, head or last_k_blocks
  rank: 8  # of lora and dora
  alpha: 16.0  # … their product is multiplied by alpha / rank
  targets: [query, key, value, output, gate, up, down]  # … the matrices that they stand beside
  k: 2  # of last_k_blocks
training:
  epochs: {epochs}
  batch_size: 32  # rows
  rates: {rates}  # Muon's, each tried on a share of the steps, the best on val is taken
  search_share: 0.25  # of the steps, for each rate that is tried
  other_rate_ratio: 0.1  # AdamW's rate over Muon's
  layer_rate_decay: 1.0  # a block's rate over that of the block above it
  weight_decay: 0.0
  clip_norm: 10.0
  warmup_share: 0.1
  decay_share: 0.6
  evals: 4  # looks at val, evenly spread; the best weights are kept
  stop_after_evals: null  # without a better loss on val
"""
CLASSIFY = (
    FILES
    + """\
header: {header}  # false: a .csv or .tsv without one; its columns are called 1, 2, …
text_columns: {text_columns}  # one text, or two that are read one after the other
label_column: {label_column}  # text or integers
label_separator: {label_separator}  # "|", say: a row has any number of labels, with this between them; in JSON a list
"""
    + SPLIT
    + """\
min_rows_per_label: {min_rows_per_label}  # in train
max_tokens: {max_tokens}  # of a row; the rest of it is cut off
class_weights: null  # balanced: every label has the same weight in the loss, however many rows it has
label_smoothing: 0.0
zero_shot: null  # "{{text}}\\nlabel: {{label}}", say: what the base is asked before it has seen a label
"""
    + LEARNING
)
INSTRUCT = (
    FILES
    + """\
rows:  # the file's columns: alpaca, prompt_completion, messages or sharegpt
{rows}
"""
    + SPLIT
    + """\
max_tokens: {max_tokens}  # of a conversation
too_long: drop  # or cut: at the end; or split: between its turns
learn: answers  # or all: the prompts too
packing: false  # several conversations in a row of a batch, none of which sees another
"""
    + LEARNING
)
PREFER = (
    FILES
    + """\
prompt_column: {prompt_column}  # text, or a list of messages
chosen_column: {chosen_column}  # the better answer
rejected_column: {rejected_column}  # the worse one
"""
    + SPLIT
    + """\
max_tokens: {max_tokens}  # of a prompt with an answer
beta: 0.1  # how near to its base the model stays
"""
    + LEARNING
)
TEMPLATES = {"classify": CLASSIFY, "instruct": INSTRUCT, "prefer": PREFER}
RATES = {"classify": [0.004, 0.016], "instruct": [0.004], "prefer": [0.001]}
COMMENT_COLUMN = 24  # 30 where the keys of a task are indented by 6


def write_section(kind: str, values: dict[str, Any]) -> list[str]:
    """The lines of a task, not indented, with the keys of its columns and what depends on its rows filled in."""
    written = {key: _yaml(value) for key, value in values.items() if key != "rows"}
    written |= {"kind": kind, "rates": _yaml(RATES[kind])}
    written["rows"] = "\n".join(f"  {key}: {_yaml(value)}" for key, value in values.get("rows", {}).items())
    lines = []
    for line in TEMPLATES[kind].splitlines():
        content, mark, comment = line.partition("  # ")
        content = content.format(**written)
        lines += (f"{content + ' ':<{COMMENT_COLUMN - 1}} # {comment.format()}" if mark else content).split("\n")
    return lines


def insert_task(target: Path, name: str, section: list[str]) -> None:
    """Write a task behind the last one of a params file; every other byte stays. All is written, or nothing."""
    text = target.read_bytes().decode()
    tasks = _find(YAML(typ="safe", pure=True).compose(text), "finetune", "tasks")
    if tasks.value and tasks.flow_style:
        raise UserError(f"{target}: finetune.tasks: wanted each task on lines of its own, given all in one")
    if tasks.value:
        indent = tasks.value[0][0].start_mark.column
        at = _line_behind(text, _end_of(tasks))
        # A comment that is indented as the keys of a task are is the last task's.
        comment = re.compile(rf" {{{indent + 1},}}#[^\n]*(\n|$)")
        while found := comment.match(text, at):
            at = found.end()
    else:
        key = text[: tasks.start_mark.index].rstrip(" ")
        text = key + text[tasks.end_mark.index :]
        indent, at = 4, _line_behind(text, len(key))
    end = "\r\n" if "\r\n" in text else "\n"
    before = text[:at] if text[:at].endswith("\n") else text[:at] + end
    added = [f"{_yaml(name)}:", *(f"  {line}" for line in section)]
    _write_whole(target, name, before + "".join(" " * indent + line + end for line in added) + text[at:])


def _write_whole(target: Path, name: str, text: str) -> None:
    """Put a text in a params file's place; it is right, and differs by one task alone."""
    file = target.resolve()
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_bytes(text.encode())
        part.chmod(file.stat().st_mode)
        before, after = params.read(file), params.read(part)
        params.check(FinetuneParams, after["finetune"], "finetune", target)
        after["finetune"]["tasks"].pop(name)
        assert before == after
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _find(node: Any, *keys: str) -> Any:
    """The node of YAML under keys."""
    for key in keys:
        node = next(value for name, value in node.value if name.value == key)
    return node


def _end_of(node: Any) -> int:
    """The place behind what a block of YAML ends with. The block's own end is where the next one starts."""
    while isinstance(node, MappingNode) and not node.flow_style:
        node = node.value[-1][1]
    return int(node.end_mark.index)


def _line_behind(text: str, at: int) -> int:
    """Where the line begins that follows a place; the place itself if a line begins there."""
    if text[at - 1] == "\n":
        return at
    return text.find("\n", at) + 1 or len(text)


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        is_plain = bool(re.fullmatch(r"[\w./-][\w ./-]*", value)) and YAML(typ="safe", pure=True).load(value) == value
    except YAMLError:
        is_plain = False
    return value if is_plain else json.dumps(value, ensure_ascii=False)


def _tell(name: str, table: pd.DataFrame, file: Path, columns: Columns, values: dict[str, Any]) -> list[str]:
    """What was guessed, and the next commands."""
    match columns.kind:
        case "classify":
            n_labels = f"{table[values['label_column']].map(as_text).nunique():,} labels"
            if values["label_separator"] is not None:
                n_labels = f"any number of labels, with {values['label_separator']} between them"
            said = f"{' and '.join(values['text_columns'])} → {values['label_column']} ({n_labels})"
        case "instruct":
            said = f"{values['rows']['kind']} ({', '.join(columns.texts)})"
        case _:
            said = f"{values['prompt_column']} → {values['chosen_column']} rather than {values['rejected_column']}"
    split, epochs = values["split_column"], values["epochs"]
    splits = f"of {split}" if split else "drawn by the seed"
    steps = math.ceil(_n_train(table, split) / BATCH_ROWS) * int(epochs)
    tracked = any(path.with_name(f"{path.name}.dvc").is_file() for path in (file, *file.parents) if path.name)
    return [
        f"{name}: {columns.kind}, {said}; {len(table):,} rows, splits {splits}",
        f"epochs: {epochs:g}, about {steps:,} steps of {BATCH_ROWS} rows; max_tokens: {values['max_tokens']}",
        "next:",
        *([] if tracked else [f"  dvc add {values['data']}"]),
        f"  dvc repro finetune@{name}",
    ]
