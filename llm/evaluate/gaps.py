"""Places in a document where a word or sign can be left out, for multiple-choice items.

| task | what is left out | other choices |
| --- | --- | --- |
| docstring_word | the last word of a sentence in a docstring | words that end other sentences |
| closing_bracket | `)`, `]` or `}` in Python code | the other two |
| argument_name | a use of a parameter in its function's body | the function's other parameters |
| last_word | the last word of a sentence, or paragraph, of any other text | words that end other sentences |
"""

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

TASKS = ("docstring_word", "closing_bracket", "argument_name", "last_word")
OPENING = {")": "(", "]": "[", "}": "{"}
# A word with one space before it. The space belongs to the choice, as it belongs to the word's token.
WORD = r"(?<=\S) [^\W\d_]{3,}"
SENTENCE_END = r"(?=[.!?](?:[\s\"')\]]|\Z))"
PARAGRAPH_END = r"(?=\s*\Z|\s*\n[ \t]*\n)"
LAST_OF_SENTENCE = re.compile(WORD + SENTENCE_END)
LAST_OF_SENTENCE_OR_PARAGRAPH = re.compile(f"{WORD}(?:{SENTENCE_END}|{PARAGRAPH_END})")
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Gap(NamedTuple):
    """A place in a text where `right` can be left out; the context has to begin at `reach` or before it.

    Without `wrong` choices, right texts of other gaps are the other choices.
    """

    start: int
    right: str
    wrong: tuple[str, ...]
    reach: int


def find_gaps(path: str, text: str) -> dict[str, list[Gap]]:
    r"""Return every gap of a document by task. A .py file that does not parse, such as its docstrings alone, is prose.

    >>> find_gaps("river.txt", "The river runs. The rain\n")
    {'last_word': [Gap(start=9, right=' runs', wrong=(), reach=9), Gap(start=19, right=' rain', wrong=(), reach=19)]}
    >>> {task: [gap.right for gap in gaps] for task, gaps in find_gaps("sum.py", "{x[0]: sum(x)}").items()}
    {'docstring_word': [], 'closing_bracket': [']', ')'], 'argument_name': []}
    """
    tree, is_python = _parse(text), PurePosixPath(path).suffix == ".py"
    if tree is not None:
        source = _Source(text)
        tasks = {
            "docstring_word": list(_docstring_words(tree, source)),
            "closing_bracket": list(_closing_brackets(source)),
            "argument_name": list(_argument_names(tree, source)),
        }
        if is_python or any(tasks.values()):  # prose may parse as well: a single word does
            return tasks
    pattern = LAST_OF_SENTENCE if is_python else LAST_OF_SENTENCE_OR_PARAGRAPH  # statements end no sentence
    return {"last_word": list(_words(pattern, text, 0, len(text)))}


def _parse(text: str) -> ast.Module | None:
    if "\r" in text:
        return None  # the end of a line for the parser, but not for _Source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in the text
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class _Source:
    def __init__(self, text: str):
        self.text, self.lines = text, text.split("\n")
        self.starts = np.cumsum([0, *(len(line) + 1 for line in self.lines)]).tolist()

    def offset(self, line: int, column: int) -> int:
        return int(self.starts[line - 1]) + column

    def byte_offset(self, line: int, column: int) -> int:
        """Return the offset of a position of `ast`, whose columns count UTF-8 bytes."""
        return self.offset(line, len(self.lines[line - 1].encode()[:column].decode()))


def _words(pattern: re.Pattern[str], text: str, begin: int, end: int) -> Iterator[Gap]:
    for match in pattern.finditer(text, begin, end):
        yield Gap(match.start(), match[0], (), match.start())


def _docstring_words(tree: ast.Module, source: _Source) -> Iterator[Gap]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node, clean=False) is not None:
            docstring: Any = node.body[0]
            begin = source.byte_offset(docstring.lineno, docstring.col_offset)
            end = source.byte_offset(docstring.end_lineno, docstring.end_col_offset)
            yield from _words(LAST_OF_SENTENCE, source.text, begin, end)


def _closing_brackets(source: _Source) -> Iterator[Gap]:
    """Yield brackets after a letter or digit: after another sign, tokenizers may merge the two."""
    stack: list[int] = []  # offsets of open brackets
    last: dict[str, int] = {}  # offset of the last opening bracket of each kind
    for sign, at in _signs(source):
        if sign in OPENING.values():
            stack.append(at)
            last[sign] = at
        elif sign in OPENING and stack:
            opener, other = stack.pop(), max((last[of] for of in last.keys() - OPENING[sign]), default=None)
            if other is not None and source.text[at - 1].isalnum():
                yield Gap(at, sign, tuple(of for of in OPENING if of != sign), min(opener, other))


def _signs(source: _Source) -> Iterator[tuple[str, int]]:
    """Yield the operators and brackets of code with their offsets."""
    with suppress(tokenize.TokenError, SyntaxError):  # in places stricter than the parser
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
            if token.type == tokenize.OP:
                yield token.string, source.offset(*token.start)


def _argument_names(tree: ast.Module, source: _Source) -> Iterator[Gap]:
    """Yield uses, after one space, of the parameters of functions that have three besides self or cls."""
    for node in ast.walk(tree):
        if not isinstance(node, Function) or len(names := _parameters(node.args)) < 3:
            continue
        reach = source.byte_offset(node.lineno, node.col_offset)
        for used in _own_names(node.body):
            start, right = source.byte_offset(used.lineno, used.col_offset) - 1, f" {used.id}"
            if used.id in names and source.text.startswith(right, start) and not source.text[start - 1].isspace():
                yield Gap(start, right, tuple(f" {name}" for name in names if name != used.id), reach)


def _parameters(args: ast.arguments) -> list[str]:
    found = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    return [parameter.arg for parameter in found if parameter and parameter.arg not in ("self", "cls")]


def _own_names(nodes: list[Any]) -> Iterator[ast.Name]:
    """Yield names that are read, but none in inner functions or f-strings, where Python 3.11 has wrong positions."""
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node
        elif not isinstance(node, Function | ast.Lambda | ast.ClassDef | ast.JoinedStr):
            yield from _own_names(list(ast.iter_child_nodes(node)))
