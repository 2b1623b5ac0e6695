"""The job of tasks that train a language model: figures and answers before and after, a Hugging Face folder.

Forgetting is measured in bits per byte on held-out text of the pretraining corpus, in bytes so that bases with other
tokenizers are comparable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.core.tables import iterate_rows
from llm.evaluate.likelihood import plan_spans, score_tokens, summarise
from llm.export.hf.folder import write_folder
from llm.export.verify import compare_with_transformers
from llm.finetune.params import TaskParams
from llm.finetune.shared.answers import answer, score_answers, spread
from llm.finetune.shared.chat import TEMPLATE, chat_to_verify
from llm.finetune.shared.job import Base, Figures, Job, Objective, Outcome, Run, fit_seeds, open_base, print_rows
from llm.finetune.shared.rows import Row, answer_figures
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

ANSWERS_SHOWN = 10
HELD_OUT_BYTES = 1 << 16
# Of a window and in memory at a time: attention grows with the square of the base's context.
MAX_POSITIONS, MAX_LOGITS = 1024, 1 << 25


@dataclass(frozen=True)
class LanguageTask:
    """What a kind of task adds: counts of rows, its objective, the rows of test whose last answers are scored.

    `n_scored` evenly spread rows are answered and scored, or as many answered as are shown. `figures` are those of the
    kind by split, `others` further texts to show for each row of test.
    """

    counts: tuple[dict[str, Any], ...]
    objective: Callable[[Run], Objective[GPT]]
    test: list[Row]
    n_scored: int = 0
    figures: Callable[[GPT, str], Figures] = lambda model, split: {}
    others: dict[str, Sequence[str]] = field(default_factory=dict)
    setting: dict[str, Any] = field(default_factory=dict)


def open_models(job: Job, task: TaskParams) -> tuple[Base, GPT]:
    """Return the base and its model on the device; UserError where rows may be longer than its context."""
    base = open_base(job)
    model = base.load().to(job.machine.device)
    if task.max_tokens > (most := model.config.context_length):
        raise UserError(f"max_tokens: expected at most the base's context of {most}, got {task.max_tokens}")
    return base, model


def run_language_task(job: Job, task: Any, base: Base, before: GPT, of: LanguageTask) -> Outcome:
    """Train, measure the model `before` and after, write the folder, the curve, and return the figures."""
    counts = {key: value for part in of.counts for key, value in part.items()}
    counts["dropped"] = {reason: n for part in of.counts for reason, n in part["dropped"].items() if n}
    notes = print_rows(counts, task)
    held_out, size, tokenizer = read_held_out(job.held_out), task.training.batch_size, base.tokenizer

    def measure(model: GPT, label: str) -> Figures:
        of_answers = answer_figures(model, of.test, tokenizer.pad, size, job.machine, job.seed)
        of_base = base_figures(model, held_out, tokenizer, size, job.machine, label)
        return of.figures(model, "test") | of_answers | of_base

    fitted, after = fit_seeds(job, task.kind, task, of.objective, measure, digits=5)
    models, figures = {"before": before, "after": fitted.model}, {"before": measure(before, "before"), "after": after}
    numbers = spread(range(len(of.test)), of.n_scored or ANSWERS_SHOWN)
    rows = [of.test[number] for number in numbers]
    texts = {system: [answer(model, row.prompt_ids, tokenizer) for row in rows] for system, model in models.items()}
    texts["reference"] = [row.messages[-1].content for row in rows]
    if of.n_scored:
        figures = {system: own | score_answers(texts[system], texts["reference"]) for system, own in figures.items()}
    texts |= {name: [others[number] for number in numbers] for name, others in of.others.items()}
    write_folder(job.model, fitted.model, base.tokenizer_file, chat_template=TEMPLATE)
    fitted.curve.write(job.plots / "curve.tsv")
    val = {system: own for system, model in models.items() if (own := of.figures(model, "val"))}
    parity = compare_with_transformers(job.model, fitted.model, job.seed, chat=chat_to_verify(tokenizer))
    metrics = {
        **counts,
        **({"val": val} if val else {}),
        "test": figures,
        "transformers": parity.figures(job.model),
    }
    settings = {"after": fitted.setting | of.setting}
    details = {"kind": task.kind, **metrics, **notes, "settings": settings, "curve": fitted.curve.rows}
    answers = {"answers": _examples(rows, texts, job.seed), "answers_scored": len(rows) if of.n_scored else 0}
    return metrics, details | answers


def _examples(rows: list[Row], texts: dict[str, list[str]], seed: int) -> list[dict[str, Any]]:
    shown = np.random.default_rng(seed).permutation(spread(range(len(rows)), ANSWERS_SHOWN)).tolist()
    return [
        {"messages": [message._asdict() for message in rows[number].messages[:-1]]}
        | {name: of[number] for name, of in texts.items()}
        for number in shown
    ]


def read_held_out(path: Path, n_bytes: int = HELD_OUT_BYTES) -> list[str]:
    """Return the first `n_bytes` of UTF-8 of a corpus table as texts."""
    texts: list[str] = []
    for row in iterate_rows(path, ["text"]):
        if n_bytes <= 0:
            break
        texts.append(row["text"].encode()[:n_bytes].decode(errors="ignore"))
        n_bytes -= len(row["text"].encode())
    return [text for text in texts if text]


def base_figures(
    model: GPT, texts: list[str], tokenizer: Tokenizer, batch_size: int, machine: Machine, label: str
) -> dict[str, float]:
    """Return `base_bits_per_byte` of the texts, in windows of the base's context; nothing without text."""
    if not texts:
        return {}
    stream = np.array([token for text in texts for token in (tokenizer.bos_id, *tokenizer.encode(text))])
    length = min(model.config.context_length, MAX_POSITIONS)
    batch_size = max(1, min(batch_size, MAX_LOGITS // (length * model.config.vocab_size)))
    nats = score_tokens(model, stream, plan_spans(len(stream), length, length), batch_size, machine, label).nats
    return {"base_bits_per_byte": summarise(nats, sum(len(text.encode()) for text in texts))["bits_per_byte"]}
