"""A preference task: prompts with a chosen and a rejected answer in, a model that prefers the chosen ones out."""

from functools import partial

from torch import Tensor

from llm.finetune.dpo.dpo import (
    dpo_loss,
    make_objective,
    preference_figures,
    prepare_pairs,
    read_preferences,
    score_pairs,
)
from llm.finetune.params import DPOTask
from llm.finetune.shared.job import Figures, Job, Outcome, merge_counts, open_base
from llm.finetune.shared.language import ANSWERS_SHOWN, LanguageTask, run_language_task
from llm.model.gpt import GPT


def run(job: Job, task: DPOTask) -> Outcome:
    """Train, and compare preferences and answers of test before and after; bits per byte are of the chosen answers."""
    base = open_base(job)
    before = base.load().to(job.machine.device)
    preferences, dropped = read_preferences(job.data, task, job.seed)
    pairs, counts = prepare_pairs(preferences, task, base.tokenizer, before.config)

    def score(model: GPT, split: str) -> Tensor:
        return score_pairs(model, pairs[split], base.tokenizer.pad, task.training.batch_size, job.machine)

    reference = {split: score(before, split) for split in pairs}

    def figures(model: GPT) -> Figures:
        return preference_figures(score(model, "test"), reference["test"], task.beta, job.seed)

    def val_figures(model: GPT) -> Figures:
        return {"loss": round(float(dpo_loss(score(model, "val"), reference["val"], task.beta).mean()), 5)}

    kind = LanguageTask(
        kind="dpo",
        objective=partial(make_objective, pairs, reference, task, base),
        test=[pair.chosen for pair in pairs["test"]],
        n_answers=ANSWERS_SHOWN,
        scores_answers=False,
        others={"rejected": [pair.rejected.messages[-1].content for pair in pairs["test"]]},
        figures=figures,
        val_figures=val_figures,
        summarized=("chosen_is_likelier", "reward_margin", "chosen_log_ratio"),
        setting={"beta": task.beta},
    )
    return run_language_task(job, task, kind, base, before, merge_counts(dropped, counts))
