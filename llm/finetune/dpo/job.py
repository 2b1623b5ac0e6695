"""A preference task from files to files: a model that prefers better answers, its figures, a report of answers."""

from typing import Any

from llm.export.hf.base import open_base
from llm.finetune.data.labeled import describe_rows, rows_section
from llm.finetune.dpo.dpo import (
    dpo_loss,
    preference_figures,
    prepare_pairs,
    read_preferences,
    score_pairs,
    train_preferences,
)
from llm.finetune.instruct.instruct import answer_figures
from llm.finetune.instruct.job import (
    ANSWERS_SHOWN,
    LIKELIHOODS,
    Figures,
    answer_rows,
    by_figure,
    over_seeds,
    show_rows,
    write_examples,
    write_model,
)
from llm.finetune.params import DPOTask
from llm.finetune.shared.answers import spread
from llm.finetune.shared.forgetting import base_figures, read_held_out
from llm.finetune.shared.jobs import Job
from llm.finetune.shared.language import Trained
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer


def run_dpo(job: Job, task: DPOTask) -> dict[str, Any]:
    """Train, compare the answers of test before and after, write everything; the metrics.

    Bits per byte are those of the chosen answers.
    """
    tokenizer_file, load_base = open_base(job.base, job.scratch / "tokenizer.json")
    tokenizer, base = Tokenizer.load(tokenizer_file), load_base().to(job.machine.device)
    preferences, left_out = read_preferences(job.data, task, job.seed)
    pairs, counts = prepare_pairs(preferences, task, tokenizer, base.config)
    told = describe_rows(counts | left_out, task.max_tokens)
    print("\n".join(told), flush=True)
    chosen = [pair.chosen for pair in pairs["test"]]
    held_out, size = read_held_out(job.held_out), task.training.batch_size
    reference = {split: score_pairs(base, part, tokenizer.pad, size, job.machine) for split, part in pairs.items()}

    def train(seed: int, rates: list[float]) -> Trained:
        training = task.training.model_copy(update={"learning_rates": rates})
        name = "dpo" if seed == job.seed else f"prefer seed {seed}"
        return train_preferences(
            load_base, pairs, reference, task, training, tokenizer.pad, seed, job.machine, job.scratch, name
        )

    def measure(model: GPT, label: str) -> Figures:
        policy = score_pairs(model, pairs["test"], tokenizer.pad, size, job.machine)
        figures = preference_figures(policy, reference["test"], task.beta, job.seed)
        figures |= answer_figures(model, chosen, tokenizer.pad, size, job.machine, job.seed)
        return figures | base_figures(model, held_out, tokenizer, size, job.machine, label)

    def val_loss(model: GPT) -> Figures:
        policy = score_pairs(model, pairs["val"], tokenizer.pad, size, job.machine)
        return {"loss": round(float(dpo_loss(policy, reference["val"], task.beta).mean()), 5)}

    first = train(job.seed, task.training.learning_rates)
    models = {"before": base, "after": first.model}
    shown = spread(pairs["test"], ANSWERS_SHOWN)
    answers = {when: answer_rows(model, [pair.chosen for pair in shown], tokenizer) for when, model in models.items()}
    for name in ("chosen", "rejected"):
        answers[name] = [getattr(pair, name).messages[-1].content for pair in shown]
    write_examples(job, [pair.chosen for pair in shown], answers | {"reference": answers["chosen"]})
    job.report.write_text(show_rows([pair.chosen for pair in shown], answers) + rows_section(told), encoding="utf-8")
    figures = {when: measure(model, when) for when, model in models.items()}
    metrics = {
        **counts,
        **left_out,
        "val": by_figure({when: val_loss(model) for when, model in models.items()}),
        "test": by_figure(figures),
        "settings": {"pretrained": first.setting | {"beta": task.beta}},
        **write_model(job, first, tokenizer_file),
    }
    if job.n_seeds > 1:
        later = range(job.seed + 1, job.seed + job.n_seeds)
        others = [measure(train(seed, [first.rate]).model, f"seed {seed}") for seed in later]
        names = ("chosen_is_likelier", "reward_margin", "chosen_log_ratio", *LIKELIHOODS)
        metrics["seeds"] = {"after": over_seeds([figures["after"], *others], names)}
    return metrics
