"""Make multiple-choice tasks of held-out documents, and score a model on them.

corpus table ──make_tasks──► items by task ──write_tasks──► files for the harness
                                           └─measure_tasks─► accuracies beside chance

Tokens, sums and accuracies are those of EleutherAI's lm-evaluation-harness 0.4.13 for `output_type: multiple_choice`,
so that it gives the same figures: see `llm.experiments.harness`.
"""

import heapq
import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML

from llm.core.errors import UserError
from llm.core.tables import iterate_rows, read_table
from llm.evaluate.bootstrap import ratio_with_interval
from llm.evaluate.gaps import TASKS, Gap, find_gaps
from llm.evaluate.likelihood import score_continuations
from llm.evaluate.params import ClozeParams
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

N_CHOICES = 4  # at most
MIN_ITEMS = 20  # of a task; with fewer, intervals are wider than ± 20%
MAX_DOCUMENTS = 1000  # of test, sampled at random
MAX_CHARS = 1_000_000  # of a document: parsing takes many times the memory of the text
CHARS_PER_TOKEN = 16  # characters before a choice that are encoded, for each token of the context
MAX_TRIES = 200  # to find words of about the same length
TAG = "groundup"  # the harness's name for all tasks together

Document = tuple[str, str]  # path and text
Encode = Callable[[str], list[int]]


class Item(NamedTuple):
    """A context, 2–4 texts that may continue it, and the index of the right one; the harness calls it a doc."""

    document: str
    context: str
    choices: list[str]
    answer: int


def make_tasks(
    path: Path, tokenizer: Tokenizer, context_length: int, params: ClozeParams, seed: int
) -> tuple[dict[str, list[Item]], dict[str, dict[str, str]]]:
    """Return the items by task, made of a corpus table; and tasks that are skipped for too few items."""
    rng, least, skipped = np.random.default_rng(seed), min(MIN_ITEMS, params.items), {}
    tasks = sample_items(read_documents(path, rng), tokenizer, context_length, params, rng)
    for task in [task for task, items in tasks.items() if len(items) < least]:
        skipped[task] = {"skipped": f"{len(tasks.pop(task))} items, expected at least {least}"}
    return tasks, skipped


def read_documents(path: Path, rng: np.random.Generator) -> list[Document]:
    """Return path and text of a corpus table's documents; of many a random part, of long ones the beginning."""
    rows, n_rows = iterate_rows(path, ["path", "text"]), read_table(path, ["path"]).num_rows
    sampled = set(rng.choice(n_rows, min(n_rows, MAX_DOCUMENTS), replace=False).tolist())
    return [(row["path"], row["text"][:MAX_CHARS]) for number, row in enumerate(rows) if number in sampled]


def sample_items(
    documents: list[Document], tokenizer: Tokenizer, context_length: int, params: ClozeParams, rng: np.random.Generator
) -> dict[str, list[Item]]:
    """Return up to params.items items of each task that has gaps; documents take turns.

    A correct choice repeats only after all rarer ones are used, so that guessing the most frequent one is not better.
    """
    by_document = [find_gaps(path, text) for path, text in documents]
    max_tokens, tasks = (params.context_tokens_of(context_length), context_length), {}
    for task in TASKS:
        turns_of = _take_turns(task, by_document, rng)
        if not turns_of:
            continue
        words, items = sorted(turns_of), list[Item]()
        queue = [(0, turns_of[word][0][0], word) for word in words]  # the fewest items first, then the earliest turn
        heapq.heapify(queue)
        while queue and len(items) < params.items:
            n_made, _, right = heapq.heappop(queue)
            _, number, gap = turns_of[right].popleft()
            gap = gap if gap.wrong else gap._replace(wrong=_sample_similar(right, words, rng))
            if item := _make_item(documents[number], gap, tokenizer, max_tokens, rng):
                items.append(item)
            if turns_of[right]:
                heapq.heappush(queue, (n_made + (item is not None), turns_of[right][0][0], right))
        tasks[task] = items
    return tasks


def _take_turns(
    task: str, by_document: list[dict[str, list[Gap]]], rng: np.random.Generator
) -> dict[str, deque[tuple[int, int, Gap]]]:
    """Return a task's gaps by right text, each with its turn and document; one of each document per round."""
    gaps = [found.get(task, []) for found in by_document]
    rounds = [
        (number_of_round, position, number, gaps[number][index])
        for position, number in enumerate(rng.permutation(len(gaps)).tolist())
        for number_of_round, index in enumerate(rng.permutation(len(gaps[number])).tolist())
    ]
    turns_of = defaultdict[str, deque[tuple[int, int, Gap]]](deque)
    for turn, (_, _, number, gap) in enumerate(sorted(rounds)):
        turns_of[gap.right].append((turn, number, gap))
    return turns_of


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
    """Return an item; None if the context lacks the evidence, or a token crosses from the context into a choice."""
    (path, text), (context_tokens, context_length), encode = document, max_tokens, tokenizer.encode
    wrong = [gap.wrong[at] for at in rng.permutation(len(gap.wrong))[: N_CHOICES - 1].tolist()]
    answer = int(rng.integers(len(wrong) + 1))
    choices = [*wrong[:answer], gap.right, *wrong[answer:]]
    longest = max(len(encode(choice)) for choice in choices)
    # Encoding is slow, and a document may be long: only what can fit the context is encoded.
    before = text[max(gap.start - CHARS_PER_TOKEN * context_tokens, 0) : gap.start]
    context = cut_left(before, min(context_tokens, context_length - longest), encode)
    is_fair = wrong and context.strip() and gap.start - len(context) <= gap.reach
    if not is_fair or not _is_split(context, choices, tokenizer, context_length):
        return None
    return Item(path, context, choices, answer)


def _is_split(context: str, choices: list[str], tokenizer: Tokenizer, context_length: int) -> bool:
    """Return whether tokens split each text between context and choice, and no two choices have the same ones."""
    found = set()
    for choice in choices:
        text = context + choice
        before, own = encode_pair(tokenizer.encode, context, choice)
        # The harness encodes a special token's name in a text as the token.
        is_plain = not any(name in text for name in tokenizer.special)
        is_complete = len(own) > 0 and before + own == tokenizer.encode(text)
        if not is_plain or not is_complete or len(before) + len(own) > context_length:
            return False
        found.add(tuple(own))
    return len(found) == len(choices)


def cut_left(text: str, max_tokens: int, encode: Encode) -> str:
    r"""Return the end of a text, of at most `max_tokens`, from the start of a line, or of a word if that leaves little.

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


def encode_pair(encode: Encode, context: str, choice: str) -> tuple[list[int], list[int]]:
    """Return the ids of a context and of a choice after it, split as the harness does.

    Of the ids of both, as many as the context has alone are its own; whitespace at its end belongs to the choice.
    """
    ids, context_ids = encode(context + choice), encode(context.rstrip())
    return context_ids, ids[len(context_ids) :]


def write_tasks(folder: Path, harness_folder: str, tasks: dict[str, list[Item]]) -> None:
    """Write the items of each task as JSON lines, and its configuration for the harness, which reads harness_folder."""
    folder.mkdir(parents=True)
    for task, items in tasks.items():
        lines = [json.dumps(item._asdict(), ensure_ascii=False) + "\n" for item in items]
        (folder / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")
        config: dict[str, Any] = {"task": f"{TAG}_{task}", "tag": TAG, "dataset_path": "json"}
        config |= {"dataset_kwargs": {"data_files": {"test": f"{harness_folder}/{task}.jsonl"}}, "test_split": "test"}
        config |= {"output_type": "multiple_choice", "doc_to_text": "context", "doc_to_choice": "choices"}
        config |= {"doc_to_target": "answer", "target_delimiter": ""}
        metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
        with (folder / f"{task}.yaml").open("w", encoding="utf-8") as file:
            YAML().dump(config | {"metric_list": metrics, "metadata": {"version": 1.0}}, file)


def measure_tasks(model: GPT, tokenizer: Tokenizer, tasks: dict[str, list[Item]], seed: int) -> dict[str, Any]:
    """Return {"test": {system: {TASK_METRIC: value}}} of the systems model and chance; {} without items."""
    systems: dict[str, dict[str, float]] = {"model": {}, "chance": {}}
    for number, (task, items) in enumerate(tasks.items()):
        scores = score_items(model, tokenizer.encode, items)
        found = measure_items(items, scores, np.random.default_rng([seed, number]))
        systems["model"] |= {f"{task}_{name}": value for name, value in found.items()}
        systems["chance"][f"{task}_accuracy"] = round(chance(items), 5)
    return {"test": systems} if tasks else {}


def score_items(model: GPT, encode: Encode, items: list[Item]) -> list[NDArray[np.float32]]:
    """Return the log-probabilities (C,) in nats of each item's choices; UserError for items of another model."""
    length, scores = model.config.context_length, []
    for item in items:
        pairs = [encode_pair(encode, item.context, choice) for choice in item.choices]
        for context, choice in pairs:
            if not context or not choice or len(context) + len(choice) > length:
                found = f"{len(context)} + {len(choice)} tokens in {item.document}"
                raise UserError(
                    f"cloze: expected items for this tokenizer and a context of {length} tokens, got {found}"
                )
        scores.append(score_continuations(model, [pairs[0][0]], [choice for _, choice in pairs])[0])
    return scores


def grade(item: Item, scores: NDArray[np.float32]) -> tuple[bool, bool]:
    """Return whether the most likely choice is right (`acc`), and the most likely per character (`acc_norm`)."""
    lengths = np.array([len(choice) for choice in item.choices])
    return int(scores.argmax()) == item.answer, int((scores / lengths).argmax()) == item.answer


def chance(items: list[Item]) -> float:
    """Return the accuracy without the context: of a random choice, or of the most frequent right text if higher."""
    frequent = Counter(item.choices[item.answer] for item in items).most_common(1)[0][1]
    return max(float(np.mean([1 / len(item.choices) for item in items])), frequent / len(items))


def measure_items(items: list[Item], scores: list[NDArray[np.float32]], rng: np.random.Generator) -> dict[str, float]:
    """Return the accuracies with their 95% intervals over documents, and the numbers of items and documents."""
    right = np.array([grade(item, of_item) for item, of_item in zip(items, scores, strict=True)])  # (N, 2)
    documents, owner = np.unique([item.document for item in items], return_inverse=True)
    found: dict[str, float] = {"items": len(items), "documents": len(documents)}
    for name, of_name in zip(("accuracy", "accuracy_norm"), right.T, strict=True):
        found |= ratio_with_interval(name, np.bincount(owner, weights=of_name), np.bincount(owner), rng)
    return found
