"""Make multiple-choice tasks of held-out documents, and score a model on them."""

import heapq
import json
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from llm.core.tables import iterate_rows, read_table
from llm.evaluate.gaps import TASKS, Gap, find_gaps
from llm.evaluate.multiple_choice import Encode, Item, chance, encode_pair, measure_items, score_items, task_config
from llm.evaluate.params import ClozeParams
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

N_CHOICES = 4  # at most
MIN_ITEMS = 20  # of a task; with fewer, intervals are wider than ± 20%
MAX_DOCUMENTS = 1000  # of test, sampled at random
MAX_CHARS = 1_000_000  # of a document: parsing takes many times the memory of the text
CHARS_PER_TOKEN = 16  # characters before a choice that are encoded, for each token of the context
MAX_TRIES = 200  # to find words of about the same length
Document = tuple[str, str]  # path and text


def make_tasks(
    path: Path, tokenizer: Tokenizer, context_length: int, params: ClozeParams, seed: int
) -> tuple[dict[str, list[Item]], dict[str, dict[str, str]]]:
    """Return the items by task, made of a corpus table; and tasks that are skipped for too few items."""
    rng, least = np.random.default_rng(seed), min(MIN_ITEMS, params.items)
    sampled = sample_items(read_documents(path, rng), tokenizer, context_length, params, rng)
    few = {task: len(items) for task, items in sampled.items() if len(items) < least}
    reasons = {task: {"skipped": f"{n} items, expected at least {least}"} for task, n in few.items()}
    return {task: items for task, items in sampled.items() if task not in few}, reasons


def write_tasks(folder: Path, harness_folder: str, tasks: dict[str, list[Item]]) -> None:
    """Write the items of each task as JSON lines, and its configuration for the harness, which reads harness_folder."""
    folder.mkdir(parents=True)
    for task, items in tasks.items():
        lines = [json.dumps(item._asdict(), ensure_ascii=False) + "\n" for item in items]
        (folder / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")
        with (folder / f"{task}.yaml").open("w", encoding="utf-8") as file:
            YAML().dump(task_config(task, f"{harness_folder}/{task}.jsonl"), file)


def measure_tasks(model: GPT, tokenizer: Tokenizer, tasks: dict[str, list[Item]], seed: int) -> dict[str, Any]:
    """Return {"test": {system: {TASK_METRIC: value}}} of the systems model and chance; {} without items."""
    systems: dict[str, dict[str, float]] = {"model": {}, "chance": {}}
    for number, (task, items) in enumerate(tasks.items()):
        scores = score_items(model, tokenizer.encode, items)
        found = measure_items(items, scores, np.random.default_rng([seed, number]))
        systems["model"] |= {f"{task}_{name}": value for name, value in found.items()}
        systems["chance"][f"{task}_accuracy"] = round(chance(items), 5)
    return {"test": systems} if tasks else {}


def read_documents(path: Path, rng: np.random.Generator) -> list[Document]:
    """Return path and text of a corpus table's documents; of many a random part, of long ones the beginning."""
    n_rows = read_table(path, ["path"]).num_rows
    sampled = set(rng.choice(n_rows, min(n_rows, MAX_DOCUMENTS), replace=False).tolist())
    rows = enumerate(iterate_rows(path, ["path", "text"]))
    return [(row["path"], row["text"][:MAX_CHARS]) for number, row in rows if number in sampled]


def sample_items(
    documents: list[Document], tokenizer: Tokenizer, context_length: int, params: ClozeParams, rng: np.random.Generator
) -> dict[str, list[Item]]:
    """Return up to params.items items of each task; a task without a gap is left out.

    Documents take turns. A right text is repeated only when all rarer ones are used up: so the kinds of brackets are
    balanced, and knowing the most frequent word gains nothing.
    """
    by_document = [find_gaps(path, text) for path, text in documents]
    items: dict[str, list[Item]] = {}
    for task in TASKS:
        turns = _take_turns([found.get(task, []) for found in by_document], rng)
        if not turns:
            continue
        turns_of = defaultdict[str, deque[int]](deque)  # indices of the turns of each right text
        for at, (_, gap) in enumerate(turns):
            turns_of[gap.right].append(at)
        words = sorted(turns_of)
        queue = [(0, turns_of[word][0], word) for word in words]
        heapq.heapify(queue)
        items[task] = []
        while queue and len(items[task]) < params.items:
            n_made, at, right = heapq.heappop(queue)
            turns_of[right].popleft()
            number, gap = turns[at]
            gap = gap if gap.wrong else gap._replace(wrong=_sample_similar(right, words, rng))
            item = _make_item(documents[number], gap, tokenizer, (params.context_tokens, context_length), rng)
            if item is not None:
                items[task].append(item)
            if turns_of[right]:
                heapq.heappush(queue, (n_made + (item is not None), turns_of[right][0], right))
    return items


def _take_turns(gaps: list[list[Gap]], rng: np.random.Generator) -> list[tuple[int, Gap]]:
    """Return all gaps with the index of their document: in random order, one gap of each document per turn."""
    turns = [
        (turn, position, number, gaps[number][index])
        for position, number in enumerate(rng.permutation(len(gaps)).tolist())
        for turn, index in enumerate(rng.permutation(len(gaps[number])).tolist())
    ]
    return [(number, gap) for _, _, number, gap in sorted(turns, key=lambda of: of[:2])]


def _sample_similar(right: str, words: list[str], rng: np.random.Generator) -> tuple[str, ...]:
    """Sample other words of the same case and about the same length; none repeats another in another case."""
    found = {right.casefold(): right}
    for at in rng.integers(len(words), size=MAX_TRIES).tolist():
        word = words[at]
        if abs(len(word) - len(right)) <= 2 and word[1].isupper() == right[1].isupper():
            found.setdefault(word.casefold(), word)
        if len(found) == N_CHOICES:
            break
    return tuple(found.values())[1:]


def _make_item(
    document: Document, gap: Gap, tokenizer: Tokenizer, max_tokens: tuple[int, int], rng: np.random.Generator
) -> Item | None:
    """Return an item; None if the context lacks the evidence, or a token crosses from the context into a choice.

    `max_tokens` are those of the context, and of the context and a choice.
    """
    (path, text), (context_tokens, context_length), encode = document, max_tokens, tokenizer.encode
    wrong = [gap.wrong[at] for at in rng.permutation(len(gap.wrong))[: N_CHOICES - 1].tolist()]
    answer = int(rng.integers(len(wrong) + 1))
    choices = [*wrong[:answer], gap.right, *wrong[answer:]]
    longest = max(len(encode(choice)) for choice in choices)
    # Encoding is slow, and a document may be long: only what can fit the context is encoded.
    before = text[max(gap.start - CHARS_PER_TOKEN * context_tokens, 0) : gap.start]
    context = cut_left(before, min(context_tokens, context_length - longest), encode)
    is_fair = wrong and context.strip() and gap.start - len(context) <= gap.reach
    # The harness encodes a special token's name in a text as the token.
    if not is_fair or any(name in context + choice for name in tokenizer.special for choice in choices):
        return None
    pairs = [(encode_pair(encode, context, choice), encode(context + choice)) for choice in choices]
    splits = all(own and [*before, *own] == ids and len(ids) <= context_length for (before, own), ids in pairs)
    is_distinct = len({tuple(own) for (_, own), _ in pairs}) == len(choices)
    return Item(path, context, choices, answer) if splits and is_distinct else None


def cut_left(text: str, max_tokens: int, encode: Encode) -> str:
    r"""Return the end of a text, at most so many tokens: from a line's beginning, or a word's if that leaves little.

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
