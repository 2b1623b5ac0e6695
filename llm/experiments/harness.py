r"""The stage cloze's tasks through EleutherAI's lm-evaluation-harness, beside our own figures for the same items.

    a Hugging Face folder ─┬─ Transformers, lm_eval ──► log-probabilities, acc, acc_norm ─┐
    data/cloze/*.yaml     ─┴─ our model, llm.evaluate.cloze ──► the same ─────────────────┴─► a table; do they agree?

The package `lm_eval` is optional: `make extras`. Nothing is fetched. The harness's own command line reads the same
files, from the root of the project:

    lm_eval --model hf --model_args pretrained=models/export,dtype=float32,add_bos_token=False \
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

SAME = 1e-9  # accuracies are whole numbers over the number of items


class Result(NamedTuple):
    """A task's accuracies, and the log-probabilities (C,) of each item's choices in nats."""

    acc: float
    acc_norm: float
    scores: list[list[float]]


def read_items(tasks: Path) -> dict[str, list[Item]]:
    """The items of each task of a folder that the stage cloze wrote; UserError where it has none."""
    files = sorted(tasks.glob("*.yaml"))
    if not files:
        raise UserError(
            f"{tasks}: wanted task files, there are none; metrics/cloze.json says why, or run dvc repro cloze"
        )
    items = {}
    for file in files:
        data = file.with_suffix(".jsonl")
        if not data.is_file():
            raise UserError(f"{file}: wanted its items beside it, there is no {data.name}")
        # Not splitlines: a text may hold what is a line's end for that.
        items[file.stem] = [Item(**json.loads(line)) for line in data.read_text(encoding="utf-8").split("\n") if line]
    return items


def run_ours(model: GPT, tokenizer: Tokenizer, tasks: Path) -> dict[str, Result]:
    """What our model says of each task's items; UserError where they were drawn for another model."""
    results = {}
    for task, items in read_items(tasks).items():
        scores = score_items(model, tokenizer.encode, items)
        right = np.array([grade(item, of_item) for item, of_item in zip(items, scores, strict=True)])
        acc, acc_norm = right.mean(axis=0).tolist()
        results[task] = Result(acc, acc_norm, [of_item.tolist() for of_item in scores])
    return results


def run_harness(folder: Path, tasks: Path) -> dict[str, Result]:
    """What lm_eval says of them, with the folder's model in Transformers, in float32 on the CPU.

    UserError where lm_eval is not installed. It has to be imported here first: that nothing is fetched is decided when
    its libraries are imported.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise UserError(f"wanted the package lm_eval, {error.name} is not installed (make extras)") from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    language_model = HFLM(
        pretrained=str(folder), device="cpu", dtype="float32", batch_size=16, add_bos_token=False, local_files_only=True
    )
    with tempfile.TemporaryDirectory() as cache:
        configs = {file.stem: _task_config(file, cache) for file in sorted(tasks.glob("*.yaml"))}
        found: Any = simple_evaluate(
            language_model,
            tasks=list(configs.values()),
            task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=0,
            # None leaves the seeds of this process as they are; nothing is drawn.
            random_seed=None,
            numpy_random_seed=None,
            torch_random_seed=None,
            fewshot_random_seed=None,
        )
    results = {}
    for task, config in configs.items():
        name = config["task"]
        samples = sorted(found["samples"][name], key=lambda sample: int(sample["doc_id"]))
        scores = [[float(score) for score, _ in sample["filtered_resps"]] for sample in samples]
        acc, acc_norm = (float(found["results"][name][f"{metric},none"]) for metric in ("acc", "acc_norm"))
        results[task] = Result(acc, acc_norm, scores)
    return results


def _task_config(file: Path, cache: str) -> dict[str, Any]:
    """A task file whose data are found from wherever we are, and are cached nowhere."""
    config: dict[str, Any] = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    data = {"test": str(file.with_suffix(".jsonl").resolve())}
    return config | {"dataset_kwargs": {"data_files": data, "cache_dir": cache}}


def compare(folder: Path, model: GPT, tokenizer: Tokenizer, tasks: Path) -> tuple[str, list[str]]:
    """A row a task in plain text, and the tasks whose accuracies differ. `model` is the folder's, as ours."""
    items = read_items(tasks)
    ours, theirs = run_ours(model, tokenizer, tasks), run_harness(folder, tasks)
    rows = [["task", "items", "chance", "our acc", "acc_norm", "harness acc", "acc_norm", "difference"]]
    other = []
    for task, of_task in items.items():
        our, their = ours[task], theirs[task]
        pairs = zip(our.scores, their.scores, strict=True)
        difference = max(abs(a - b) for of_us, of_them in pairs for a, b in zip(of_us, of_them, strict=True))
        shares = [f"{share:.4f}" for share in (chance(of_task), our.acc, our.acc_norm, their.acc, their.acc_norm)]
        rows.append([task, str(len(of_task)), *shares, f"{difference:.1g}"])
        if abs(our.acc - their.acc) > SAME or abs(our.acc_norm - their.acc_norm) > SAME:
            other.append(task)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])  # numbers to the right
        for row in rows
    ]
    return "\n".join([*lines, "difference: the largest between log-probabilities of a choice, in nats"]), other
