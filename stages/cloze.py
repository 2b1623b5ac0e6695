"""Held-out documents and weights → multiple-choice items for us and for lm-evaluation-harness, and our figures."""

import json
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
from ruamel.yaml import YAML

from llm.core import stage
from llm.core.device import Machine
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param, Seed
from llm.evaluate.cloze import MIN_ITEMS, draw_items, read_documents
from llm.evaluate.multiple_choice import Item, figures, score_items, task_config
from llm.evaluate.params import ClozeParams
from llm.model.weights import load_model
from llm.tokens.tokenizer import Tokenizer


def main(
    cloze: Annotated[ClozeParams, Param("cloze")],
    seed: Seed,
    weights: Input = Path("models/pretrained"),
    corpus: Input = Path("data/corpus"),
    tokenizer: Input = Path("data/tokenizer/tokenizer.json"),
    folder: str = "data/cloze",
    tasks: Output = Path("data/cloze"),
    metrics: Output = Path("metrics/cloze.json"),
) -> None:
    """Draw items of each task from test, write them into `tasks`, and score them; too few are left out and named.

    `folder` is what the harness will find `tasks` under, seen from where it runs.
    """
    machine = Machine.find()
    model = load_model(weights).to(machine.device)
    encoder = Tokenizer.load(tokenizer)
    rng = np.random.default_rng(seed)
    documents = read_documents(corpus / "test.parquet", rng)
    drawn = draw_items(documents, encoder, model.config.context_length, cloze.context_tokens, cloze.items, rng)
    wanted = min(MIN_ITEMS, cloze.items)
    kept = {task: items for task, items in drawn.items() if len(items) >= wanted}
    left_out = {task: f"{len(items)} items, wanted {wanted}" for task, items in drawn.items() if task not in kept}
    tasks.mkdir(parents=True)
    for task, items in kept.items():
        _write(tasks, task, items, f"{folder}/{task}.jsonl")
    asked = kept
    if model.sees_the_future:
        left_out |= dict.fromkeys(kept, f"{model.config.attention} attention sees what it predicts")
        asked = {}
    # All tasks at once: the more items, the more of them have contexts of the same length, which are read together.
    scores = iter(score_items(model, encoder.encode, [item for items in asked.values() for item in items]))
    measured = {
        task: figures(items, list(islice(scores, len(items))), np.random.default_rng([seed, number]))
        for number, (task, items) in enumerate(asked.items())
    }
    write_json(metrics, {**measured, "left_out": left_out})


def _write(tasks: Path, task: str, items: list[Item], data_file: str) -> None:
    lines = [json.dumps(item._asdict(), ensure_ascii=False) + "\n" for item in items]
    (tasks / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")
    with (tasks / f"{task}.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(task_config(task, data_file), file)


if __name__ == "__main__":
    stage.run(main)
