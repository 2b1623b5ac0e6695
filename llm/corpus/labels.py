"""Labeled rows from the docstrings of the corpus: the two tasks that come built in.

    library    a docstring, package names masked → the package that it is from
    docstring  a signature → its docstring where that is short, else the docstring's summary

A row inherits the split of its document, so no module has rows in two splits.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from tqdm import tqdm

from llm.core.tables import SPLITS, TableWriter, iterate_rows, with_reason
from llm.corpus.clean import document_id
from llm.corpus.docstrings import module_text, split_entries
from llm.corpus.params import LabelParams

LIBRARY = pa.schema([(name, pa.string()) for name in ("text", "label", "split", "path")])
DOCSTRING = pa.schema([(name, pa.string()) for name in ("instruction", "input", "output", "split", "path")])
INSTRUCTION = "Write the docstring of this signature."
MASK = "MASKED"
MIN_IMPORTS = 10  # of an alias, in all docstrings
NO_DOCSTRINGS = "the corpus has no docstrings"
_ALIAS = re.compile(r"\bimport (\w+)(?:\.\w+)* as (\w+)")

Rows = list[dict[str, Any]]


class Documented(NamedTuple):
    """A documented class or function of a module."""

    path: str  # of the document: a module path such as numpy/linalg/_linalg.py
    split: str
    signature: str
    docstring: str

    @property
    def package(self) -> str:
        """The top-level package or module: `numpy` of numpy/linalg/_linalg.py."""
        return re.split(r"[/.]", self.path, maxsplit=1)[0]


def write_tables(corpus: Path, library: Path, docstring: Path, label: LabelParams) -> dict[str, Any]:
    """Write both tables, without rows where the corpus has too few docstrings; return the metrics."""
    dropped = Counter[str]()
    found = sorted(_find_all(corpus), key=lambda one: one.path)
    tables = {
        "library": (library, LIBRARY, library_rows(found, label, dropped)),
        "docstring": (docstring, DOCSTRING, docstring_rows(found, label.max_answer_chars, dropped)),
    }
    reasons, metrics = {}, dict[str, Any]()
    for task, (path, schema, rows) in tables.items():
        if reason := _empty_reason(task, rows) if found else NO_DOCSTRINGS:
            dropped[f"{task}_{reason.replace(' ', '_')}"] = len(rows)
            reasons[task] = reason
            rows.clear()
        metrics[task] = {split: sum(row["split"] == split for row in rows) for split in SPLITS}
        with TableWriter(path, with_reason(schema, reason) if reason else schema) as table:
            for row in rows:
                table.write(row, n_bytes=256)
    metrics["library_packages"] = dict(Counter(row["label"] for row in tables["library"][2]).most_common())
    metrics["dropped"] = dict(sorted(dropped.items()))
    return metrics | ({"empty_reason": reasons} if reasons else {})


def _find_all(corpus: Path) -> Iterable[Documented]:
    for split in SPLITS:
        rows = iterate_rows(corpus / f"{split}.parquet", ["path", "text"])
        for row in tqdm(rows, desc=f"label {split}", unit=" documents"):
            if row["path"].endswith(".py"):
                yield from find_documented(row["path"], split, row["text"])


def find_documented(path: str, split: str, text: str) -> list[Documented]:
    """Return the documented classes and functions of a Python document, source code or its documentation."""
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):  # documentation: a signature has no colon
        text = module_text(text)
    return [Documented(path, split, *entry) for entry in split_entries(text)]


def _empty_reason(task: str, rows: Rows) -> str | None:
    if task == "library" and not rows:
        return "no package of the corpus is in train and in test"
    missing = [split for split in SPLITS if all(row["split"] != split for row in rows)]
    return f"no docstring of the corpus is left in {' and '.join(missing)}" if missing else None


def mask_names(text: str, names: Collection[str]) -> str:
    """Replace package names that are whole words, and the dotted path behind each.

    >>> mask_names("from scipy.stats import norm; np.ones(3); NumPy's", ["scipy", "numpy", "np"])
    "from MASKED import norm; MASKED(3); MASKED's"
    """
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    pattern = "|".join(map(re.escape, longest_first))
    masked = rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])(?:\.\w+)*"
    return re.sub(masked, MASK, text, flags=re.IGNORECASE) if pattern else text


def library_rows(found: list[Documented], label: LabelParams, dropped: Counter[str]) -> Rows:
    """Return the rows of the library task: beginnings of docstrings of the packages with the most of them.

    A package needs docstrings in train and in test. The hash of a text decides which ones of a document, and of a
    package's train rows, are kept. A text that occurs more than once is dropped: it would be in two splits or have
    two labels.
    """
    long = [one for one in found if len(one.docstring) >= label.min_chars]
    dropped["library_short"] = len(found) - len(long)
    texts = _masked_texts(long, label)
    n_same = Counter(text for text, _ in texts)
    once = [(text, one) for text, one in texts if n_same[text] == 1]
    dropped["library_same_text_twice"] = len(texts) - len(once)
    rows: Rows = []
    of_document, of_package = Counter[str](), Counter[str]()
    for text, one in sorted(once, key=lambda pair: document_id(pair[0])):
        if of_document[one.path] == label.max_rows_per_document:
            dropped["library_over_max_rows_per_document"] += 1
        elif one.split == "train" and of_package[one.package] == label.max_train_rows_per_package:
            dropped["library_over_max_train_rows_per_package"] += 1
        else:
            of_document[one.path] += 1
            of_package[one.package] += one.split == "train"
            rows.append({"text": text, "label": one.package, "split": one.split, "path": one.path})
    return rows


def _packages(found: list[Documented], n_packages: int) -> set[str]:
    n_found = Counter(one.package for one in found)
    train, test = ({one.package for one in found if one.split == split} for split in ("train", "test"))
    return set(sorted(train & test, key=lambda name: (-n_found[name], name))[:n_packages])


def _masked_texts(found: list[Documented], label: LabelParams) -> list[tuple[str, Documented]]:
    """Return the docstrings of the largest packages without their names, and without common aliases of them."""
    packages = _packages(found, label.n_packages)
    found = [one for one in found if one.package in packages]
    aliases = Counter(alias for one in found for of, alias in _ALIAS.findall(one.docstring) if of in packages)
    names = packages | {alias for alias, n in aliases.items() if n >= MIN_IMPORTS}
    return [(_beginning(mask_names(one.docstring, names), label.max_chars), one) for one in found]


def _beginning(text: str, max_chars: int) -> str:
    """Cut a text at the last line that fits, or within its first line."""
    if len(text) <= max_chars:
        return text
    return text[:max_chars].rpartition("\n")[0].rstrip() or text[:max_chars].rstrip()


def docstring_rows(found: list[Documented], max_chars: int, dropped: Counter[str]) -> Rows:
    """Return the rows of the docstring task, one for each signature: the whole docstring or its first paragraph."""
    rows: dict[str, dict[str, Any]] = {}
    for path, split, signature, docstring in found:
        summary = " ".join(docstring.split("\n\n")[0].split())
        answer = docstring if len(docstring) <= max_chars else summary
        if len(answer) > max_chars:
            dropped["docstring_long_summary"] += 1
        elif signature in rows:
            dropped["docstring_same_signature_twice"] += 1
        else:
            values = (INSTRUCTION, signature, answer, split, path)
            rows[signature] = dict(zip(DOCSTRING.names, values, strict=True))
    return list(rows.values())
