"""A classification task from files to files: a classifier as a folder, its figures beside its rivals', plots, a report.

For a classifier neither GGUF nor ONNX is written: llama.cpp has no architecture of ours with labels.
"""

from typing import Any

import torch
from sklearn.metrics import classification_report

from llm.export.base import open_base
from llm.export.huggingface import write_folder
from llm.finetune import classify
from llm.finetune.jobs import Job
from llm.finetune.labeled import read_labeled
from llm.finetune.params import ClassifyTask
from llm.model.gpt import GPT
from llm.text.tokenizer import Tokenizer


def run_classify(job: Job, task: ClassifyTask) -> dict[str, Any]:
    """Train on the base and on random weights, score all rows on test once, write everything; the metrics."""
    tokenizer_file, load_base = open_base(job.base, job.scratch / "tokenizer.json")
    tokenizer, config = Tokenizer.load(tokenizer_file), load_base().config
    table = read_labeled(job.data, [*task.text_columns, task.label_column], task.split_column)
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
