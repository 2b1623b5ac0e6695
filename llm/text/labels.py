"""Python documents in, labeled rows out: two tasks that the built-in corpus can be finetuned on.

    library    a function's source, names of packages and modules masked → the package that it is from
    docstring  a function without its docstring → the docstring's first paragraph

A row inherits the split of its document: what pretraining never saw stays held out.
"""

import ast
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from llm.text.clean import document_id
from llm.text.tables import SPLITS

LIBRARY = pa.schema([("text", pa.string()), ("label", pa.string()), ("split", pa.string()), ("path", pa.string())])
DOCSTRING = pa.schema(
    [
        ("instruction", pa.string()),
        ("input", pa.string()),
        ("output", pa.string()),
        ("split", pa.string()),
        ("path", pa.string()),
    ]
)
INSTRUCTION = "Write the docstring of this function."
MASK = "MASKED"


@dataclass(frozen=True)
class Function:
    """One function of a module: its source, dedented, with and without its docstring."""

    path: str
    split: str
    source: str
    bare_source: str
    docstring: str | None

    @property
    def package(self) -> str:
        """The top-level package, or module, that the function is from: `json` of json/decoder.py."""
        return PurePosixPath(self.path).with_suffix("").parts[0]


def find_functions(path: str, split: str, text: str) -> list[Function] | None:
    """Every function and method of a module, in its order; None where the parser fails, be it on deep nesting."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an invalid escape, in somebody's text
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return list(_functions_of(tree, path, split, text))


def _functions_of(tree: ast.Module, path: str, split: str, text: str) -> Iterator[Function]:
    lines = text.split("\n")  # Not splitlines: a form feed is the end of a line there, and none for the parser.
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            whole = _cut_lines(lines, first, node.end_lineno)
            docstring = ast.get_docstring(node)
            bare = whole
            if docstring is not None:
                held = node.body[0]
                if held.lineno == node.lineno or len(node.body) == 1:
                    continue  # One line, or nothing but the docstring: no body to describe is left.
                bare = _cut_lines(lines, first, held.lineno - 1) + _cut_lines(
                    lines, (held.end_lineno or held.lineno) + 1, node.end_lineno
                )
            yield Function(path, split, textwrap.dedent(whole), textwrap.dedent(bare), docstring)


def _cut_lines(lines: list[str], first: int, last: int | None) -> str:
    return "".join(f"{line}\n" for line in lines[first - 1 : last])


def mask_names(text: str, names: Iterable[str]) -> str:
    """Replace names wherever they stand as a word or as a part of one between non-letters, in any case.

    >>> mask_names("import json_tools; JSONDecoder(json)", ["json"])
    'import MASKED_tools; JSONDecoder(MASKED)'
    """
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    pattern = "|".join(map(re.escape, longest_first))
    return re.sub(rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])", MASK, text, flags=re.IGNORECASE) if pattern else text


def library_rows(
    functions: list[Function],
    n_packages: int,
    max_rows_per_package: int,
    max_rows_per_document: int,
    dropped: Counter[str],
) -> list[dict[str, Any]]:
    """Rows of the library task: the most populous packages, each with at most so many functions.

    A package has to have functions in train and in test: what is never asked about, or never learned, tells nothing
    of a classifier. Which functions of a document and of a package are kept is decided by the hash of their text. A
    text that occurs twice, in whichever packages, is dropped: it would be in two splits or have two labels.
    """
    n_functions = Counter(function.package for function in functions)
    in_split = {split: {function.package for function in functions if function.split == split} for split in SPLITS}
    for package in n_functions.keys() - (in_split["train"] & in_split["test"]):
        del n_functions[package]
    packages = sorted(n_functions, key=lambda name: (-n_functions[name], name))[:n_packages]
    names = set(packages)
    for function in functions:
        if function.package in names:
            names.update(part for part in PurePosixPath(function.path).with_suffix("").parts if part != "__init__")
    candidates = [(mask_names(f.source, names), f) for f in functions if f.package in packages]
    n_same = Counter(text for text, _ in candidates)
    dropped["library_same_text_twice"] = sum(n_same[text] > 1 for text, _ in candidates)
    kept: list[dict[str, Any]] = []
    taken = Counter[str]()
    for text, function in sorted(candidates, key=lambda pair: document_id(pair[0])):
        if n_same[text] > 1:
            continue
        if taken[function.path] == max_rows_per_document:
            dropped["library_over_the_most_of_a_document"] += 1
        elif taken[function.package + "/"] == max_rows_per_package:
            dropped["library_over_the_most_of_a_package"] += 1
        else:
            taken.update([function.path, function.package + "/"])
            kept.append({"text": text, "label": function.package, "split": function.split, "path": function.path})
    return kept


def docstring_rows(functions: list[Function], dropped: Counter[str]) -> list[dict[str, Any]]:
    """Rows of the docstring task; a function that occurs twice without its docstring is kept once."""
    rows = []
    seen: set[str] = set()
    for function in functions:
        if not function.docstring or not (answer := " ".join(function.docstring.split("\n\n")[0].split())):
            dropped["docstring_none"] += 1
            continue
        if function.bare_source in seen:
            dropped["docstring_same_text_twice"] += 1
            continue
        seen.add(function.bare_source)
        row = {"instruction": INSTRUCTION, "input": function.bare_source, "output": answer}
        rows.append(row | {"split": function.split, "path": function.path})
    return rows
