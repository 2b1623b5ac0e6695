"""An instruction task from files to files: a model that answers, in every format, its figures, a report of answers."""

from typing import Any

from llm.export.base import open_base
from llm.export.gguf import export_gguf
from llm.export.huggingface import write_folder
from llm.finetune import instruct
from llm.finetune.chat import TEMPLATE
from llm.finetune.jobs import Job
from llm.finetune.labeled import read_labeled
from llm.finetune.params import InstructTask
from llm.model.gpt import GPT
from llm.plots import draw_curve
from llm.text.tokenizer import Tokenizer

ANSWERS_SHOWN = 10
ANSWER_TOKENS = 64


def run_instruct(job: Job, task: InstructTask) -> dict[str, Any]:
    """Train, score the answers of test before and after, write everything; the metrics."""
    tokenizer_file, load_base = open_base(job.base, job.scratch / "tokenizer.json")
    tokenizer = Tokenizer.load(tokenizer_file)
    columns = [task.rows.instruction, *([task.rows.input] if task.rows.input else []), task.rows.output]
    table = read_labeled(job.data, columns, task.split_column, may_be_empty=task.rows.input)
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
