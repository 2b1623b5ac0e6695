"""An instruction task from files to files: a model that answers, in every format, its figures, a report of answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm.core.outputs import write_json
from llm.export.hf.base import open_base
from llm.export.hf.folder import write_folder
from llm.export.verify import verify_transformers
from llm.finetune.data.labeled import describe_rows, rows_section
from llm.finetune.data.messages import read_conversations
from llm.finetune.instruct.instruct import Row, answer_figures, prepare_rows, train_instruct
from llm.finetune.params import InstructTask
from llm.finetune.shared.answers import answer_ids, score_answers, show_answers, spread
from llm.finetune.shared.chat import TEMPLATE, chat_to_verify
from llm.finetune.shared.forgetting import base_figures, read_held_out
from llm.finetune.shared.jobs import Job
from llm.finetune.shared.language import Trained
from llm.model.gpt import GPT
from llm.report.plots import draw_curve
from llm.tokens.tokenizer import Tokenizer

ANSWERS_SCORED = 100
ANSWERS_SHOWN = 10
ANSWER_TOKENS = 128
# What is told over several seeds.
LIKELIHOODS = ("answer_bits_per_byte", "answer_nats_per_token", "base_bits_per_byte")

Figures = dict[str, float]


def run_instruct(job: Job, task: InstructTask) -> dict[str, Any]:
    """Train, score the answers of test before and after, write everything; the metrics."""
    tokenizer_file, load_base = open_base(job.base, job.scratch / "tokenizer.json")
    tokenizer, base = Tokenizer.load(tokenizer_file), load_base().to(job.machine.device)
    conversations, left_out = read_conversations(job.data, task, job.seed)
    rows, counts = prepare_rows(conversations, task, tokenizer, base.config)
    told = describe_rows(counts | left_out, task.max_tokens)
    print("\n".join(told), flush=True)
    held_out = read_held_out(job.held_out)

    def train(seed: int, rates: list[float]) -> Trained:
        training = task.training.model_copy(update={"learning_rates": rates})
        name = "instruct" if seed == job.seed else f"instruct seed {seed}"
        return train_instruct(load_base, rows, task, training, tokenizer.pad, seed, job.machine, job.scratch, name)

    def likelihood(model: GPT, label: str) -> Figures:
        size = task.training.batch_size
        known = answer_figures(model, rows["test"], tokenizer.pad, size, job.machine, job.seed)
        return known | base_figures(model, held_out, tokenizer, size, job.machine, label)

    first = train(job.seed, task.training.learning_rates)
    models = {"before": base, "after": first.model}
    scored = spread(rows["test"], ANSWERS_SCORED)
    references = [row.messages[-1].content for row in scored]
    answers = {when: answer_rows(model, scored, tokenizer) for when, model in models.items()}
    figures = {
        when: likelihood(model, when) | score_answers(answers[when], references) for when, model in models.items()
    }
    answers["reference"] = references
    job.report.write_text(show_rows(scored, answers) + rows_section(told), encoding="utf-8")
    write_examples(job, scored, answers)
    metrics = {
        **counts,
        **left_out,
        "test": {**by_figure(figures), "answers_scored": len(scored)},
        "settings": {"pretrained": first.setting},
        **write_model(job, first, tokenizer_file),
    }
    if job.n_seeds > 1:
        later = range(job.seed + 1, job.seed + job.n_seeds)
        others = [likelihood(train(seed, [first.rate]).model, f"seed {seed}") for seed in later]
        metrics["seeds"] = {"after": over_seeds([figures["after"], *others], LIKELIHOODS)}
    return metrics


def answer_rows(model: GPT, rows: Sequence[Row], tokenizer: Tokenizer) -> list[str]:
    """The greedy answer to each row's last question."""
    return [answer_ids(model, row.prompt_ids, tokenizer, ANSWER_TOKENS) for row in rows]


def show_rows(rows: Sequence[Row], answers: dict[str, list[str]]) -> str:
    """Some of the rows, evenly spread, with what was said to each, as Markdown."""
    shown = spread(range(len(rows)), ANSWERS_SHOWN)
    said = {title: [texts[number] for number in shown] for title, texts in answers.items()}
    return show_answers([rows[number].messages[:-1] for number in shown], said)


def write_examples(job: Job, rows: Sequence[Row], answers: dict[str, list[str]]) -> None:
    """Write the rows of the report as JSON, in drawn order: messages before the last answer, and the answers."""
    shown = np.random.default_rng(job.seed).permutation(spread(range(len(rows)), ANSWERS_SHOWN)).tolist()
    examples = [
        {"messages": [message._asdict() for message in rows[number].messages[:-1]]}
        | {title: texts[number] for title, texts in answers.items()}
        for number in shown
    ]
    write_json(job.answers, {"answers": examples})


def write_model(job: Job, trained: Trained, tokenizer_file: Path) -> dict[str, Any]:
    """The curve and the folder of a model that answers; what was verified of the files.

    UserError where a client reads another model, or other ids of a conversation than training had.
    """
    (job.plots / "curve.svg").write_text(draw_curve(trained.curve.rows, "finetuning"), encoding="utf-8")
    model, chat = trained.model, chat_to_verify(Tokenizer.load(tokenizer_file))
    write_folder(job.model, model, tokenizer_file, chat_template=TEMPLATE)
    return {"transformers": verify_transformers(job.model, model, job.seed, chat)}


def by_figure(figures: dict[str, Figures]) -> dict[str, Figures]:
    """The same figures with the name first.

    >>> by_figure({"before": {"loss": 2.0}, "after": {"loss": 1.0}})
    {'loss': {'before': 2.0, 'after': 1.0}}
    """
    names = next(iter(figures.values()))
    return {name: {when: of[name] for when, of in figures.items()} for name in names}


def over_seeds(runs: Sequence[Figures], names: Sequence[str]) -> dict[str, Figures]:
    """Mean and standard deviation of the named figures over runs of different seeds, the deviation being a sample's."""
    values = {name: np.array([run[name] for run in runs]) for name in names if name in runs[0]}
    return {
        name: {"mean": round(float(of.mean()), 5), "std": round(float(of.std(ddof=1)), 5)}
        for name, of in values.items()
    }
