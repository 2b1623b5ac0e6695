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
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode

from llm.core import params
from llm.core.errors import UserError
from llm.core.params import EncodingName
from llm.corpus.readers.rows import SEPARATED
from llm.export.hf.base import open_base
from llm.finetune.data.labeled import describe_rows
from llm.finetune.data.reading import as_text, read_file, some
from llm.finetune.data.row_lengths import TaskRows, count_tokens, read_task_rows
from llm.finetune.data.splits import split_named
from llm.finetune.params import FinetuneParams, Task, TaskName
from llm.tokens.params import WindowParams
from llm.tokens.tokenizer import Tokenizer

EXPORT = Path("models/export/hf")
KINDS = ("classify", "instruct", "dpo")
# What columns are called in files that people share, the plainest name first.
TEXTS = ["text", "sentence", "content", "review", "body", "message", "comment", "tweet", "post", "document"]
TEXTS += ["utterance", "query", "question", "description", "headline", "title"]
PAIRS = [["premise", "hypothesis"], ["sentence1", "sentence2"], ["question1", "question2"], ["text1", "text2"]]
LABELS = ["label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "emotion", "tag", "tags"]
LABELS += ["genre", "stars", "rating"]
INPUTS = ["input", "context"]
PROMPTS = ["prompt", "question", "query", "input"]
PREFERENCE_PROMPTS = ["prompt", "instruction", "question", "query", "input"]
ANSWERS = ["output", "completion", "response", "answer"]
CONVERSATIONS = ["messages", "conversations", "conversation", "dialogue", "chat"]
SPLIT_COLUMNS = ["split", "fold", "set", "subset", "partition"]

BATCH_ROWS = 32
AIMED_STEPS = 300  # between 150 and 400 where 1 to 10 epochs allow
LONGEST_ROW = 1024  # tokens, unless the corpus' own windows are longer: a base of others may read far more


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
    base: Path = EXPORT,
    header: bool = True,
    split: str | None = None,
    on_error: str = "fail",
    encoding: str | None = None,
) -> list[str]:
    """Add a task to the params file `target`; gives lines that say what was guessed and how to go on.

    `texts` and `label` are columns: what is read, and what is to be said of it. `split` is one too, or "none".
    UserError in one line for a name that is taken, columns that cannot be guessed, and a file that the task's stage
    would refuse; `target` is then as it was.
    """
    finetune: FinetuneParams = params.load(target, "finetune", FinetuneParams)
    sample: WindowParams = params.load(target, "sample", WindowParams)
    if name in finetune.tasks:
        raise UserError(f"{target}: finetune.tasks.{name}: wanted a name that is free, it is there")
    _check_words(name, file, base, kind, on_error)
    if not header and file.suffix.lower() not in SEPARATED:
        raise UserError(f"{file}: wanted a .csv or .tsv with --no-header, given {file.suffix or 'no ending'}")
    read = read_file(file, header, params.check(EncodingName | None, encoding, "--encoding", "add-task"))
    table, guessed = read.table, read.encoding if read.encoding and read.encoding.doubt else None
    if table.empty:
        raise UserError(f"{file}: wanted labeled rows, given none")
    named = table.loc[:, [bool(str(column).strip()) for column in table.columns]]
    if not named.columns.is_unique:
        raise UserError(f"{file}: wanted columns of different names, given {some(list(map(str, named.columns)), 20)}")
    split = find_split(named, file) if split is None else _given_split(named, split)
    columns = guess_columns(named.drop(columns=[split] if split else []), file, kind, texts, label, header)
    weights, context = _read_base(base, sample.context_length)
    values: dict[str, Any] = {"base": base.as_posix(), "weights": weights, "data": _inside(file), "split_column": split}
    values |= columns.keys | {"encoding": guessed.name if guessed else encoding, "on_error": on_error}
    values |= {"max_tokens": context, "epochs": 1.0, "min_rows_per_label": 1}
    rows = _read_as_stage(target, name, file, columns.kind, values)
    tokenizer, tokenizer_file = _find_tokenizer(base)
    lengths = {part: count_tokens(of, columns.kind, tokenizer) for part, of in rows.parts.items()}
    n_train = rows.counts["rows"]["train"]
    values |= {"max_tokens": choose_max_tokens(lengths, context), "epochs": choose_epochs(n_train), "n_train": n_train}
    if columns.kind == "classify":
        values["min_rows_per_label"] = min(2, *rows.rows_per_label.values())
    elif tokenizer is not None:
        _check_lengths(file, lengths, values["max_tokens"])
    insert_task(target, name, write_section(columns.kind, values))
    return [
        *_tell(name, table, columns, values, rows),
        *([f"encoding: {', '.join(guessed)}; see --encoding"] if guessed else []),
        *_tell_splits(named, split),
        *_tell_ignored(table, columns, split),
        *_tell_lengths(lengths, values, None if tokenizer else tokenizer_file),
        *_tell_next(name, file, values),
    ]


def _read_as_stage(target: Path, name: str, file: Path, kind: str, values: dict[str, Any]) -> TaskRows:
    """What the task's stage would read; UserError where it would refuse the file, and what it would leave out."""
    seed = params.load(target, "seed", int)

    def read(on_error: str) -> TaskRows:
        section = YAML(typ="safe", pure=True).load("\n".join(write_section(kind, values | {"on_error": on_error})))
        return read_task_rows(file, params.check(Task, section, f"finetune.tasks.{name}", target), seed)

    try:
        return read(values["on_error"])
    except UserError as error:
        if values["on_error"] == "skip":
            raise
        try:
            left_out = read("skip").counts["skipped"]
        except UserError:
            raise error from None
        counted = ", ".join(f"{n:,} with {reason}" for reason, n in left_out.items())
        raise UserError(f"{error}; --on-error skip leaves out {counted}") from None


def _check_words(name: str, file: Path, base: Path, kind: str | None, on_error: str) -> None:
    params.check(TaskName, name, "NAME", "add-task")
    params.check(Literal["fail", "skip"], on_error, "--on-error", "add-task")
    if kind is not None and kind not in KINDS:
        raise UserError(f"--kind: wanted {', '.join(KINDS)}, given {kind}")
    for path in (file, base):
        # dvc.yaml puts them into a command as they are.
        if not re.fullmatch(r"[\w./@%+=:,-]+", path.as_posix()):
            raise UserError(f"{path}: wanted a path without spaces, quotes and the like")


def _inside(file: Path) -> str:
    """A path as params.yaml has it: from the root of the repository, where the file is in it."""
    return (file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file).as_posix()


def find_split(table: pd.DataFrame, file: Path) -> str | None:
    """The column that says which split a row is in: one that holds names of splits only, train and another one.

    UserError where a column is called as one and only some of its values are names of splits.
    """
    called = _named(list(table.columns), SPLIT_COLUMNS)
    for column in dict.fromkeys([*called, *map(str, table.columns)]):
        values = _distinct(table[column])
        splits = set(map(split_named, values))
        if "train" in splits and None not in splits and len(splits) > 1:
            return column
        if column in called and splits - {None} and None in splits:
            unknown = some([value or "nothing" for value in values if split_named(value) is None])
            raise UserError(
                f"{file}: {column}: expected train, val and test in every row, got {unknown} as well; rename them, or "
                f"see --split none, with which splits are drawn"
            )
    return None


def _distinct(cells: "pd.Series[Any]") -> list[str]:
    """The different values of a column, in order; of a column with lists or mappings just one that is no name."""
    if cells.map(lambda cell: isinstance(cell, list | dict | np.ndarray)).any():
        return ["[]"]
    return sorted(set(cells.map(as_text).str.strip()))


def _given_split(table: pd.DataFrame, split: str) -> str | None:
    """The column that is named by --split."""
    if split == "none":
        return None
    if split not in table.columns:
        given = some(list(map(str, table.columns)), 20)
        raise UserError(f"--split: expected none or one of the columns {given}, got {split}")
    return split


def guess_columns(
    table: pd.DataFrame, file: Path, kind: str | None, texts: Sequence[str], label: str | None, header: bool
) -> Columns:
    """The kind and the columns of a table without its split, by what is given and by the names that columns have."""
    given = list(map(str, table.columns))
    for option, wanted in [*(("--text", text) for text in texts), *([("--label", label)] if label else [])]:
        if wanted not in given:
            raise UserError(f"{option}: wanted one of the columns {some(given, 20)}, given {wanted}")
    wanted_kinds = KINDS if kind is None else (kind,)
    if "dpo" in wanted_kinds and not texts and not label:
        prompt = _first(given, PREFERENCE_PROMPTS)
        if prompt and (chosen := _first(given, ["chosen"])) and (rejected := _first(given, ["rejected"])):
            extra = _first(given, INPUTS) if prompt.strip().lower() == "instruction" else None
            keys = {"prompt_column": prompt, "input_column": extra}
            keys |= {"chosen_column": chosen, "rejected_column": rejected}
            return Columns("dpo", keys, [column for column in (prompt, extra, chosen, rejected) if column])
    # What is given by --text and --label alone is a text and its label.
    if "instruct" in wanted_kinds and (kind == "instruct" or not (texts or label)):
        rows = _guess_conversations(table, given, list(texts), label)
        if rows is not None:
            if not label:
                _refuse_ratings(table, file)
            if system := _first([column for column in given if column not in rows.values()], ["system"]):
                rows["system"] = system
            return Columns(
                "instruct", {"rows": rows}, [value for key, value in rows.items() if key != "kind" and value]
            )
    if "classify" in wanted_kinds:
        found = _guess_classify(table, file, list(texts), label, header)
        if found is not None:
            return found
    if kind == "dpo":
        raise UserError(f"{file}: wanted columns called prompt, chosen and rejected, given {some(given, 20)}")
    wanted = "an instruction and an answer" if kind == "instruct" else "a text and a label"
    options = "--text and --label" + (", or see --no-header" if header and file.suffix.lower() in SEPARATED else "")
    raise UserError(f"{file}: wanted {wanted}, given the columns {some(given, 20)}; name them with {options}")


def _refuse_ratings(table: pd.DataFrame, file: Path) -> None:
    """UserError where a column says of each answer whether it is a good one, as rows for KTO do."""
    for column in _named(list(table.columns), ["label"]):
        values = [value.lower() for value in _distinct(table[column])]
        if values in (["false", "true"], ["0", "1"]):
            raise UserError(
                f"{file}: {column}: expected answers that are all good, got {' and '.join(values)} beside them (KTO); "
                "keep the good ones, or make pairs with the columns prompt, chosen and rejected, or take all with "
                "--kind instruct --text … --label …, or learn the column itself with --kind classify"
            )


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


def choose_max_tokens(lengths: Mapping[str, NDArray[np.int64]], context: int) -> int:
    """What the longest row needs, as a multiple of 32, and at most the context.

    >>> choose_max_tokens({"train": np.array([20, 33]), "test": np.array([9])}, 256)
    64
    """
    return min(context, 32 * math.ceil(max(int(of.max()) for of in lengths.values()) / 32))


def _check_lengths(file: Path, lengths: Mapping[str, NDArray[np.int64]], max_tokens: int) -> None:
    """UserError where a split has no row that fits."""
    for split, of in lengths.items():
        if of.min() > max_tokens:
            raise UserError(f"{file}: expected rows of at most {max_tokens} tokens in {split}, got {of.min()} or more")


def _find_tokenizer(base: Path) -> tuple[Tokenizer | None, Path]:
    """The base's tokenizer and its file; None where it has not been made yet."""
    made = base / "tokenizer.json"
    if base == EXPORT and not made.is_file():
        made = Path("data/tokenizer/tokenizer.json")  # which the export will have
    if not made.is_file():
        return None, base / "tokenizer.json"
    with TemporaryDirectory() as folder:
        tokenizer_file, _ = open_base(made.parent, Path(folder) / "tokenizer.json")
        return Tokenizer.load(tokenizer_file), made


def choose_epochs(n_rows: int) -> float:
    """Whole passes over the rows of train that come nearest to the steps that are aimed at, 1 to 10.

    >>> choose_epochs(100), choose_epochs(3_000), choose_epochs(100_000)
    (10.0, 3.0, 1.0)
    """
    return float(min(10, max(1, round(AIMED_STEPS * BATCH_ROWS / n_rows))))


def _read_base(base: Path, context_length: int) -> tuple[str, int]:
    """The base's weights as dvc.yaml wants them, and how many tokens a row may have."""
    if base == EXPORT:
        return "model.safetensors", context_length  # it may not have been made yet
    if not (base / "config.json").is_file():
        raise UserError(f"--base: wanted a Hugging Face folder, {base / 'config.json'} is not there")
    shape = params.read(base / "config.json")  # JSON is YAML too
    context = shape.get("max_position_embeddings", shape.get("n_positions", context_length))
    weights = "model.safetensors" if (base / "model.safetensors").is_file() else "."
    return weights, min(int(context), max(LONGEST_ROW, context_length))


# A task as it stands in params.yaml; a comment moves to the column where the comments there are.
FILES = """\
kind: {kind}
base: {base}  # the Hugging Face folder to start from
weights: {weights}  # its file of weights, or . where it has several
data: {data}  # .csv, .tsv, .jsonl, .json or .parquet
encoding: {encoding}  # null: found, and told where it is a guess
"""
SPLIT = """\
split_column: {split_column}  # with the values train, val and test; null: drawn by the seed
group_column: null  # rows with one value here stay in one split
on_error: {on_error}  # skip: rows with a problem are left out and counted
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
  learning_rates: {rates}  # Muon's, each tried on a share of the steps, the best on val is taken
  lr_search_fraction: 0.25  # of the steps, for each rate that is tried
  adamw_lr_ratio: 0.1  # AdamW's rate over Muon's
  layerwise_lr_decay: 1.0  # a block's rate over that of the block above it
  weight_decay: 0.0
  max_grad_norm: 10.0
  warmup_fraction: 0.1
  decay_fraction: 0.6
  n_evals: 4  # looks at val, evenly spread; the best weights are kept
  early_stopping_patience: null  # without a better loss on val
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
on_overflow: drop  # or truncate: at the end; or split: between its turns
loss_on: assistant  # or all: the prompts too
packing: false  # several conversations in a row of a batch, none of which sees another
"""
    + LEARNING
)
PREFER = (
    FILES
    + """\
prompt_column: {prompt_column}  # text, or a list of messages
input_column: {input_column}  # text that comes behind the prompt, or null
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
TEMPLATES = {"classify": CLASSIFY, "instruct": INSTRUCT, "dpo": PREFER}
RATES = {"classify": [0.004, 0.016], "instruct": [0.004], "dpo": [0.001]}
COMMENT_COLUMN = 24  # 30 where the keys of a task are indented by 6


def write_section(kind: str, values: dict[str, Any]) -> list[str]:
    """The lines of a task, not indented, with the keys of its columns and what depends on its rows filled in."""
    written = {key: _yaml(value) for key, value in values.items() if key != "rows"}
    written |= {"kind": kind, "learning_rates": _yaml(RATES[kind])}
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


def _tell(name: str, table: pd.DataFrame, columns: Columns, values: dict[str, Any], rows: TaskRows) -> list[str]:
    """What was guessed of the columns, and what is left of the rows."""
    match columns.kind:
        case "classify":
            n_labels = f"{len(rows.rows_per_label):,} labels"
            if values["label_separator"] is not None:
                n_labels = f"any number of labels, with {values['label_separator']} between them"
            said = f"{' and '.join(values['text_columns'])} → {values['label_column']} ({n_labels})"
        case "instruct":
            said = f"{values['rows']['kind']} ({', '.join(columns.texts)})"
        case _:
            asked = " and ".join(filter(None, [values["prompt_column"], values["input_column"]]))
            said = f"{asked} → {values['chosen_column']} rather than {values['rejected_column']}"
    splits = f"of {values['split_column']}" if values["split_column"] else "drawn by the seed"
    # The line on max_tokens is another one here: no rows have been cut yet.
    return [
        f"{name}: {columns.kind}, {said}; {len(table):,} rows, splits {splits}",
        *describe_rows(rows.counts, values["max_tokens"]),
    ]


def _tell_splits(table: pd.DataFrame, split: str | None) -> list[str]:
    """Which values stand for which split, where they are not called so."""
    values = [] if split is None else _distinct(table[split])
    others = [f"{value} → {split_named(value)}" for value in values if split_named(value) not in (value, None)]
    return [f"splits: {', '.join(others)}"] if others else []


def _tell_ignored(table: pd.DataFrame, columns: Columns, split: str | None) -> list[str]:
    """Which columns are not read, and those without a name that have text."""
    names = list(map(str, table.columns))
    used = {*columns.texts, columns.keys.get("label_column"), split}
    ignored = [name for name in names if name.strip() and name not in used]
    lines = [f"ignored columns: {some(ignored, 20)}"] if ignored else []
    places = [place for place, name in enumerate(names) if not name.strip()]
    if places:
        has_text = table.iloc[:, places].map(lambda cell: bool(as_text(cell).strip())).any(axis=1)
        lines.append(f"ignored columns: {len(places)} without a name, with text in {int(has_text.sum()):,} rows")
    return lines


def _tell_lengths(lengths: Mapping[str, NDArray[np.int64]], values: dict[str, Any], missing: Path | None) -> list[str]:
    """How long training takes and how long rows are; `missing` is the tokenizer without which bytes were counted."""
    of, max_tokens = np.concatenate(list(lengths.values())), values["max_tokens"]
    steps = math.ceil(values["n_train"] / BATCH_ROWS) * int(values["epochs"])
    longest = f"the longest row has {int(of.max()):,} tokens"
    if missing:
        longest = (
            f"the longest row has {int(of.max()):,} bytes, and at most as many tokens ({missing} is not there yet)"
        )
    lines = [
        f"epochs: {values['epochs']:g}, about {steps:,} steps of {BATCH_ROWS} rows",
        f"max_tokens: {max_tokens}; {longest}",
    ]
    if n_longer := int((of > max_tokens).sum()):
        at_most = "at most " if missing else ""
        what = "cut to" if "label_column" in values else "dropped, longer than"
        lines.append(f"{what} max_tokens: {at_most}{n_longer:,} of {len(of):,} rows ({n_longer / len(of):.1%})")
    return lines


def _tell_next(name: str, file: Path, values: dict[str, Any]) -> list[str]:
    """The next commands."""
    tracked = any(path.with_name(f"{path.name}.dvc").is_file() for path in (file, *file.parents) if path.name)
    return [
        "next:",
        *([] if tracked else [f"  dvc add {values['data']}"]),
        f"  dvc repro finetune@{name}",
    ]
