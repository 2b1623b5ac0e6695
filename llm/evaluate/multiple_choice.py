"""How often the likeliest of a few choices is the right one: what a context may go on with, by log-probability.

    item ──encode_pair──► ids of context and choice ──score_items──► log-probabilities ──grade──► right or not

Tokens, sums and accuracies are those of EleutherAI's lm-evaluation-harness for `output_type: multiple_choice` (read in
its version 0.4.13), so that it finds the same figures: see `llm.experiments.harness`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from llm.core.errors import UserError
from llm.evaluate.bootstrap import ratio_interval
from llm.evaluate.likelihood import score_targets
from llm.model.gpt import GPT, Past

Encode = Callable[[str], list[int]]
Pair = tuple[list[int], list[int]]  # the ids of a context and of one choice after it

TAG = "groundup"  # what the harness calls all tasks together


class Item(NamedTuple):
    """What the harness calls a doc: a context, 2–4 texts that may continue it, and which of them does."""

    document: str
    context: str
    choices: list[str]
    answer: int


def encode_pair(encode: Encode, context: str, choice: str) -> Pair:
    """The ids of a context and of a choice behind it, as the harness tells them apart.

    Both are encoded as one text; as many ids as the context has alone are the context's. Whitespace at the context's
    end is taken for the choice's beginning.

    >>> encode_pair(lambda text: [len(word) for word in text.split(" ")], "the rain ", "falls")
    ([3, 4], [5])
    """
    kept = context.rstrip()
    ids = encode(context + choice)
    context_ids = encode(kept)
    return context_ids, ids[len(context_ids) :]


@torch.no_grad()
def score_items(model: GPT, encode: Encode, items: list[Item], batch_size: int = 32) -> list[NDArray[np.float64]]:
    """For each item the log-probability (C,) in nats of each of its C choices: the sum over the choice's ids.

    In float32 on every machine, for that is what the harness is held against. A context is read once for all choices.
    UserError where an item does not fit the model's context: it was drawn for another model.
    """
    pairs = [[encode_pair(encode, item.context, choice) for choice in item.choices] for item in items]
    for item, of_item in zip(items, pairs, strict=True):
        for context, choice in of_item:
            if not context or not choice or len(context) + len(choice) > model.config.context_length:
                raise UserError(
                    f"cloze: wanted items for this tokenizer and a context of {model.config.context_length} tokens, "
                    f"given {len(context)} + {len(choice)} tokens in {item.document}"
                )
    sums = [np.zeros(len(item.choices)) for item in items]
    by_length: dict[int, list[int]] = defaultdict(list)  # items whose contexts have equally many ids
    for number, of_item in enumerate(pairs):
        by_length[len(of_item[0][0])].append(number)
    for numbers in by_length.values():
        for at in range(0, len(numbers), batch_size):
            _score_batch(model, [(pairs[number], sums[number]) for number in numbers[at : at + batch_size]])
    return sums


def _score_batch(model: GPT, batch: list[tuple[list[Pair], NDArray[np.float64]]]) -> None:
    """Add to each item's sums what its choices cost; all B contexts have P ids."""
    assert not model.sees_the_future, "a past that would change with the choice"
    device = model.embedding.weight.device
    contexts = torch.tensor([pairs[0][0] for pairs, _ in batch], device=device)  # (B, P)
    # Choice c of item b is one of R rows; it reads the context's last id and all its own but the last.
    rows = [(b, c, choice) for b, (pairs, _) in enumerate(batch) for c, (_, choice) in enumerate(pairs)]
    owner = torch.tensor([b for b, _, _ in rows], device=device)  # (R,)
    targets = pad_sequence([torch.tensor(choice) for _, _, choice in rows], batch_first=True).to(device)  # (R, T)
    read = torch.cat([contexts[owner, -1:], targets[:, :-1]], dim=1)
    past = None
    if contexts.shape[1] > 1:
        _, of_contexts = model.run_blocks(model.embedding(contexts[:, :-1]))
        layers = [tuple(kept[owner] for kept in layer) for layer in of_contexts.layers]
        past = Past(of_contexts.length, layers)
    hidden, _ = model.run_blocks(model.embedding(read), past)  # (R, T, D)
    nats = score_targets(model.head(hidden), targets)[0].cpu().numpy()  # (R, T)
    for (b, c, choice), of_row in zip(rows, nats, strict=True):
        batch[b][1][c] -= of_row[: len(choice)].sum()


def grade(item: Item, scores: NDArray[np.float64]) -> tuple[bool, bool]:
    """Whether the likeliest choice is the right one, and whether the likeliest by character is.

    These are the harness's `acc` and `acc_norm`: the second divides by the characters of a choice, in Python's sense.
    Of equals the first counts.

    >>> grade(Item("", "The", [" rain", " riverbank"], 1), np.array([-5.0, -6.0]))
    (False, True)
    """
    lengths = np.array([len(choice) for choice in item.choices])
    return int(scores.argmax()) == item.answer, int((scores / lengths).argmax()) == item.answer


def chance(items: list[Item]) -> float:
    """What share is right without the context: drawing a choice, or always giving the most frequent right text."""
    frequent = Counter(item.choices[item.answer] for item in items).most_common(1)[0][1]
    return max(float(np.mean([1 / len(item.choices) for item in items])), frequent / len(items))


def figures(items: list[Item], scores: list[NDArray[np.float64]], rng: np.random.Generator) -> dict[str, float]:
    """Accuracies with their 95% intervals over documents, and what chance gives; shares rounded to 5 places."""
    right = np.array([grade(item, of_item) for item, of_item in zip(items, scores, strict=True)])  # (N, 2)
    documents, owner = np.unique([item.document for item in items], return_inverse=True)
    n_items = np.bincount(owner)
    found: dict[str, float] = {
        "items": len(items),
        "documents": len(documents),
        "chance": round(chance(items), 5),
    }
    for name, of_name in zip(("acc", "acc_norm"), right.T, strict=True):
        found[name] = round(float(of_name.mean()), 5)
        interval = ratio_interval(np.bincount(owner, weights=of_name), n_items, rng)
        if interval is not None:
            found[f"{name}_low"], found[f"{name}_high"] = (round(end, 5) for end in interval)
    return found


def task_config(task: str, data_file: str) -> dict[str, Any]:
    """What the harness wants to know of a task. `data_file` has an item a line, as JSON.

    The keys are its own; a context and choices are taken as they are, with nothing between them.
    """
    measured = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    return {
        "task": f"{TAG}_{task}",
        "tag": TAG,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": data_file}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": measured,
        "metadata": {"version": 1.0},
    }
