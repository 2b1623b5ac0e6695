"""A classification task: labeled texts in, a calibrated classifier and its figures beside those of baselines out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from llm.core.errors import UserError
from llm.export.hf.classifier import ClassifierInfo, read_classifier, write_classifier
from llm.export.verify import compare_classifier_with_transformers, silence_transformers
from llm.finetune.classify import measures
from llm.finetune.classify.baselines import score_baselines
from llm.finetune.classify.classifier import Prepared, Rows, make_objective, predict, prepare_rows, score_split
from llm.finetune.classify.measures import Scored, SystemPredictions, log_loss, measure
from llm.finetune.classify.zero_shot import zero_shot
from llm.finetune.data.labeled import read_classify
from llm.finetune.params import ClassifyTask
from llm.finetune.shared.job import Base, Fitted, Job, Objective, Outcome, Run, fit_seeds, open_base, print_rows
from llm.model.classifier import Classifier
from llm.model.config import ModelConfig
from llm.model.gpt import GPT

COMPARED = ("tfidf", "random_weights")  # with the finetuned model, row by row
OVER_SEEDS = ("accuracy", "macro_f1")  # their mean and deviation
PARITY_ROWS = 64


def run(job: Job, task: ClassifyTask) -> Outcome:
    """Train on the base and on random weights, score every system once on test, write the folder and the curve.

    Each system has a temperature of its own, fitted to val; the scores of the exported model are divided by it.
    """
    base = open_base(job)
    untrained = base.load()
    labeled = read_classify(job.data, task, job.seed)
    prepared = prepare_rows(labeled, task, base.tokenizer, untrained.config.context_length)
    notes = print_rows(prepared.counts, prepared.max_tokens)
    fitted, over_seeds = {}, {}
    systems = score_baselines(prepared, job.seed)
    for name in ("pretrained", "random_weights"):
        fitted[name], systems[name], over_seeds[name] = _train(job, task, prepared, base, untrained.config, name)
    if task.zero_shot is not None:
        untrained = untrained.to(job.machine.device)
        systems["zero_shot"] = zero_shot(untrained, base.tokenizer, prepared, task.zero_shot, job.machine)
    temperatures = {name: measures.fit_temperature(system.val) for name, system in systems.items()}
    figures = {name: measure(of.test, temperatures[name], job.seed) for name, of in systems.items()}
    test, temperature, best = systems["pretrained"].test, temperatures["pretrained"], fitted["pretrained"]
    for name in COMPARED:
        figures[name] |= measures.difference(test, systems[name].test, job.seed)
    best.curve.write(job.plots / "curve.tsv")
    _write_confusion(job.plots / "confusion.csv", test, prepared.labels)
    with torch.no_grad():
        best.model.score.weight.div_(temperature)
    info = ClassifierInfo(prepared.labels, task.text_columns, task.label_separator, prepared.max_tokens)
    write_classifier(job.model, best.model, base.tokenizer_file, info)
    metrics = {
        **prepared.counts,
        "val": {name: {"log_loss": round(log_loss(of.val), 5)} for name, of in systems.items()},
        "test": {name: of | over_seeds.get(name, {}) for name, of in figures.items()},
        "transformers": _compare_with_transformers(job, best.model, prepared.rows["test"]),
    }
    details = {
        "kind": "classify",
        **metrics,
        **notes,
        "settings": {name: of.setting for name, of in systems.items()},
        "labels": prepared.labels,
        "by_label": measures.by_label(test, prepared.labels),
        "curve": best.curve.rows,
        **measures.curves(test, temperature, prepared.labels),
    }
    return metrics, details


def _write_confusion(path: Path, test: Scored, labels: list[str]) -> None:
    if not test.is_multilabel:
        columns = {"actual": test.actual, "predicted": test.predict()}
        named = {column: [labels[number] for number in of] for column, of in columns.items()}
        pd.DataFrame(named).to_csv(path, index=False)


def _train(
    job: Job, task: ClassifyTask, prepared: Prepared, base: Base, config: ModelConfig, name: str
) -> tuple[Fitted[Classifier], SystemPredictions, dict[str, Any]]:
    """Fit a system with each seed: the model and scores of the first one, mean and deviation over seeds."""

    def score(model: Classifier, split: str) -> Scored:
        return score_split(model, prepared.rows[split], base.tokenizer.pad, task.training.batch_size, job.machine)

    def objective(run: Run) -> Objective[Classifier]:
        def draw() -> GPT:
            return GPT(config, torch.Generator().manual_seed(run.seed))

        load = base.load if name == "pretrained" else draw
        return make_objective(load, prepared, task, base.tokenizer.pad, run)

    def measure_test(model: Classifier, _: str) -> dict[str, Any]:
        found = measure(score(model, "test"), 1.0, job.seed) if job.n_seeds > 1 else {}
        return {name: of for name, of in found.items() if name in OVER_SEEDS}

    if name == "random_weights":  # nothing to preserve: all weights are trained
        task = task.model_copy(update={"method": task.method.model_copy(update={"kind": "full"})})
    fitted, figures = fit_seeds(job, name, task, objective, measure_test, digits=4)
    predictions = SystemPredictions(score(fitted.model, "val"), score(fitted.model, "test"), fitted.setting)
    return fitted, predictions, {key: of for key, of in figures.items() if key not in OVER_SEEDS}


def _compare_with_transformers(job: Job, model: Classifier, test: Rows) -> dict[str, Any]:
    """Compare the written folder with the model in float32, on rows of test; UserError where Transformers differs."""
    from transformers import AutoTokenizer

    again, tokenizer, info = read_classifier(job.model)
    silence_transformers()
    client: Any = AutoTokenizer.from_pretrained(job.model)
    ours, texts = test.ids[:PARITY_ROWS], test.texts[:PARITY_ROWS]
    theirs = [client(*row, truncation=True, max_length=info.max_tokens)["input_ids"] for row in texts]
    machine = replace(job.machine, matmul_dtype="float32")
    here, there = (
        info.probabilities(predict(of.to(machine.device), ids, tokenizer.pad, 16, machine))
        for of, ids in ((model, ours), (again, theirs))
    )
    mismatches = sum(a != b for a, b in zip(ours, theirs, strict=True))
    parity = compare_classifier_with_transformers(job.model, again.cpu(), tokenizer, info, job.seed)
    divergence = parity.figures(job.model)["mean_divergence"]
    if mismatches:
        raise UserError(f"{job.model}: expected the same ids in Transformers, got {mismatches} of {len(ours)} others")
    return {
        "max_probability_difference": float(f"{(here - there).abs().max().item():.3g}"),
        "tokenization_mismatches": mismatches,
        "rows": len(ours),
        "mean_divergence": divergence,
    }
