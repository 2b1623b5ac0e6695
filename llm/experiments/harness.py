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
from ruamel.yaml import YAML

from llm.core.errors import UserError
from llm.evaluate.multiple_choice import Item, chance, grade, score_items
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

TOLERANCE = 1e-9  # accuracies are whole numbers over the number of items


class Result(NamedTuple):
    """A task's accuracies (harness: acc, acc_norm), and the log-probabilities (C,) of each item's choices in nats."""

    accuracy: float
    accuracy_norm: float
    scores: list[list[float]]


def read_items(tasks: Path) -> dict[str, list[Item]]:
    """Return the items of each task in a folder of the stage cloze; UserError where it has none."""
    files = sorted(tasks.glob("*.yaml"))
    if not files:
        raise UserError(f"{tasks}: expected task files, got none; metrics/cloze.json says why, or run dvc repro cloze")
    items = {}
    for file in files:
        data = file.with_suffix(".jsonl")
        if not data.is_file():
            raise UserError(f"{file}: expected its items in {data.name}, got no such file")
        # Not splitlines: it also splits at line separators inside a text.
        items[file.stem] = [Item(**json.loads(line)) for line in data.read_text(encoding="utf-8").split("\n") if line]
    return items


def run_ours(model: GPT, tokenizer: Tokenizer, tasks: Path) -> dict[str, Result]:
    """Score each task with our model; UserError where its items were made for another model."""
    results = {}
    for task, items in read_items(tasks).items():
        scores = score_items(model, tokenizer.encode, items)
        correct = np.array([grade(item, of_item) for item, of_item in zip(items, scores, strict=True)])
        accuracy, accuracy_norm = correct.mean(axis=0).tolist()
        results[task] = Result(accuracy, accuracy_norm, [of_item.tolist() for of_item in scores])
    return results


def run_harness(folder: Path, tasks: Path) -> dict[str, Result]:
    """Score each task with lm_eval and the folder's model in Transformers, in float32 on the CPU.

    UserError where lm_eval is not installed. It must not be imported earlier: its libraries read at import that they
    may not download.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise UserError(f"expected the package lm_eval, {error.name} is not installed (make extras)") from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    model = HFLM(
        pretrained=str(folder), device="cpu", dtype="float32", batch_size=16, add_bos_token=False, local_files_only=True
    )
    seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"))
    with tempfile.TemporaryDirectory() as cache:
        configs = {file.stem: _task_config(file, cache) for file in sorted(tasks.glob("*.yaml"))}
        # Seeds of None leave this process's generators alone; nothing is drawn.
        found: Any = simple_evaluate(
            model,
            tasks=list(configs.values()),
            task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=0,
            **seeds,
        )
    return {task: _result(found, config["task"]) for task, config in configs.items()}


def _result(found: dict[str, Any], name: str) -> Result:
    samples = sorted(found["samples"][name], key=lambda sample: int(sample["doc_id"]))
    scores = [[float(score) for score, _ in sample["filtered_resps"]] for sample in samples]
    accuracy, accuracy_norm = (float(found["results"][name][f"{metric},none"]) for metric in ("acc", "acc_norm"))
    return Result(accuracy, accuracy_norm, scores)


def _task_config(file: Path, cache: str) -> dict[str, Any]:
    """Return a task file with the absolute path of its data and a temporary cache."""
    config: dict[str, Any] = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    data = {"test": str(file.with_suffix(".jsonl").resolve())}
    return config | {"dataset_kwargs": {"data_files": data, "cache_dir": cache}}


def compare(folder: Path, model: GPT, tokenizer: Tokenizer, tasks: Path) -> tuple[str, list[str]]:
    """Return a table of the tasks as text, and the tasks whose accuracies differ. `model` is the folder's, as ours."""
    import pandas as pd

    items, ours, theirs = read_items(tasks), run_ours(model, tokenizer, tasks), run_harness(folder, tasks)
    rows, differing = {}, []
    for task, of_task in items.items():
        our, their = ours[task], theirs[task]
        difference = np.abs(np.subtract(np.concatenate(our.scores), np.concatenate(their.scores))).max()
        accuracies = (chance(of_task), *our[:2], *their[:2])
        rows[task] = [len(of_task), *(f"{accuracy:.4f}" for accuracy in accuracies), f"{difference:.1g}"]
        if np.abs(np.subtract(our[:2], their[:2])).max() > TOLERANCE:
            differing.append(task)
    columns = ["items", "chance", "our acc", "acc_norm", "harness acc", "acc_norm", "difference"]
    table = pd.DataFrame(rows.values(), index=list(rows), columns=pd.Index(columns, name="task")).to_string()
    return f"{table}\ndifference: the largest between log-probabilities of a choice, in nats", differing
