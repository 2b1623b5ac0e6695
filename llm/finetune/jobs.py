"""One finetuning from files to files: labeled rows and a base in; a model, plots, a report and metrics out.

The model is a folder as an export is, in our own words where the base's is. An instruction model has GGUF files for
llama.cpp and Ollama in it; for a classifier of ours neither has an architecture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import classification_report

from llm.export.base import open_base
from llm.export.gguf import export_gguf
from llm.export.huggingface import write_folder
from llm.export.native import is_native, read_native_config
from llm.export.params import Format
from llm.export.tensors import read_object
from llm.finetune import classify, instruct
from llm.finetune.chat import TEMPLATE
from llm.finetune.labeled import read_labeled
from llm.finetune.params import ClassifyTask, InstructTask, Task
from llm.model.gpt import GPT
from llm.plots import draw_curve
from llm.runtime import Machine
from llm.text.tokenizer import Tokenizer

ANSWERS_SHOWN = 10
ANSWER_TOKENS = 64


@dataclass(frozen=True)
class Job:
    """What a task is run with: files to read, places to write to, a seed, a machine, a scratch folder, formats."""

    data: Path
    base: Path
    model: Path
    plots: Path
    report: Path
    seed: int
    machine: Machine
    scratch: Path
    formats: Sequence[Format]

    def run(self, task: Task) -> dict[str, Any]:
        """Train, score test once, write everything; returns the metrics."""
        match task:
            case ClassifyTask():
                return _classify(self, task)
            case InstructTask():
                return _instruct(self, task)


def unfit_because(config: Path) -> str | None:
    """Why the base with this config.json cannot be finetuned, or None.

    The first rungs of attention read what comes later: the answer that is to be learnt, and the padding of a batch.
    """
    content = read_object(config)
    if not is_native(content) or not (shape := read_native_config(content, config)).sees_the_future:
        return None
    return (
        f"the base reads what comes later (model.attention {shape.attention}), so it would be given the answer, "
        "and scores would hang on the padding beside a row"
    )


def _classify(job: Job, task: ClassifyTask) -> dict[str, Any]:
    tokenizer_file, load_base = open_base(job.base, job.scratch / "tokenizer.json")
    tokenizer, config = Tokenizer.load(tokenizer_file), load_base().config
    table = read_labeled(job.data, [task.text_column, task.label_column], task.split_column)
    prepared = classify.prepare_rows(table, task, tokenizer, config.context_length)
    trunks = {
        "pretrained": load_base,
        "random_weights": lambda: GPT(config, torch.Generator().manual_seed(job.seed)),
    }
    trained = {
        row: classify.train_classifier(make, prepared, task, tokenizer.pad, job.seed, job.machine, job.scratch, row)
        for row, make in trunks.items()
    }
    figures = {row: result.figures for row, result in trained.items()}
    figures |= classify.score_baselines(prepared, job.seed)
    best, actual = trained["pretrained"], prepared.rows["test"].labels
    classify.draw_plots(job.plots, prepared.labels, actual, best.predicted, best.curve.rows)
    numbers = range(len(prepared.labels))
    by_label = classification_report(
        actual, best.predicted, labels=numbers, target_names=prepared.labels, zero_division=0
    )
    job.report.write_text(f"# The finetuned classifier on test, by label\n\n```text\n{by_label}```\n", encoding="utf-8")
    score = best.model.score.weight.detach()
    write_folder(job.model, best.model.trunk, tokenizer_file, labels=prepared.labels, score=score)
    settings = {row: figures[row].pop("setting") for row in figures}
    return {**prepared.report, "test": figures, "settings": settings}


def _instruct(job: Job, task: InstructTask) -> dict[str, Any]:
    tokenizer_file, load_base = open_base(job.base, job.scratch / "tokenizer.json")
    tokenizer = Tokenizer.load(tokenizer_file)
    columns = [task.instruction_column, *([task.input_column] if task.input_column else []), task.output_column]
    table = read_labeled(job.data, columns, task.split_column, may_be_empty=task.input_column)
    before = load_base().to(job.machine.device)
    rows, counts = instruct.prepare_rows(table, task, tokenizer, before.config.context_length)
    fitted = instruct.train_instruct(load_base, rows, task, tokenizer, job.seed, job.machine, job.scratch)
    models = {"before": before, "after": fitted.model}
    bits = {
        when: instruct.answer_bits_per_byte(model, rows["test"], tokenizer, task.training.batch_size, job.machine)
        for when, model in models.items()
    }
    draw_curve(fitted.curve.rows, "finetuning", job.plots / "curve.svg")
    job.report.write_text(_answers(rows["test"], models, tokenizer), encoding="utf-8")
    write_folder(job.model, fitted.model, tokenizer_file, chat_template=TEMPLATE)
    gguf = export_gguf(job.model / "gguf", fitted.model, tokenizer_file, job.formats, job.seed, chat_template=TEMPLATE)
    setting = {"rate": fitted.rate, "val_loss_by_rate": fitted.tried}
    return {**counts, "test": {"answer_bits_per_byte": bits}, "settings": {"pretrained": setting}, "gguf": gguf}


def _answers(rows: list[instruct.Row], models: dict[str, GPT], tokenizer: Tokenizer) -> str:
    """Some held-out prompts, evenly spread, with each model's greedy answer and the reference, as Markdown."""
    shown = rows[:: max(1, len(rows) // ANSWERS_SHOWN)][:ANSWERS_SHOWN]
    parts = [f"# Answers to {len(shown)} held-out prompts"]
    for number, row in enumerate(shown, start=1):
        parts += ["", f"## Prompt {number}", "", "````text", row.user, "````"]
        answers = {when: instruct.answer(model, row.user, tokenizer, ANSWER_TOKENS) for when, model in models.items()}
        for title, text in (answers | {"reference": row.answer}).items():
            parts += ["", f"**{title}**", "", "````text", text, "````"]
    return "\n".join(parts) + "\n"
