"""A preference task: prompts with a chosen and a rejected answer in, a model that prefers the chosen ones out.

Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290).

    prompt, chosen, rejected ──► log-probabilities of both answers under the model and the base ──dpo_loss──► nats

The reward of an answer is implicit: beta times the log-ratio of its probability under the model and under the base.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from llm.core.device import Machine
from llm.evaluate.bootstrap import ratio_with_interval
from llm.finetune.data.batches import RowBatches, by_length
from llm.finetune.data.labeled import read_records
from llm.finetune.data.messages import Conversation, Counts, RowError, parse_rows, to_answer, to_prompt
from llm.finetune.params import DPOTask
from llm.finetune.shared.chat import Message
from llm.finetune.shared.job import Base, Figures, Job, Objective, Outcome, Run
from llm.finetune.shared.language import LanguageTask, merge_counts, open_models, run_language_task
from llm.finetune.shared.rows import ASSISTANT, Row, count_rows, make_row, sums_by_row, token_losses
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

Preference = tuple[Conversation, Conversation]  # a prompt and the chosen answer, and the rejected one


class Pair(NamedTuple):
    """A preference as two rows, in which the last answer counts."""

    chosen: Row
    rejected: Row

    @property
    def length(self) -> int:
        """Tokens of the longer row."""
        return max(len(row.ids) for row in self)


Pairs = dict[str, list[Pair]]  # by split


def run(job: Job, task: DPOTask) -> Outcome:
    """Train, and compare preferences and answers of test before and after; bits per byte are of the chosen answers."""
    base, before = open_models(job)
    preferences, counts = read_preferences(job.data, task, job.seed)
    pairs, own_counts, max_tokens = prepare_pairs(preferences, task, base.tokenizer, before.config.context_length)

    def score(model: GPT, split: str) -> Tensor:
        return score_pairs(model, pairs[split], base.tokenizer.pad, task.training.batch_size, job.machine)

    reference = {split: score(before, split) for split in pairs}

    def figures(model: GPT, split: str) -> Figures:
        policy = score(model, split)
        if split == "val":
            return {"loss": round(float(dpo_loss(policy, reference[split], task.beta).mean()), 5)}
        return preference_figures(policy, reference[split], task.beta, job.seed)

    own = LanguageTask(
        counts=merge_counts(counts, own_counts),
        max_tokens=max_tokens,
        objective=partial(make_objective, pairs, reference, task, base),
        test=[pair.chosen for pair in pairs["test"]],
        figures=figures,
        others={"rejected": [pair.rejected.messages[-1].content for pair in pairs["test"]]},
        setting={"beta": task.beta},
    )
    return run_language_task(job, task, base, before, own)


def read_preferences(path: Path, task: DPOTask, seed: int) -> tuple[dict[str, list[Preference]], Counts]:
    """Return the preferences of a file by split, and counts of the rows that were dropped."""
    optional = list(filter(None, [task.input_column]))
    columns = [task.prompt_column, *optional, task.chosen_column, task.rejected_column]
    labeled = read_records(path, task, columns, seed, optional)
    return parse_rows(labeled, task, lambda row: to_preference(row, task))


def to_preference(row: Mapping[str, Any], task: DPOTask) -> Preference:
    """Return the preference of a row; RowError for an invalid one."""
    prompt = to_prompt(row, task.prompt_column, task.input_column)
    chosen, rejected = (Message("assistant", to_answer(row, of)) for of in (task.chosen_column, task.rejected_column))
    if chosen == rejected:
        columns = f"{task.chosen_column} and {task.rejected_column}"
        raise RowError("equal_answers", f"expected different answers in {columns}, got equal ones")
    return [*prompt, chosen], [*prompt, rejected]


def prepare_pairs(
    preferences: dict[str, list[Preference]], task: DPOTask, tokenizer: Tokenizer, context_length: int
) -> tuple[Pairs, Counts, int]:
    """Return pairs by split whose rows have at most `max_tokens`, counts of the pairs dropped, and `max_tokens`."""
    every = {split: [make_pair(of, tokenizer) for of in part] for split, part in preferences.items()}
    max_tokens = task.max_tokens_of([pair.length for pair in every["train"]], context_length)
    pairs = {split: [pair for pair in part if pair.length <= max_tokens] for split, part in every.items()}
    n_dropped = sum(len(every[split]) - len(part) for split, part in pairs.items())
    counts = {"rows": count_rows(pairs, task.data, max_tokens), "dropped": {"too_long": n_dropped}}
    return pairs, counts, max_tokens


def make_pair(preference: Preference, tokenizer: Tokenizer) -> Pair:
    """Return the two rows of a preference."""
    return Pair(*(make_row(tokenizer, messages, last_only=True) for messages in preference))


def dpo_loss(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Return equation 7 for each pair, −log σ(β (log π(c)/π₀(c) − log π(r)/π₀(r))), in nats; (B,).

    `policy` and `reference` (B, 2) are log-probabilities of the chosen and the rejected answer under the model and the
    base. Equal ones give log 2.

    >>> dpo_loss(torch.tensor([[-2.0, -3.0]]), torch.tensor([[-2.0, -3.0]]), 0.1)
    tensor([0.6931])
    """
    return -nn.functional.logsigmoid(reward_margins(policy, reference, beta))


def reward_margins(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Return the implicit reward of the chosen answer less that of the rejected one; (B,)."""
    rewards = beta * (policy - reference)
    return rewards[:, 0] - rewards[:, 1]


def pair_log_probabilities(
    model: GPT, pairs: list[Pair], pad_id: int, machine: Machine, dropout_keys: Tensor | None = None
) -> Tensor:
    """Return log-probabilities of the chosen and the rejected answers with their end markers; (pairs, 2)."""
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    losses = token_losses(model, [[row] for row in rows], ASSISTANT, pad_id, machine, dropout_keys)
    return -sums_by_row(losses, rows, ASSISTANT).view(2, len(pairs)).T


@torch.no_grad()
def score_pairs(model: GPT, pairs: list[Pair], pad_id: int, batch_size: int, machine: Machine) -> Tensor:
    """Return `pair_log_probabilities` of all pairs in their order, on the CPU; (pairs, 2)."""
    scores = torch.empty(len(pairs), 2)
    for numbers in by_length([pair.length for pair in pairs], batch_size):
        scores[numbers] = pair_log_probabilities(model, [pairs[n] for n in numbers], pad_id, machine).cpu()
    return scores


def make_objective(pairs: Pairs, reference: dict[str, Tensor], task: DPOTask, base: Base, run: Run) -> Objective[GPT]:
    """Return the mean loss of pairs; `reference` holds the base's `score_pairs` of each split, computed once."""
    size, pad = task.training.batch_size, base.tokenizer.pad
    batches = RowBatches([pair.length for pair in pairs["train"]], size, run.seed)

    def step_loss(model: GPT, step: int) -> Tensor:
        numbers = batches.at(step)
        batch, keys = [pairs["train"][number] for number in numbers], model.dropout_keys(run.seed, step)
        policy = pair_log_probabilities(model, batch, pad, run.machine, keys)
        return dpo_loss(policy, reference["train"][numbers].to(run.machine.device), task.beta).mean()

    def val_loss(model: GPT) -> float:
        policy = score_pairs(model, pairs["val"], pad, size, run.machine)
        return float(dpo_loss(policy, reference["val"], task.beta).mean())

    return Objective(base.load, step_loss, val_loss, batches.per_epoch)


def preference_figures(policy: Tensor, reference: Tensor, beta: float, seed: int) -> dict[str, float]:
    """Return figures of scores (pairs, 2) of a model and of its base.

    `chosen_is_likelier` is a fraction of the pairs, `reward_margin` the mean of β (log-ratio of chosen − of rejected),
    `chosen_log_ratio` that of log π(c)/π₀(c) in nats per answer: negative where chosen answers became less likely.
    """
    is_likelier, rng = (policy[:, 0] > policy[:, 1]).long().numpy(), np.random.default_rng(seed)
    figures = ratio_with_interval("chosen_is_likelier", is_likelier, np.ones_like(is_likelier), rng)
    figures["reward_margin"] = round(float(reward_margins(policy, reference, beta).mean()), 5)
    figures["chosen_log_ratio"] = round(float((policy - reference)[:, 0].mean()), 5)
    return figures
