"""The sizes that the cost of the pipeline follows from: of the text, of its tokens, and of labeled rows.

What earlier stages have measured is read from metrics/ where it still holds. Otherwise sizes follow from the files that
the sources name, by constants of the built-in text.
"""

import importlib.metadata
import json
import math
import sysconfig
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.commands.check import Params
from llm.corpus.params import DocstringsSource, FilesSource, PythonSource
from llm.finetune.data.labeled import as_text, read_file
from llm.finetune.data.splits import FRACTIONS, split_named
from llm.finetune.params import ClassifyTask, DPOTask, InstructTask, Task
from llm.tokens.params import TokenizeParams
from llm.tokens.pretrained import read_pretrained

BYTES_PER_TOKEN = {"bpe": 0.392, "word": 5.0, "char": 1.0}  # of bpe: times the logarithm of the vocabulary's size
DOCSTRING_FRACTION = 0.2  # of a package's code
UNKNOWN_BYTES = 10_000_000  # of a source whose size only a download shows
FRAME_TOKENS = 12  # of a conversation's markers
BUILTIN = Path("data/labeled/builtin")  # which the stage label makes
ROW_BYTES, ROWS_PER_BYTE = 250, 0.9e-3  # of the built-in tasks: of a row, and rows of a byte of documentation


@dataclass(frozen=True)
class Rows:
    """Numbers of labeled rows, and their tokens: on average, and at most."""

    train: int
    val: int
    mean_tokens: float
    max_tokens: int


@dataclass(frozen=True)
class Sizes:
    """Bytes of text by split, tokens of what is held out, the vocabulary, and the rows of each task."""

    text_bytes: dict[str, float]
    held_out_tokens: float
    vocab_size: int
    rows: dict[str, Rows]


def read_sizes(params: Params, root: Path, outdated: Collection[str]) -> Sizes:
    """Return the sizes; metrics of stages that are `outdated` are not used."""
    text = _metrics(root, "prepare", outdated).get("bytes") or _text_bytes(params, root)
    tokenize = _metrics(root, "tokenize", outdated)
    per_token = _bytes_per_token(params, tokenize)
    held_out = sum(size for split, size in text.items() if split != "train")
    vocab_size = tokenize.get("vocab_size") or _vocab_size(params.tokenize)
    rows = {
        name: _rows(task, name, params, root, sum(text.values()), per_token, is_made="label" not in outdated)
        for name, task in params.finetune.tasks.items()
    }
    return Sizes(text, held_out / per_token, vocab_size, rows)


def _metrics(root: Path, stage: str, outdated: Collection[str]) -> dict[str, Any]:
    path = root / f"metrics/{stage}.json"
    found: dict[str, Any] = json.loads(path.read_bytes()) if stage not in outdated and path.is_file() else {}
    return found


def _vocab_size(params: TokenizeParams) -> int:
    if params.pretrained is None:
        return params.vocab_size
    return read_pretrained(Path(params.pretrained), params.pattern).get_vocab_size()


def _bytes_per_token(params: Params, tokenize: dict[str, Any]) -> float:
    if measured := tokenize.get("bytes_per_token", {}).get("train"):
        return float(measured)
    kind = params.tokenize.kind
    return BYTES_PER_TOKEN[kind] * (math.log(params.tokenize.vocab_size) if kind == "bpe" else 1.0)


def _text_bytes(params: Params, root: Path) -> dict[str, float]:
    total = sum(_source_bytes(source, root) for source in params.prepare.sources) * params.prepare.subset_fraction
    val, test = params.prepare.split.val, params.prepare.split.test
    return {"train": total * (1 - val - test), "val": total * val, "test": total * test}


def _source_bytes(source: Any, root: Path) -> float:
    match source:
        case FilesSource():
            return _file_bytes(root, source.globs, "")
        case DocstringsSource():
            return DOCSTRING_FRACTION * sum(map(_package_bytes, source.packages))
        case PythonSource():
            return _file_bytes(Path(sysconfig.get_path("stdlib")), source.include, ".py")
    return UNKNOWN_BYTES


def _file_bytes(folder: Path, globs: list[str], suffix: str) -> int:
    paths = {path for pattern in globs for path in folder.glob(pattern) if path.is_file()}
    return sum(path.stat().st_size for path in paths if path.name.endswith(suffix))


def _package_bytes(name: str) -> int:
    """Return the bytes of code of an installed package."""
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        return 0  # the stage prepare names it
    return sum(file.size or 0 for file in files if file.suffix == ".py")


def _rows(
    task: Task, name: str, params: Params, root: Path, text_bytes: float, per_token: float, is_made: bool
) -> Rows:
    path, context = root / task.data, params.sample.context_length
    is_builtin = Path(task.data).parent == BUILTIN
    if path.is_file() and (is_made or not is_builtin):
        sizes, n_train, n_val = _read_rows(path, task)
    else:
        classes = params.label.n_packages * params.label.max_train_rows_per_package
        n_train = round(classes if name == "library" else ROWS_PER_BYTE * text_bytes)
        sizes, n_val = [ROW_BYTES] * n_train, round(FRACTIONS["val"] * n_train)
    tokens = [size / per_token + FRAME_TOKENS for size in sizes] or [1.0]
    most = task.max_tokens_of([math.ceil(of) for of in tokens], max(context, task.max_tokens or 0))
    return Rows(n_train, n_val, sum(min(of, most) for of in tokens) / len(tokens), most)


def _read_rows(path: Path, task: Task) -> tuple[list[int], int, int]:
    """Return the bytes of the text of each row of a file, and the numbers of rows of train and val."""
    table, _ = read_file(path, task.header if isinstance(task, ClassifyTask) else True, task.encoding)
    columns = [column for column in _columns(task) if column in table]
    sizes = [sum(len(as_text(cell).encode()) for cell in row) for row in table[columns].itertuples(index=False)]
    if task.split_column not in table:
        n_val = round(FRACTIONS["val"] * len(sizes))
        return sizes, len(sizes) - n_val - round(FRACTIONS["test"] * len(sizes)), n_val
    splits = Counter(split_named(as_text(cell)) for cell in table[task.split_column])
    return sizes, splits["train"], splits["val"]


def _columns(task: Task) -> list[str]:
    match task:
        case ClassifyTask():
            return task.text_columns
        case InstructTask():
            return task.rows.columns
        case DPOTask():
            return [task.prompt_column, task.chosen_column, task.rejected_column]
