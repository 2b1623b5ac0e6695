"""Score multiple-choice items: whether the most likely of a few continuations is the right one.

Tokens, sums and accuracies are those of EleutherAI's lm-evaluation-harness 0.4.13 for `output_type: multiple_choice`,
so that it gives the same figures: see `llm.experiments.harness`.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.core.errors import UserError
from llm.evaluate.bootstrap import ratio_with_interval
from llm.evaluate.likelihood import score_continuations
from llm.model.gpt import GPT

Encode = Callable[[str], list[int]]
Pair = tuple[list[int], list[int]]  # the ids of a context and of one choice after it

TAG = "groundup"  # the harness's name for all tasks together


class Item(NamedTuple):
    """A context, 2–4 texts that may continue it, and the index of the right one; the harness calls it a doc."""

    document: str
    context: str
    choices: list[str]
    answer: int


def encode_pair(encode: Encode, context: str, choice: str) -> Pair:
    """Return the ids of a context and of a choice after it, split as the harness does.

    They are encoded as one text; as many ids as the context has alone are the context's. Whitespace at the context's
    end belongs to the choice.
    """
    ids, context_ids = encode(context + choice), encode(context.rstrip())
    return context_ids, ids[len(context_ids) :]


def score_items(model: GPT, encode: Encode, items: list[Item]) -> list[NDArray[np.float32]]:
    """Return for each item the log-probabilities (C,) in nats of its C choices, each a sum over the choice's ids.

    In float32 on every machine, as the harness. UserError for an item that does not fit the model's context: it was
    made for another model.
    """
    length, scores = model.config.context_length, []
    for item in items:
        pairs = [encode_pair(encode, item.context, choice) for choice in item.choices]
        for context, choice in pairs:
            if not context or not choice or len(context) + len(choice) > length:
                raise UserError(
                    f"cloze: expected items for this tokenizer and a context of {length} tokens, got {len(context)} + "
                    f"{len(choice)} tokens in {item.document}"
                )
        scores.append(score_continuations(model, pairs[0][0], [choice for _, choice in pairs]))
    return scores


def grade(item: Item, scores: NDArray[np.float32]) -> tuple[bool, bool]:
    """Return whether the most likely choice is right, and whether the most likely per character is.

    These are the harness's `acc` and `acc_norm`. Of ties the first counts.
    """
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


def task_config(task: str, data_file: str) -> dict[str, Any]:
    """Return the harness's configuration of a task; `data_file` has an item per line, as JSON."""
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": data_file}}, "test_split": "test"}
    columns = {"doc_to_text": "context", "doc_to_choice": "choices", "doc_to_target": "answer", "target_delimiter": ""}
    config = {"task": f"{TAG}_{task}", "tag": TAG, **data, "output_type": "multiple_choice", **columns}
    return config | {"metric_list": metrics, "metadata": {"version": 1.0}}
