"""Held-out documents → multiple-choice items: what was left out here?

    document ──find_gaps──► places that can be left out ──draw_items──► Item(document, context, choices, answer)

| task | what is left out | what else there is to choose from |
| --- | --- | --- |
| docstring_word | the last word of a sentence in a docstring | words that end other sentences |
| closing_bracket | `)`, `]` or `}` in Python code | the other two |
| argument_name | a use of a parameter in its function's body | the function's other parameters |
| last_word | the last word of a sentence or paragraph of any other text | words that end other sentences |

How a model's choices are scored stands in `llm.evaluate.multiple_choice`.
"""

import ast
import heapq
import io
import re
import tokenize
import warnings
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from llm.core.tables import iterate_rows, read_table
from llm.evaluate.multiple_choice import Encode, Item, encode_pair
from llm.tokens.tokenizer import Tokenizer

TASKS = ("docstring_word", "closing_bracket", "argument_name", "last_word")
N_CHOICES = 4  # at most
MIN_ITEMS = 20  # fewer say nothing: their interval is wider than ± 20%

MAX_DOCUMENTS = 1000  # of test, drawn, that items are made from
MAX_CHARS = 1_000_000  # of a document: parsing takes many times the memory of the text
CHARS_A_TOKEN = 16  # the text before a choice is looked at so far back, for each token of the context
MAX_TRIES = 200  # of a draw for words of about the same length

OPENING = {")": "(", "]": "[", "}": "{"}
# A word with one blank before it. The blank belongs to the choice, as it belongs to the word's token.
WORD = r"(?<=\S) [^\W\d_]{3,}"
SENTENCE_END = r"(?=[.!?](?:[\s\"')\]]|\Z))"
PARAGRAPH_END = r"(?=\s*\Z|\s*\n[ \t]*\n)"
LAST_OF_SENTENCE = re.compile(WORD + SENTENCE_END)
LAST_OF_SENTENCE_OR_PARAGRAPH = re.compile(f"{WORD}(?:{SENTENCE_END}|{PARAGRAPH_END})")


class Gap(NamedTuple):
    """A place in a text where `right` stands and could be left out.

    `reach` is where that begins which the answer hangs on: a context that is cut behind it leaves nothing to know.
    Without `wrong` ones, other gaps' right texts are the other choices.
    """

    start: int
    right: str
    wrong: tuple[str, ...]
    reach: int


def read_documents(path: Path, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Path and text of a corpus table's documents in order; of many or long ones a drawn part, or the beginning."""
    n_rows = read_table(path, ["path"]).num_rows
    drawn = set(rng.choice(n_rows, min(n_rows, MAX_DOCUMENTS), replace=False).tolist())
    rows = enumerate(iterate_rows(path, ["path", "text"]))
    return [(row["path"], row["text"][:MAX_CHARS]) for number, row in rows if number in drawn]


def find_gaps(path: str, text: str) -> dict[str, list[Gap]]:
    r"""Every gap of a document by task. A .py file that does not parse, the end of one say, has none.

    >>> find_gaps("river.txt", "The river runs. The rain\n")
    {'last_word': [Gap(start=9, right=' runs', wrong=(), reach=9), Gap(start=19, right=' rain', wrong=(), reach=19)]}
    >>> {task: [gap.right for gap in gaps] for task, gaps in find_gaps("sum.py", "{x[0]: sum(x)}").items()}
    {'docstring_word': [], 'closing_bracket': [']', ')'], 'argument_name': []}
    """
    tree, is_python = _parse(text), PurePosixPath(path).suffix == ".py"
    if tree is not None:
        place = _Places(text)
        found = {
            "docstring_word": list(_docstring_words(tree, place)),
            "closing_bracket": list(_closing_brackets(place)),
            "argument_name": list(_argument_names(tree, place)),
        }
        if is_python or any(found.values()):  # prose may parse as well: a word alone does
            return found
    if is_python:
        return {}
    return {"last_word": list(_words(LAST_OF_SENTENCE_OR_PARAGRAPH, text, 0, len(text)))}


def _parse(text: str) -> ast.Module | None:
    if "\r" in text:
        return None  # a line's end for the parser, and not for us
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an escape that is none, in somebody's text
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class _Places:
    """A text, and the offset of a place in it by line (from 1) and column."""

    def __init__(self, text: str):
        self.text, self.lines = text, text.split("\n")
        self.starts = np.cumsum([0, *(len(line) + 1 for line in self.lines)]).tolist()

    def of_characters(self, line: int, column: int) -> int:
        return int(self.starts[line - 1]) + column

    def of_bytes(self, line: int, column: int) -> int:
        """Columns of `ast` count UTF-8 bytes."""
        return self.of_characters(line, len(self.lines[line - 1].encode()[:column].decode()))


def _words(pattern: re.Pattern[str], text: str, begin: int, end: int) -> Iterator[Gap]:
    for match in pattern.finditer(text, begin, end):
        yield Gap(match.start(), match[0], (), match.start())


def _docstring_words(tree: ast.Module, place: _Places) -> Iterator[Gap]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is None:
                continue
            held = node.body[0]
            assert held.end_lineno is not None and held.end_col_offset is not None
            begin = place.of_bytes(held.lineno, held.col_offset)
            yield from _words(LAST_OF_SENTENCE, place.text, begin, place.of_bytes(held.end_lineno, held.end_col_offset))


def _closing_brackets(place: _Places) -> Iterator[Gap]:
    """Brackets after a letter or digit: behind another sign, tokenizers may make one token of the two.

    A bracket of another kind was opened before, and the context holds it and the one that is closed here.
    """
    opened: list[int] = []  # where the brackets were opened that are still open
    last: dict[str, int] = {}  # where one of each kind was opened last
    for kind, sign, (line, column) in _python_tokens(place.text):
        at = place.of_characters(line, column)
        if kind == tokenize.OP and sign in OPENING.values():
            opened.append(at)
            last[sign] = at
        elif kind == tokenize.OP and sign in OPENING and opened:
            opener = opened.pop()
            others = [start for other, start in last.items() if other != OPENING[sign]]
            if others and place.text[at - 1].isalnum():
                yield Gap(at, sign, tuple(other for other in OPENING if other != sign), min(opener, max(others)))


def _python_tokens(text: str) -> Iterator[tuple[int, str, tuple[int, int]]]:
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            yield token.type, token.string, token.start
    except (tokenize.TokenError, SyntaxError):  # the parser is not as strict in all places
        return


def _argument_names(tree: ast.Module, place: _Places) -> Iterator[Gap]:
    """Uses with one blank before them, which the choice then has too, of functions of 3 parameters beside self."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        given = node.args
        arguments = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
        names = [argument.arg for argument in arguments if argument and argument.arg not in ("self", "cls")]
        if len(names) < 3:
            continue
        reach = place.of_bytes(node.lineno, node.col_offset)
        for used in _own_names(node.body):
            start = place.of_bytes(used.lineno, used.col_offset) - 1
            right, before = f" {used.id}", place.text[start - 1]
            if used.id in names and place.text.startswith(right, start) and not before.isspace():
                yield Gap(start, right, tuple(f" {name}" for name in names if name != used.id), reach)


def _own_names(nodes: list[Any]) -> Iterator[ast.Name]:
    """Names that are read, without those of inner functions, which may have parameters of the same name.

    Without f-strings too: before Python 3.12 the places in them are wrong.
    """
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef | ast.JoinedStr):
            yield from _own_names(list(ast.iter_child_nodes(node)))


def draw_items(
    documents: list[tuple[str, str]],
    tokenizer: Tokenizer,
    context_length: int,
    context_tokens: int,
    n: int,
    rng: np.random.Generator,
) -> dict[str, list[Item]]:
    """Up to n items of each task from documents (path, text); context and choice fit a model's context length.

    A task that no document has a place for is left out: the text is not of its kind.
    Documents take turns. A right text comes again only when those that came less often are used up: so the kinds of
    brackets are as many of each as can be, and who knows the most frequent word has gained nothing.
    """
    by_document = [find_gaps(path, text) for path, text in documents]
    items: dict[str, list[Item]] = {}
    for task in TASKS:
        turns = _take_turns([found.get(task, []) for found in by_document], rng)
        if not turns:
            continue
        places = defaultdict[str, deque[int]](deque)  # in turns, of each right text
        for at, (_, gap) in enumerate(turns):
            places[gap.right].append(at)
        words = sorted(places)
        next_up = [(0, places[word][0], word) for word in words]
        heapq.heapify(next_up)
        items[task] = []
        while next_up and len(items[task]) < n:
            n_made, at, right = heapq.heappop(next_up)
            places[right].popleft()
            number, gap = turns[at]
            gap = gap if gap.wrong else gap._replace(wrong=_draw_similar(right, words, rng))
            item = _make_item(*documents[number], gap, tokenizer, context_length, context_tokens, rng)
            if item is not None:
                items[task].append(item)
            if places[right]:
                heapq.heappush(next_up, (n_made + (item is not None), places[right][0], right))
    return items


def _take_turns(gaps: list[list[Gap]], rng: np.random.Generator) -> list[tuple[int, Gap]]:
    """All gaps with the number of their document: the documents in a drawn order, one drawn gap of each in turn."""
    turns = [
        (turn, place, number, gaps[number][index])
        for place, number in enumerate(rng.permutation(len(gaps)).tolist())
        for turn, index in enumerate(rng.permutation(len(gaps[number])).tolist())
    ]
    return [(number, gap) for _, _, number, gap in sorted(turns, key=lambda of: of[:2])]


def _draw_similar(right: str, words: list[str], rng: np.random.Generator) -> tuple[str, ...]:
    """Other words that are written as large and about as long, each but once whatever its case."""
    found = {right.casefold(): right}
    for at in rng.integers(len(words), size=MAX_TRIES).tolist():
        word = words[at]
        if abs(len(word) - len(right)) <= 2 and word[1].isupper() == right[1].isupper():
            found.setdefault(word.casefold(), word)
        if len(found) == N_CHOICES:
            break
    return tuple(found.values())[1:]


def _make_item(
    path: str,
    text: str,
    gap: Gap,
    tokenizer: Tokenizer,
    context_length: int,
    context_tokens: int,
    rng: np.random.Generator,
) -> Item | None:
    """None where a model of this tokenizer and context length could not be asked fairly, or has nothing to go by."""
    wrong = [gap.wrong[at] for at in rng.permutation(len(gap.wrong))[: N_CHOICES - 1].tolist()]
    answer = int(rng.integers(len(wrong) + 1))
    choices = [*wrong[:answer], gap.right, *wrong[answer:]]
    longest = max(len(tokenizer.encode(choice)) for choice in choices)
    # What a tokenizer needs at most, and only for what is near: a document may be long.
    before = text[max(gap.start - CHARS_A_TOKEN * context_tokens, 0) : gap.start]
    context = cut_left(before, min(context_tokens, context_length - longest), tokenizer.encode)
    if not wrong or not context.strip() or gap.start - len(context) > gap.reach:
        return None
    # The harness takes a special token's name in a text for the token.
    if any(name in context + choice for name in tokenizer.special for choice in choices):
        return None
    pairs = [encode_pair(tokenizer.encode, context, choice) for choice in choices]
    whole = [tokenizer.encode(context + choice) for choice in choices]
    is_clean = all([*pair[0], *pair[1]] == ids and pair[1] for pair, ids in zip(pairs, whole, strict=True))
    fits = all(len(ids) <= context_length for ids in whole)
    differ = len({tuple(choice) for _, choice in pairs}) == len(choices)
    return Item(path, context, choices, answer) if is_clean and fits and differ else None


def cut_left(text: str, max_tokens: int, encode: Encode) -> str:
    r"""The end of a text, at most so many tokens: from a line's beginning, or a word's where that would leave little.

    >>> cut_left("one\ntwo three\nfour five", 20, encode=lambda text: list(text.encode()))
    'two three\nfour five'
    >>> cut_left("one\ntwo three\nfour five", 18, encode=lambda text: list(text.encode()))
    'three\nfour five'
    """
    kept = text
    while kept and (n := len(encode(kept))) > max_tokens:
        kept = kept[len(kept) - len(kept) * max(max_tokens, 0) // n :]
    if len(kept) < len(text):
        from_line, from_word = (kept.partition(end)[2] for end in "\n ")
        kept = from_line if len(from_line) > len(kept) // 2 else from_word
    return kept
