r"""Score the stage cloze's tasks with EleutherAI's lm-evaluation-harness, beside our own figures for the same items.

    a Hugging Face folder ─┬─ Transformers, lm_eval ──► log-probabilities and accuracies ─┐
    data/cloze/*.yaml     ─┴─ our model, llm.evaluate.cloze ──► the same ─────────────────┴─► a table

The package `lm_eval` is optional: `make extras`. Nothing is downloaded. The harness's own command line reads the same
files, from the root of the project:

    lm_eval --model hf --model_args pretrained=models/export/hf,dtype=float32,add_bos_token=False \
        --include_path data/cloze --tasks groundup

Contexts are cut out of documents, so none begins a text: without that argument the tokenizer would put a token there.
"""

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llm.core import params
from llm.core.errors import UserError
from llm.evaluate.cloze import Item, chance, grade, score_items
from llm.export.hf.folder import read_folder
from llm.report.tables import Table
from llm.tokens.tokenizer import Tokenizer

TOLERANCE = 1e-9  # accuracies are whole numbers over the number of items


class Result(NamedTuple):
    """A task's accuracies (harness: acc, acc_norm), and the log-probabilities (C,) of each item's choices in nats."""

    accuracy: float
    accuracy_norm: float
    scores: list[list[float]]


def read_items(tasks: Path) -> dict[str, list[Item]]:
    """Return the items of each task in a folder of the stage cloze; UserError where it has none."""
    items = {}
    for file in sorted(tasks.glob("*.yaml")):
        data = file.with_suffix(".jsonl")
        if not data.is_file():
            raise UserError(f"{file}: expected its items in {data.name}, got no such file")
        # Not splitlines: it also splits at line separators inside a text.
        items[file.stem] = [Item(**json.loads(line)) for line in data.read_text(encoding="utf-8").split("\n") if line]
    if not items:
        raise UserError(f"{tasks}: expected task files, got none; metrics/cloze.json says why, or run dvc repro cloze")
    return items


def run_ours(folder: Path, tasks: Path) -> dict[str, Result]:
    """Score each task with our model; UserError where its items were made for another model."""
    model, tokenizer = read_folder(folder), Tokenizer.load(folder / "tokenizer.json")
    results = {}
    for task, items in read_items(tasks).items():
        scores = score_items(model, tokenizer.encode, items)
        correct = np.array([grade(item, of_item) for item, of_item in zip(items, scores, strict=True)])
        accuracy, accuracy_norm = correct.mean(axis=0).tolist()
        results[task] = Result(accuracy, accuracy_norm, [of_item.tolist() for of_item in scores])
    return results


def run_harness(folder: Path, tasks: Path) -> dict[str, Result]:
    """Score each task with lm_eval and Transformers, in float32 on the CPU; UserError where it is not installed."""
    # Set before the import: its libraries read at import that they may not download.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise UserError(f"expected the package lm_eval, {error.name} is not installed (make extras)") from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32", "batch_size": 16, "local_files_only": True}
    model = HFLM(pretrained=str(folder), add_bos_token=False, **options)
    # Seeds of None leave this process's generators alone; nothing is drawn.
    options = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"))
    options |= {"task_manager": TaskManager(include_defaults=False), "bootstrap_iters": 0}
    configs = {file.stem: params.read(file) for file in sorted(tasks.glob("*.yaml"))}
    with tempfile.TemporaryDirectory() as cache:
        for task, config in configs.items():  # with the absolute path of its data
            files = {"test": str((tasks / f"{task}.jsonl").resolve())}
            config["dataset_kwargs"] = {"data_files": files, "cache_dir": cache}
        found: Any = simple_evaluate(model, tasks=list(configs.values()), **options)
    results = {}
    for task, name in ((task, config["task"]) for task, config in configs.items()):
        samples = sorted(found["samples"][name], key=lambda sample: int(sample["doc_id"]))
        scores = [[float(score) for score, _ in sample["filtered_resps"]] for sample in samples]
        accuracy, accuracy_norm = (float(found["results"][name][f"{metric},none"]) for metric in ("acc", "acc_norm"))
        results[task] = Result(accuracy, accuracy_norm, scores)
    return results


def compare(folder: Path, tasks: Path) -> tuple[str, list[str]]:
    """Return a table of the tasks as text, and the tasks whose accuracies differ."""
    items, ours, theirs = read_items(tasks), run_ours(folder, tasks), run_harness(folder, tasks)
    rows, differing = [], []
    for task, of_task in items.items():
        our, their = ours[task], theirs[task]
        difference = np.abs(np.subtract(np.concatenate(our.scores), np.concatenate(their.scores))).max()
        accuracies = [f"{accuracy:.4f}" for accuracy in (chance(of_task), *our[:2], *their[:2])]
        rows.append([task, str(len(of_task)), *accuracies, f"{difference:.1g}"])
        if np.abs(np.subtract(our[:2], their[:2])).max() > TOLERANCE:
            differing.append(task)
    table = Table(["task", "items", "chance", "our acc", "acc_norm", "harness acc", "acc_norm", "difference"], rows)
    return f"{table}\ndifference: the largest between log-probabilities of a choice, in nats", differing
