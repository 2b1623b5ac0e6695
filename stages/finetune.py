"""A Hugging Face folder and a file of labeled rows → a finetuned model with its own export, metrics and plots."""

import json
from pathlib import Path
from typing import Annotated, Any

import torch

from llm import stage
from llm.errors import UserError
from llm.export.huggingface import read_folder, write_folder
from llm.finetune import classify, instruct
from llm.finetune.chat import TEMPLATE
from llm.finetune.labeled import read_labeled
from llm.finetune.params import ClassifyTask, InstructTask, Task
from llm.model.gpt import GPT
from llm.plots import draw_curve
from llm.runtime import Machine
from llm.stage import Input, Output, Param, Scratch, Seed
from llm.text.tables import empty_because
from llm.text.tokenizer import Tokenizer

ANSWERS_SHOWN = 10


def main(
    task: Annotated[Task, Param("finetune.tasks.{name}")],
    seed: Seed,
    name: str,
    data: Input,
    config: Input,
    weights: Input,
    tokenizer: Input,
    model: Output,
    metrics: Output,
    plots: Output,
    scratch: Scratch,
) -> None:
    """Train the task `name` on `data`; write the folders `model` and `plots`."""
    base = config.parent
    if {weights.parent, tokenizer.parent} != {base}:
        raise UserError(f"wanted config, weights and tokenizer in one folder, given {config}, {weights}, {tokenizer}")
    plots.mkdir(parents=True)
    model.mkdir(parents=True)
    if data.suffix == ".parquet" and (reason := empty_because(data)):
        (model / "skipped.json").write_text(json.dumps({"skipped": reason}) + "\n", encoding="utf-8")
        stage.write_json(metrics, {"skipped": reason})
        return
    machine = Machine.find()
    machine.keep_memory()
    words = Tokenizer.load(tokenizer)
    match task:
        case ClassifyTask():
            report = _classify(task, data, base, words, model, plots, seed, machine, scratch)
        case InstructTask():
            report = _instruct(task, data, base, words, model, plots, seed, machine, scratch)
    stage.write_json(metrics, report)


def _classify(
    task: ClassifyTask,
    data: Path,
    base: Path,
    tokenizer: Tokenizer,
    folder: Path,
    plots: Path,
    seed: int,
    machine: Machine,
    scratch: Path,
) -> dict[str, Any]:
    table = read_labeled(data, [task.text_column, task.label_column], task.split_column)
    prepared = classify.prepare_rows(table, task, tokenizer, read_folder(base).config.context_length)
    trunks = {
        "pretrained": lambda: read_folder(base),
        "random_weights": lambda: GPT(read_folder(base).config, torch.Generator().manual_seed(seed)),
    }
    trained = {
        row: classify.train_classifier(make, prepared, task, tokenizer.pad, seed, machine, scratch, row)
        for row, make in trunks.items()
    }
    figures = {row: result.figures for row, result in trained.items()} | classify.score_baselines(prepared, seed)
    best = trained["pretrained"]
    classify.draw_plots(plots, prepared.labels, prepared.rows["test"].labels, best.predicted, best.curve.rows)
    score = best.model.score.weight.detach()
    write_folder(folder, best.model.trunk, base / "tokenizer.json", labels=prepared.labels, score=score)
    settings = {row: figures[row].pop("setting") for row in figures}
    return {**prepared.report, "test": figures, "settings": settings}


def _instruct(
    task: InstructTask,
    data: Path,
    base: Path,
    tokenizer: Tokenizer,
    folder: Path,
    plots: Path,
    seed: int,
    machine: Machine,
    scratch: Path,
) -> dict[str, Any]:
    columns = [task.instruction_column, *([task.input_column] if task.input_column else []), task.output_column]
    table = read_labeled(data, columns, task.split_column)
    untrained = read_folder(base).to(machine.device)
    rows, report = instruct.prepare_rows(table, task, tokenizer, untrained.config.context_length)
    fitted = instruct.train_instruct(lambda: read_folder(base), rows, task, tokenizer, seed, machine, scratch)
    batch_size = task.training.batch_size
    bits = {
        "before": instruct.answer_bits_per_byte(untrained, rows["test"], tokenizer, batch_size, machine),
        "after": instruct.answer_bits_per_byte(fitted.model, rows["test"], tokenizer, batch_size, machine),
    }
    draw_curve(fitted.curve.rows, "finetuning", plots / "curve.svg")
    shown = rows["test"][:: max(1, len(rows["test"]) // ANSWERS_SHOWN)][:ANSWERS_SHOWN]
    parts = [f"# Answers to {len(shown)} held-out prompts"]
    for row in shown:
        answers = (instruct.answer(m, row.user, tokenizer, 64) for m in (untrained, fitted.model))
        for title, text in zip(
            ("prompt", "before", "after", "reference"), (row.user, *answers, row.answer), strict=True
        ):
            parts += ["", f"## {title}" if title == "prompt" else f"**{title}**", "", "````text", text, "````"]
    (plots / "answers.md").write_text("\n".join(parts) + "\n", encoding="utf-8")
    write_folder(folder, fitted.model, base / "tokenizer.json", chat_template=TEMPLATE)
    setting = {"rate": fitted.rate, "val_loss_by_rate": fitted.tried}
    return {**report, "test": {"answer_bits_per_byte": bits}, "settings": {"pretrained": setting}}


if __name__ == "__main__":
    stage.run(main)
