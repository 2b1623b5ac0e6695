"""A classification task from files to files: a classifier as a folder, its figures beside its rivals', plots, a report.

For a classifier neither GGUF nor ONNX is written: llama.cpp has no architecture of ours with labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm.core.errors import UserError
from llm.export.hf.base import open_base
from llm.export.hf.classifier import ClassifierInfo, read_classifier, write_classifier
from llm.export.verify import compare_classifier_with_transformers, silence_transformers
from llm.finetune.classify.baselines import score_baselines
from llm.finetune.classify.classifier import Prepared, Rows, Trained, predict, prepare_rows, train_classifier
from llm.finetune.classify.measures import (
    Rival,
    Scored,
    by_label,
    difference,
    draw_plots,
    draw_rows,
    fit_temperature,
    measure,
    write_report,
)
from llm.finetune.classify.zero_shot import zero_shot
from llm.finetune.data.labeled import describe_rows, read_classify, rows_section
from llm.finetune.params import ClassifyTask
from llm.finetune.shared.jobs import Job
from llm.model.classifier import Classifier
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

# The rows whose accuracy is held against the finetuned model's, row by row.
COMPARED = ("tfidf", "random_weights")
SUMMARISED = ("accuracy", "macro_f1")
PARITY_ROWS = 64
EXPORTED = """
The scores of the exported model are divided by {temperature}, the temperature that val's log loss is lowest at, so its
probabilities are calibrated in every client; the likeliest label stays the likeliest.
"""


@dataclass(frozen=True)
class Runs:
    """What the seeds made of a row: the first one's classifier, and the scores of test of all."""

    first: Trained
    tests: list[Scored]


def run_classify(job: Job, task: ClassifyTask) -> dict[str, Any]:
    """Train on the base and on random weights, score all rows on test once, write everything; the metrics.

    Every row is measured at a temperature of its own, fitted on val. The exported model's scores are divided by it.
    """
    if task.zero_shot is not None and task.label_separator is not None:
        raise UserError(
            f"zero_shot: wanted null where a row has any number of labels (label_separator), given {task.zero_shot!r}"
        )
    tokenizer_file, load_base = open_base(job.base, job.scratch / "tokenizer.json")
    tokenizer, base = Tokenizer.load(tokenizer_file), load_base()
    prepared = prepare_rows(read_classify(job.data, task, job.seed), task, tokenizer, base.config.context_length)
    told = describe_rows(prepared.report, task.max_tokens)
    print("\n".join(told), flush=True)
    runs = _train(job, task, prepared, load_base, base, tokenizer.pad)
    rivals = score_baselines(prepared, job.seed)
    rivals |= {row: Rival(run.first.val, run.first.test, run.first.setting) for row, run in runs.items()}
    if task.zero_shot is not None:
        base = base.to(job.machine.device)
        rivals["zero_shot"] = zero_shot(base, tokenizer, prepared, task.zero_shot, job.machine)
    temperatures = {row: fit_temperature(rival.val) for row, rival in rivals.items()}
    figures = {row: measure(rival.test, temperatures[row], job.seed) for row, rival in rivals.items()}
    best, temperature = runs["pretrained"].first, temperatures["pretrained"]
    differences = {row: difference(best.test, rivals[row].test, job.seed) for row in COMPARED}
    settings = {row: rival.setting for row, rival in rivals.items()}
    draw_plots(job.plots, prepared.labels, best.test, temperature, best.curve.rows)
    draw_rows(job.plots, figures)
    described = {row: (figures[row], setting) for row, setting in settings.items()}
    write_report(job.report, described, by_label(best.test, prepared.labels), differences)
    with job.report.open("a", encoding="utf-8") as report:
        report.write(EXPORTED.format(temperature=temperature))
        report.write(rows_section(told))
    with torch.no_grad():
        best.model.score.weight.div_(temperature)
    info = ClassifierInfo(prepared.labels, task.text_columns, task.label_separator, task.max_tokens)
    write_classifier(job.model, best.model, tokenizer_file, info)
    metrics = {
        **prepared.report,
        "test": figures,
        "differences": differences,
        "settings": settings,
        "export": _compare_with_export(job, best.model, prepared.rows["test"]),
    }
    if job.n_seeds > 1:
        metrics["seeds"] = {row: _spread(run.tests, job.seed) for row, run in runs.items()}
    return metrics


def _train(
    job: Job, task: ClassifyTask, prepared: Prepared, load_base: Callable[[], GPT], base: GPT, pad_id: int
) -> dict[str, Runs]:
    """The runs of each trained row; the first seed tunes the rate for the others."""

    def train(row: str, seed: int, rates: list[float]) -> Trained:
        def draw() -> GPT:
            return GPT(base.config, torch.Generator().manual_seed(seed))

        # Random weights have nothing to keep, so that all of them learn.
        make, kind = (load_base, task.method.kind) if row == "pretrained" else (draw, "full")
        method = task.method.model_copy(update={"kind": kind})
        training = task.training.model_copy(update={"learning_rates": rates})
        name = row if seed == job.seed else f"{row} seed {seed}"
        return train_classifier(make, prepared, task, method, training, pad_id, seed, job.machine, job.scratch, name)

    runs = {}
    for row in ("pretrained", "random_weights"):
        first = train(row, job.seed, task.training.learning_rates)
        later = range(job.seed + 1, job.seed + job.n_seeds)
        runs[row] = Runs(first, [first.test, *(train(row, seed, [first.rate]).test for seed in later)])
    return runs


def _spread(tests: Sequence[Scored], seed: int) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over the seeds' runs, the deviation being that of a sample."""
    measured = [measure(test, 1.0, seed) for test in tests]
    values = {name: np.array([figures[name] for figures in measured]) for name in SUMMARISED}
    return {
        name: {"mean": round(float(of.mean()), 4), "std": round(float(of.std(ddof=1)), 4)}
        for name, of in values.items()
    }


def _compare_with_export(job: Job, model: Classifier, test: Rows) -> dict[str, Any]:
    """How far the written folder is from the model in float32, on the first rows of test as clients tokenize them.

    UserError where Transformers reads another one.
    """
    again, tokenizer, info = read_classifier(job.model)
    ours, texts = test.ids[:PARITY_ROWS], test.texts[:PARITY_ROWS]
    theirs = client_ids(job.model, texts, info.max_tokens)
    machine = replace(job.machine, matmul_dtype="float32")
    here, there = (
        info.probabilities(predict(of.to(machine.device), ids, tokenizer.pad, 16, machine))
        for of, ids in ((model, ours), (again, theirs))
    )
    found: dict[str, Any] = {
        "max_probability_difference": float(f"{(here - there).abs().max().item():.3g}"),
        "rows_with_other_ids": sum(a != b for a, b in zip(ours, theirs, strict=True)),
        "rows": len(ours),
    }
    parity = compare_classifier_with_transformers(job.model, again.cpu(), tokenizer, info, job.seed)
    if not parity.agrees or found["rows_with_other_ids"]:
        raise UserError(
            f"{job.model}: {parity.describe()}; {found['rows_with_other_ids']} of {len(ours)} rows of "
            "test have other ids"
        )
    return found | {"mean_divergence": parity.figures()["mean_divergence"]}


def client_ids(folder: Path, texts: list[list[str]], max_tokens: int) -> list[list[int]]:
    """The ids of each row of one text or two, as AutoTokenizer of Transformers gives them to a classifier's clients."""
    from transformers import AutoTokenizer

    silence_transformers()
    client: Any = AutoTokenizer.from_pretrained(folder)
    return [client(*row, truncation=True, max_length=max_tokens)["input_ids"] for row in texts]
