"""Shared by finetuning tests: rows, and a runner of jobs of every kind."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

TOPICS = ["rain", "river", "sun"]
SPLITS = ["train", "train", "train", "val", "test"]


def rows_of(kind: str, n: int = 30) -> pd.DataFrame:
    """Rows in which every fifth label is of another topic than the text."""
    topics = [TOPICS[number % 3] for number in range(n)]
    rows = {
        "text": [f"of {topic} {number}" for number, topic in enumerate(topics)],
        "other": [f"{TOPICS[number // 3 % 3]} it is" for number in range(n)],
        "label": [TOPICS[(number + (number % 5 == 4)) % 3] for number in range(n)],
        "split": [SPLITS[number // 3 % 5] for number in range(n)],
    }
    rows["labels"] = ["|".join(sorted({a, b.split()[0]})) for a, b in zip(topics, rows["other"], strict=True)]
    renamed = {
        "instruct": {"text": "prompt", "label": "completion"},
        "dpo": {"text": "prompt", "label": "chosen", "other": "rejected"},
    }
    return pd.DataFrame(rows).rename(columns=renamed.get(kind, {}))


class Ran(NamedTuple):
    metrics: dict[str, Any]
    details: dict[str, Any]
    folder: Path

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for of in ("model", "plots") for path in (self.folder / of).iterdir()}


@pytest.fixture
def run_job(tmp_path, exported_folder, plain_cpu, make_task, write_corpus) -> Callable[..., Ran]:
    """Run a job of a kind of task with changed keys."""
    from llm.finetune.shared.job import Job

    def run(
        kind: str, changes: dict | None = None, n_seeds: int = 1, name: str = "out", held_out: str = "The rain."
    ) -> Ran:
        out = tmp_path / name
        for folder in ("scratch", "model", "plots"):
            (out / folder).mkdir(parents=True)
        write_corpus(out, {"test": {"a.txt": held_out}} if held_out else {})
        rows_of(kind).to_csv(out / "rows.csv", index=False)
        inputs = out / "rows.csv", exported_folder, out / "test.parquet"
        job = Job(*inputs, out / "model", out / "plots", 1, n_seeds, plain_cpu, out / "scratch")
        task = make_task(kind, {"training.epochs": 4.0} | (changes or {}))
        outcome = importlib.import_module(f"llm.finetune.{kind}.job").run(job, task)
        return Ran(*json.loads(json.dumps(outcome)), out)

    return run
