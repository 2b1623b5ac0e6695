"""The page of a finetuned model: it begins with rows of the task's test split.

models/finetuned/library  →  the texts of three rows        models/finetuned/docstring  →  three questions
"""

from pathlib import Path
from typing import Any

from llm.core import params
from llm.finetune.data.labeled import read_classify
from llm.finetune.data.messages import read_conversations
from llm.finetune.dpo.job import read_preferences
from llm.finetune.params import ClassifyTask, InstructTask, StatedTask, resolve_task
from llm.page.passages import N_PASSAGES


def task_passages(name: str, settings: Path) -> list[list[str]]:
    """Return texts, or pairs of texts, from evenly spaced rows of a task's test split; none for an unknown task."""
    finetune = params.read(settings).get("finetune", {})
    if name not in finetune.get("tasks", {}):
        return []
    stated: StatedTask = params.load(settings, f"finetune.tasks.{name}", StatedTask)
    task = resolve_task(stated.model_dump(), finetune.get("defaults"), name, settings)
    rows = _test_rows(Path(task.data), task, params.load(settings, "seed", int))
    return [rows[number * len(rows) // N_PASSAGES] for number in range(min(N_PASSAGES, len(rows)))]


def _test_rows(data: Path, task: Any, seed: int) -> list[list[str]]:
    """Return the texts of a classification, or the last question of a conversation, of each row of test."""
    if isinstance(task, ClassifyTask):
        table = read_classify(data, task, seed).table
        texts: list[list[str]] = table.loc[table["split"] == "test", "texts"].tolist()
        return texts
    if isinstance(task, InstructTask):
        conversations = read_conversations(data, task, seed)[0]["test"]
        return [[messages[-2].content] for messages in conversations]
    return [[chosen[-2].content] for chosen, _ in read_preferences(data, task, seed)[0]["test"]]
