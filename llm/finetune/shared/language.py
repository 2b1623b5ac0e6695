"""The job of tasks that train a language model: figures and answers before and after, a Hugging Face folder.

Forgetting is measured in bits per byte on held-out text of the pretraining corpus, in bytes so that bases with other
tokenizers are comparable.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from llm.core.device import Machine
from llm.core.tables import iterate_rows
from llm.evaluate.likelihood import plan_spans, score_tokens, summarise
from llm.export.hf.folder import write_folder
from llm.export.verify import compare_with_transformers
from llm.finetune.shared.chat import TEMPLATE, chat_to_verify
from llm.finetune.shared.job import Base, Figures, Job, Objective, Outcome, Run, fit_seeds, open_base, print_rows
from llm.finetune.shared.rows import Row, answer_figures
from llm.model.generate import generate, greedy
from llm.model.gpt import GPT
from llm.tokens.special import END_OF_TEXT, IM_END
from llm.tokens.tokenizer import Tokenizer

T = TypeVar("T")
ANSWERS_SHOWN, ANSWER_TOKENS = 10, 128
HELD_OUT_BYTES = 1 << 16
# Of a window and in memory at a time: attention grows with the square of the base's context.
MAX_POSITIONS, MAX_LOGITS = 1024, 1 << 25


@dataclass(frozen=True)
class LanguageTask:
    """What a kind of task adds: counts of rows, the most tokens of one, its objective, the rows of test to score.

    `n_scored` evenly spread rows are answered and scored, or as many answered as are shown. `figures` are those of the
    kind by split, `others` further texts to show for each row of test.
    """

    counts: dict[str, Any]
    max_tokens: int
    objective: Callable[[Run], Objective[GPT]]
    test: list[Row]
    n_scored: int = 0
    figures: Callable[[GPT, str], Figures] = lambda model, split: {}
    others: dict[str, Sequence[str]] = field(default_factory=dict)
    setting: dict[str, Any] = field(default_factory=dict)


def open_models(job: Job) -> tuple[Base, GPT]:
    """Return the base and its model on the device."""
    base = open_base(job)
    return base, base.load().to(job.machine.device)


def merge_counts(*parts: dict[str, Any]) -> dict[str, Any]:
    """Return counts of rows joined, and those of dropped rows under `dropped`, without reasons of no row."""
    dropped = {reason: n for part in parts for reason, n in part["dropped"].items() if n}
    return {key: value for part in parts for key, value in part.items()} | {"dropped": dropped}


def run_language_task(job: Job, task: Any, base: Base, before: GPT, of: LanguageTask) -> Outcome:
    """Train, measure the model `before` and after, write the folder, the curve, and return the figures."""
    notes = print_rows(of.counts, of.max_tokens)
    held_out, size, tokenizer = read_held_out(job.held_out), task.training.batch_size, base.tokenizer

    def measure(model: GPT, label: str) -> Figures:
        of_answers = answer_figures(model, of.test, tokenizer.pad, size, job.machine, job.seed)
        of_base = base_figures(model, held_out, tokenizer, size, job.machine, label)
        return of.figures(model, "test") | of_answers | of_base

    fitted, after = fit_seeds(job, task.kind, task, of.objective, measure, digits=5)
    models, figures = {"before": before, "after": fitted.model}, {"before": measure(before, "before"), "after": after}
    rows, texts = _answer(models, of, tokenizer)
    if of.n_scored:
        figures = {system: own | score_answers(texts[system], texts["reference"]) for system, own in figures.items()}
    write_folder(job.model, fitted.model, base.tokenizer_file, chat_template=TEMPLATE)
    fitted.curve.write(job.plots / "curve.tsv")
    val = {system: own for system, model in models.items() if (own := of.figures(model, "val"))}
    parity = compare_with_transformers(job.model, fitted.model, job.seed, chat=chat_to_verify(tokenizer))
    metrics = {
        **of.counts,
        **({"val": val} if val else {}),
        "test": figures,
        "transformers": parity.figures(job.model),
    }
    settings = {"after": fitted.setting | of.setting}
    details = {"kind": task.kind, **metrics, **notes, "settings": settings, "curve": fitted.curve.rows}
    answers = {"answers": _examples(rows, texts, job.seed), "answers_scored": len(rows) if of.n_scored else 0}
    return metrics, details | answers


def _answer(models: dict[str, GPT], of: LanguageTask, tokenizer: Tokenizer) -> tuple[list[Row], dict[str, list[str]]]:
    """Return evenly spread rows of test, and the answers of each model to them beside other texts."""
    numbers = spread(range(len(of.test)), of.n_scored or ANSWERS_SHOWN)
    rows = [of.test[number] for number in numbers]
    texts = {system: [answer(model, row.prompt_ids, tokenizer) for row in rows] for system, model in models.items()}
    texts["reference"] = [row.messages[-1].content for row in rows]
    return rows, texts | {name: [texts[number] for number in numbers] for name, texts in of.others.items()}


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


def spread(rows: Sequence[T], n: int) -> list[T]:
    """Return up to `n` of the rows, evenly spaced from the first.

    >>> spread("abcdefg", 3)
    ['a', 'c', 'e']
    """
    n = min(n, len(rows))
    return [rows[number * len(rows) // n] for number in range(n)]


def answer(model: GPT, prompt: list[int], tokenizer: Tokenizer, max_new_tokens: int = ANSWER_TOKENS) -> str:
    """Return the greedy answer to a prompt's ids, within the context."""
    stop = frozenset({tokenizer.special[IM_END], tokenizer.special[END_OF_TEXT]})
    room = model.config.context_length - len(prompt) + 1
    return tokenizer.decode(generate(model, prompt, min(max_new_tokens, room), greedy, stop)).strip()


def score_answers(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return token F1 and exact match, means from 0 to 1, and chrF of the whole, from 0 to 100."""
    import sacrebleu

    pairs = list(zip(answers, references, strict=True))
    return {
        "token_f1": round(float(np.mean([token_f1(*pair) for pair in pairs])), 5),
        "exact_match": round(float(np.mean([answer.strip() == reference.strip() for answer, reference in pairs])), 5),
        # Character n-grams up to 6, recall twice as heavy as precision (Popović 2015, W15-3049).
        "chrf": round(sacrebleu.corpus_chrf(list(answers), [list(references)]).score, 3),
    }


def token_f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over words (SQuAD, arXiv:1606.05250), ignoring case.

    >>> round(token_f1("It runs fast.", "it runs"), 2)  # precision 2/4, recall 2/2
    0.67
    """
    ours, theirs = (Counter(re.findall(r"\w+|[^\w\s]", text.lower())) for text in (answer, reference))
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())
