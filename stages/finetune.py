"""An export and a file of labeled rows → a finetuned model with its own export, metrics and plots."""

import json
from pathlib import Path
from typing import Annotated

from llm.core import stage
from llm.core.device import Machine
from llm.core.errors import UserError
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param, Scratch, Seed
from llm.core.tables import empty_reason
from llm.export.hf.folder import skipped_reason
from llm.finetune.classify.job import run_classify
from llm.finetune.data.labeled import describe_rows
from llm.finetune.dpo.job import run_dpo
from llm.finetune.instruct.job import run_instruct
from llm.finetune.params import ClassifyTask, Count, DPOTask, InstructTask, Task
from llm.finetune.shared.jobs import Job
from llm.report.plots import draw_note
from llm.report.task_card import task_card


def main(
    task: Annotated[Task, Param("finetune.tasks.{name}")],
    n_seeds: Annotated[Count, Param("finetune.n_seeds")],
    seed: Seed,
    name: str,
    scratch: Scratch,
    data: Input = Path("{task.data}"),
    config: Input = Path("{task.base}/config.json"),
    weights: Input = Path("{task.base}/{task.weights}"),
    tokenizer: Input = Path("{task.base}/tokenizer.json"),
    held_out: Input = Path("data/corpus/test.parquet"),
    model: Output = Path("models/finetuned/{name}"),
    metrics: Output = Path("metrics/finetune/{name}.json"),
    plots: Output = Path("plots/finetune/{name}"),
    report: Output = Path("reports/finetune/{name}.md"),
    answers: Output = Path("reports/finetune/{name}.json"),
) -> None:
    """Train the task `name` on `data`; write the folders `model` and `plots`, and a `report` to be read.

    `answers` (JSON) has examples of what a model that answers was asked and what it answered.

    `weights` is the base's one file, or the base itself where there are several. A model that answers is written in
    `formats` as well, and what it forgets is seen on `held_out`, a table of the corpus. A table without rows that
    gives its reason, and a base that cannot be finetuned, is passed over and the reason recorded.
    """
    if {weights if weights.is_dir() else weights.parent, tokenizer.parent} != {config.parent}:
        raise UserError(f"wanted config, weights and tokenizer in one folder, given {config}, {weights}, {tokenizer}")
    plots.mkdir(parents=True)
    model.mkdir(parents=True)
    write_json(answers, {"answers": []})  # a classifier gives none
    if reason := (empty_reason(data) if data.suffix == ".parquet" else None) or skipped_reason(config.parent):
        (model / "skipped.json").write_text(json.dumps({"skipped": reason}) + "\n", encoding="utf-8")
        write_json(metrics, {"skipped": reason})
        (plots / "curve.svg").write_text(draw_note(f"{name} was skipped:\n{reason}"), encoding="utf-8")
        report.write_text(f"Skipped: {reason}.\n", encoding="utf-8")
        return
    machine = Machine.find()
    machine.retain_freed_memory()
    job = Job(data, config.parent, held_out, model, plots, report, answers, seed, n_seeds, machine, scratch)
    match task:
        case ClassifyTask():
            figures = run_classify(job, task)
        case InstructTask():
            figures = run_instruct(job, task)
        case DPOTask():
            figures = run_dpo(job, task)
    write_json(metrics, figures)
    rows = describe_rows(figures, task.max_tokens)
    (model / "README.md").write_text(task_card(name, model, task.base, figures, rows), encoding="utf-8")


if __name__ == "__main__":
    stage.run(main)
