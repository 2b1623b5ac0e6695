"""A model that answers, and prompts with a better and a worse answer → one that prefers the better ones.

    prompt, chosen, rejected ──► log-probabilities of both answers, of the model and of its base ──dpo_loss──► GPT

Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290). The reward of an answer is implicit in the
model: beta times how much likelier it has become than it was for the base. No model of rewards is trained.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm.core.device import Machine
from llm.core.tables import SPLITS
from llm.evaluate.bootstrap import ratio_interval
from llm.finetune.data.batches import RowBatches, in_order
from llm.finetune.data.labeled import read_records
from llm.finetune.data.messages import Conversation, RowError, read_rows, to_answer, to_prompt
from llm.finetune.instruct.instruct import LEARNED, Row, check_length, check_splits, make_row, sums_by_row, token_losses
from llm.finetune.params import DPOTask, TrainingParams
from llm.finetune.shared.chat import Message, turn_ids
from llm.finetune.shared.language import Trained, train_language_model
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

COUNTED = LEARNED["assistant"]


@dataclass(frozen=True)
class Preference:
    """A conversation up to a question, and two answers to it."""

    prompt: Conversation
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Pair:
    """A preference as two rows; what is counted of each is its last answer with the marker that ends it."""

    chosen: Row
    rejected: Row

    @property
    def length(self) -> int:
        """Tokens of the longer row."""
        return max(len(self.chosen.ids), len(self.rejected.ids))


def read_preferences(path: Path, task: DPOTask, seed: int) -> tuple[dict[str, list[Preference]], dict[str, Any]]:
    """Read the preferences of a file by split, and the counts of what is left out."""
    may_be_empty = [] if task.input_column is None else [task.input_column]
    columns = [task.prompt_column, *may_be_empty, task.chosen_column, task.rejected_column]
    labeled = read_records(path, task, columns, seed, frozenset(may_be_empty))
    return read_rows(labeled, task, lambda row: to_preference(row, task))


def to_preference(row: Mapping[str, Any], task: DPOTask) -> Preference:
    """The preference of a row of the file. RowError where it is none."""
    prompt = to_prompt(row, task.prompt_column, task.input_column)
    chosen, rejected = to_answer(row, task.chosen_column), to_answer(row, task.rejected_column)
    if chosen == rejected:
        raise RowError(
            "equal_answers", f"wanted two answers that differ in {task.chosen_column} and {task.rejected_column}"
        )
    return Preference(prompt, chosen, rejected)


def prepare_pairs(
    preferences: dict[str, list[Preference]], task: DPOTask, tokenizer: Tokenizer, base: ModelConfig
) -> tuple[dict[str, list[Pair]], dict[str, Any]]:
    """Pairs by split of which both rows fit `max_tokens`, and how many were kept and dropped."""
    check_length(task.max_tokens, base)
    pairs: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    n_dropped = 0
    for split in SPLITS:
        for of in preferences[split]:
            asked = [turn_ids(tokenizer, message) for message in of.prompt]
            answers = [Message("assistant", text) for text in (of.chosen, of.rejected)]
            chosen, rejected = (
                make_row(
                    [*of.prompt, answer],
                    [*asked, turn_ids(tokenizer, answer)],
                    tokenizer.bos_id,
                    last_only=True,
                )
                for answer in answers
            )
            pair = Pair(chosen, rejected)
            if pair.length > task.max_tokens:
                n_dropped += 1
            else:
                pairs[split].append(pair)
    n_pairs = {split: len(part) for split, part in pairs.items()}
    check_splits(n_pairs, task.data, task.max_tokens)
    return pairs, {"rows": n_pairs, "dropped_too_long": n_dropped}


def dpo_loss(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Equation 7 for each pair: −log σ(β (log π(c)/π₀(c) − log π(r)/π₀(r))), in nats; (B,).

    `policy` and `reference` (B, 2) are log-probabilities of the chosen and of the rejected answer, of the model and
    of its base. Equal ones give log 2.

    >>> dpo_loss(torch.tensor([[-2.0, -3.0]]), torch.tensor([[-2.0, -3.0]]), 0.1)
    tensor([0.6931])
    """
    return -nn.functional.logsigmoid(reward_margins(policy, reference, beta))


def reward_margins(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """How much more implicit reward the chosen answer has than the rejected one; (B,)."""
    rewards = beta * (policy - reference)
    return rewards[:, 0] - rewards[:, 1]


def pair_log_probabilities(
    model: GPT, pairs: list[Pair], pad_id: int, machine: Machine, dropout_keys: Tensor | None = None
) -> Tensor:
    """Log-probability of the chosen and of the rejected answer to each prompt, with their end markers; (pairs, 2)."""
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    losses = token_losses(model, [[row] for row in rows], COUNTED, pad_id, machine, dropout_keys)
    return -sums_by_row(losses, rows, COUNTED).view(2, len(pairs)).T


@torch.no_grad()
def score_pairs(model: GPT, pairs: list[Pair], pad_id: int, batch_size: int, machine: Machine) -> Tensor:
    """`pair_log_probabilities` of all pairs, in their order, on the CPU: (pairs, 2)."""
    scores = torch.empty(len(pairs), 2)
    for numbers in in_order([pair.length for pair in pairs], batch_size):
        chosen = [pairs[number] for number in numbers]
        scores[numbers] = pair_log_probabilities(model, chosen, pad_id, machine).cpu()
    return scores


def train_preferences(
    load_base: Callable[[], GPT],
    pairs: dict[str, list[Pair]],
    reference: dict[str, Tensor],
    task: DPOTask,
    training: TrainingParams,
    pad_id: int,
    seed: int,
    machine: Machine,
    scratch: Path,
    name: str,
) -> Trained:
    """Train on the pairs of train; the weights with the lowest loss on val stay.

    `reference` has the base's scores of each split's pairs, as `score_pairs` gives them: the base is asked just once.
    """
    batches = RowBatches([pair.length for pair in pairs["train"]], training.batch_size, seed)

    def step_loss(model: GPT, step: int) -> Tensor:
        numbers = batches.at(step)
        chosen = [pairs["train"][number] for number in numbers]
        policy = pair_log_probabilities(model, chosen, pad_id, machine, model.dropout_keys(seed, step))
        return dpo_loss(policy, reference["train"][numbers].to(machine.device), task.beta).mean()

    def val_loss(model: GPT) -> float:
        policy = score_pairs(model, pairs["val"], pad_id, training.batch_size, machine)
        return float(dpo_loss(policy, reference["val"], task.beta).mean())

    n_steps = max(1, round(training.epochs * batches.per_epoch))
    return train_language_model(
        load_base, step_loss, val_loss, n_steps, task.method, training, seed, machine, scratch, name
    )


def preference_figures(policy: Tensor, reference: Tensor, beta: float, seed: int) -> dict[str, float]:
    """What scores (pairs, 2) of a model and of its base come to.

    `chosen_is_likelier`: the share of pairs whose chosen answer has the higher log-probability, with its 95%
    interval. `reward_margin`: the mean of β (log-ratio of the chosen − log-ratio of the rejected). `chosen_log_ratio`:
    the mean of log π(c)/π₀(c) in nats an answer, how far the model has moved; below 0 the chosen became less likely.
    """
    is_likelier = (policy[:, 0] > policy[:, 1]).long().numpy()
    figures = {"chosen_is_likelier": float(is_likelier.mean())}
    if interval := ratio_interval(is_likelier, np.ones_like(is_likelier), np.random.default_rng(seed)):
        figures |= dict(zip(("chosen_is_likelier_low", "chosen_is_likelier_high"), interval, strict=True))
    figures["reward_margin"] = float(reward_margins(policy, reference, beta).mean())
    figures["chosen_log_ratio"] = float((policy - reference)[:, 0].mean())
    return {name: round(value, 5) for name, value in figures.items()}
