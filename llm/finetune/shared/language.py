"""The job of tasks that train a language model: figures and answers before and after, a Hugging Face folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm.export.hf.folder import write_folder
from llm.export.verify import verify_transformers
from llm.finetune.params import TaskParams
from llm.finetune.shared.answers import answer, score_answers, spread
from llm.finetune.shared.chat import TEMPLATE, chat_to_verify
from llm.finetune.shared.fit import Objective, Run
from llm.finetune.shared.forgetting import base_figures, read_held_out
from llm.finetune.shared.job import Base, Figures, Job, Outcome, fit_seeds, print_rows
from llm.finetune.shared.rows import Row, answer_figures
from llm.model.gpt import GPT

ANSWERS_SHOWN = 10
SUMMARIZED = ("answer_bits_per_byte", "answer_nats_per_token", "base_bits_per_byte")


def _no_figures(model: GPT) -> Figures:
    return {}


@dataclass(frozen=True)
class LanguageTask:
    """What a kind of task adds: its objective, the rows whose last answers are scored, figures of its own.

    The first `n_answers` evenly spread rows are answered, and scored where `scores_answers`. `others` are further
    texts to show for each row of test.
    """

    kind: str
    objective: Callable[[Run], Objective[GPT]]
    test: Sequence[Row]
    n_answers: int
    scores_answers: bool
    others: dict[str, Sequence[str]] = field(default_factory=dict)
    figures: Callable[[GPT], Figures] = _no_figures
    val_figures: Callable[[GPT], Figures] = _no_figures
    summarized: Sequence[str] = ()
    setting: dict[str, Any] = field(default_factory=dict)


def run_language_task(
    job: Job, task: TaskParams, kind: LanguageTask, base: Base, before: GPT, counts: dict[str, Any]
) -> Outcome:
    """Train, measure the model `before` and after, write the folder, the curve, and return the figures."""
    notes = print_rows(counts, task)
    held_out, size = read_held_out(job.held_out), task.training.batch_size
    tokenizer, test = base.tokenizer, list(kind.test)

    def measure(model: GPT, label: str) -> Figures:
        of_answers = answer_figures(model, test, tokenizer.pad, size, job.machine, job.seed)
        of_base = base_figures(model, held_out, tokenizer, size, job.machine, label)
        return kind.figures(model) | of_answers | of_base

    summarized = [*kind.summarized, *SUMMARIZED]
    fitted, after = fit_seeds(job, kind.kind, task, kind.objective, measure, summarized, digits=5)
    models, figures = {"before": before, "after": fitted.model}, {"before": measure(before, "before"), "after": after}
    rows = spread(range(len(test)), kind.n_answers)
    texts = {
        system: [answer(model, test[row].prompt_ids, tokenizer) for row in rows] for system, model in models.items()
    }
    texts["reference"] = [test[row].messages[-1].content for row in rows]
    texts |= {name: [of[row] for row in rows] for name, of in kind.others.items()}
    if kind.scores_answers:
        figures = {system: of | score_answers(texts[system], texts["reference"]) for system, of in figures.items()}
    write_folder(job.model, fitted.model, base.tokenizer_file, chat_template=TEMPLATE)
    fitted.curve.write(job.plots / "curve.tsv")
    val = {system: of for system, model in models.items() if (of := kind.val_figures(model))}
    metrics = {
        **counts,
        **({"val": val} if val else {}),
        "test": figures,
        "transformers": verify_transformers(job.model, fitted.model, job.seed, chat_to_verify(tokenizer)),
    }
    # In drawn order, so that the first ones are a sample.
    shown = np.random.default_rng(job.seed).permutation(spread(range(len(rows)), ANSWERS_SHOWN)).tolist()
    examples = [
        {"messages": [message._asdict() for message in test[rows[number]].messages[:-1]]}
        | {name: of[number] for name, of in texts.items()}
        for number in shown
    ]
    settings = {"after": fitted.setting | kind.setting}
    details = {"kind": kind.kind, **metrics, **notes, "settings": settings, "curve": fitted.curve.rows}
    return Outcome(metrics, details | {"answers": examples, "answers_scored": len(rows) if kind.scores_answers else 0})
