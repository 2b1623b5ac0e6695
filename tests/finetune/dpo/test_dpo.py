"""Preferences: the loss by hand, its gradient's direction, a toy that learns them; the base is asked once."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from llm.core.errors import UserError
from llm.finetune.data.messages import RowError
from llm.finetune.dpo import dpo as prefer
from llm.finetune.dpo.dpo import (
    Pair,
    Preference,
    dpo_loss,
    pair_log_probabilities,
    preference_figures,
    prepare_pairs,
    read_preferences,
    reward_margins,
    score_pairs,
    to_preference,
    train_preferences,
)
from llm.finetune.shared.chat import Message
from llm.tokens.special import IM_END
from llm.tokens.tokenizer import Tokenizer

SPLITS = ("train", "val", "test")
ASKED = [
    ("go", "rain", "river"),
    ("walk the path", "names, if", "no"),
    ("hm", "on", "The river runs."),
    ("a", "b", "c"),
]
PREFERENCES = [Preference([Message("user", user)], chosen, rejected) for user, chosen, rejected in ASKED]


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer_file) -> Tokenizer:
    return Tokenizer.load(small_tokenizer_file)


@pytest.fixture(scope="module")
def pairs(make_task, tokenizer, draw_gpt) -> list[Pair]:
    by_split = dict.fromkeys(SPLITS, PREFERENCES)
    return prepare_pairs(by_split, make_task("dpo"), tokenizer, draw_gpt().config)[0]["train"]


def test_the_loss_by_hand():
    policy, reference = torch.tensor([[-1.0, -5.0], [-4.0, -2.0]]), torch.tensor([[-3.0, -4.0], [-3.0, -4.0]])
    # Log-ratios: 2 and -1, -1 and 2; margins at β = 0.5: 1.5 and -1.5.
    assert reward_margins(policy, reference, 0.5).tolist() == [1.5, -1.5]
    expected = [math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(1.5))]
    assert dpo_loss(policy, reference, 0.5).tolist() == pytest.approx(expected, abs=1e-6)


@given(
    scores=st.lists(st.floats(-50, 0), min_size=4, max_size=4),
    beta=st.floats(0.01, 1),
)
def test_the_gradient_raises_the_chosen_and_lowers_the_rejected_answer_alike(scores, beta):
    """Section 4: the step is β σ(how wrong the rewards are), towards the chosen and away from the rejected."""
    policy = torch.tensor(scores[:2], dtype=torch.float64)[None].requires_grad_()
    reference = torch.tensor(scores[2:], dtype=torch.float64)[None]
    dpo_loss(policy, reference, beta).sum().backward()
    wrong = torch.sigmoid(-reward_margins(policy.detach(), reference, beta)).item()
    assert policy.grad[0].tolist() == pytest.approx([-beta * wrong, beta * wrong])


def test_log_probabilities_are_of_the_last_answer_and_its_end(draw_gpt, pairs, tokenizer, plain_cpu):
    model = draw_gpt()
    for pair, scores in zip(pairs, score_pairs(model, pairs, tokenizer.pad, 3, plain_cpu), strict=True):
        for row, score in zip((pair.chosen, pair.rejected), scores.tolist(), strict=True):
            ids, n_read = torch.tensor(row.ids), len(row.prompt_ids)
            with torch.no_grad():
                logits = model(ids[None, :-1])[0]
            nats = cross_entropy(logits[n_read - 1 :], ids[n_read:], reduction="sum").item()
            assert score == pytest.approx(-nats, abs=1e-3)
            assert tokenizer.decode(row.ids[n_read:]) == row.messages[-1].content + IM_END


def test_earlier_answers_of_a_prompt_do_not_count(draw_gpt, make_task, tokenizer, plain_cpu):
    prompt = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    by_split = {split: [Preference(prompt, "d", "e")] for split in SPLITS}
    task = make_task("dpo", {"max_tokens": 48})
    (pair,) = prepare_pairs(by_split, task, tokenizer, draw_gpt().config)[0]["val"]
    model, ids = draw_gpt(), torch.tensor(pair.chosen.ids)
    with torch.no_grad():
        nats = cross_entropy(model(ids[None, :-1])[0][-2:], ids[-2:], reduction="sum").item()
    assert pair_log_probabilities(model, [pair], tokenizer.pad, plain_cpu)[0, 0].item() == pytest.approx(
        -nats, abs=1e-4
    )


def test_rows_become_preferences_or_say_why_not(make_task):
    task = make_task("dpo")
    row = {"prompt": "go", "chosen": " rain ", "rejected": "river"}
    assert to_preference(row, task) == PREFERENCES[0]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "go"}]
    asked = [Message("system", "Be brief."), Message("user", "go")]
    assert to_preference(row | {"prompt": messages}, task).prompt == asked
    with pytest.raises(RowError, match=r"^wanted two answers that differ in chosen and rejected$"):
        to_preference(row | {"rejected": "rain"}, task)
    with pytest.raises(RowError, match=r"^rejected: wanted text, given none$"):
        to_preference(row | {"rejected": " "}, task)


def test_pairs_of_which_one_row_is_too_long_are_dropped_and_counted(make_task, draw_gpt, tokenizer):
    long = Preference(PREFERENCES[0].prompt, "rain", "rain " * 50)
    by_split = dict.fromkeys(SPLITS, PREFERENCES) | {"train": [*PREFERENCES, long]}
    config = draw_gpt().config
    pairs, counts = prepare_pairs(by_split, make_task("dpo"), tokenizer, config)
    assert counts == {"rows": dict.fromkeys(SPLITS, 4), "dropped_too_long": 1}
    assert pairs["train"] == pairs["val"]
    with pytest.raises(UserError, match=r"^rows.csv: wanted rows of at most 40 tokens in val, given none$"):
        prepare_pairs(by_split | {"val": [long]}, make_task("dpo"), tokenizer, config)
    with pytest.raises(UserError, match=r"^max_tokens: wanted at most the base's context of 48, given 49$"):
        prepare_pairs(by_split, make_task("dpo", {"max_tokens": 49}), tokenizer, config)


def _train(scratch, machine, draw_gpt, task, pairs: list[Pair], reference: torch.Tensor | None = None):
    if reference is None:
        reference = score_pairs(draw_gpt(), pairs, 1, 2, machine)
    by_split, scores = dict.fromkeys(SPLITS, pairs), dict.fromkeys(SPLITS, reference)
    return train_preferences(draw_gpt, by_split, scores, task, task.training, 1, 1, machine, scratch, "dpo")


def test_preferences_are_learned(tmp_path, make_task, draw_gpt, pairs, plain_cpu):
    task = make_task("dpo", {"training.epochs": 30.0})
    reference = score_pairs(draw_gpt(), pairs, 1, 2, plain_cpu)
    before = preference_figures(reference, reference, task.beta, 1)
    assert (before["reward_margin"], before["chosen_log_ratio"]) == (0.0, 0.0)
    assert before["chosen_is_likelier"] < 1
    trained = _train(tmp_path, plain_cpu, draw_gpt, task, pairs)
    after = preference_figures(score_pairs(trained.model, pairs, 1, 2, plain_cpu), reference, task.beta, 1)
    assert after["chosen_is_likelier"] == 1.0
    assert after["reward_margin"] > 1
    assert trained.curve.rows[0]["train_loss"] > 10 * trained.curve.best()["val_loss"]


def test_the_first_loss_is_log_2_and_that_of_val_is_what_the_curve_says(
    tmp_path, make_task, draw_gpt, pairs, plain_cpu
):
    task = make_task("dpo", {"training.n_evals": 1})
    trained = _train(tmp_path, plain_cpu, draw_gpt, task, pairs)
    assert trained.curve.rows[0]["train_loss"] == pytest.approx(math.log(2), abs=1e-5)
    reference = score_pairs(draw_gpt(), pairs, 1, 2, plain_cpu)
    policy = score_pairs(trained.model, pairs, 1, 2, plain_cpu)
    loss = dpo_loss(policy, reference, task.beta).mean().item()
    assert trained.curve.rows[0]["val_loss"] == pytest.approx(loss, abs=1e-4)


def test_a_batch_is_held_against_its_own_references(tmp_path, make_task, draw_gpt, pairs, plain_cpu, monkeypatch):
    """Batches are shuffled, and each pair's reference has to go with it."""
    task = make_task("dpo", {"training.batch_size": 2, "training.epochs": 3.0, "training.learning_rates": [1e-9]})
    reference = score_pairs(draw_gpt(), pairs, 1, 2, plain_cpu)
    seen = []

    def loss(policy, of_base, beta):
        seen.append((policy.detach(), of_base))
        return dpo_loss(policy, of_base, beta)

    monkeypatch.setattr(prefer, "dpo_loss", loss)
    _train(tmp_path, plain_cpu, draw_gpt, task, pairs)
    assert len(seen) > 6
    for policy, of_base in seen:
        torch.testing.assert_close(policy, of_base, atol=1e-3, rtol=0)
    assert len({round(float(value), 3) for value in reference.flatten()}) == reference.numel()


def test_the_figures_by_hand():
    policy = torch.tensor([[-1.0, -2.0], [-4.0, -2.0], [-3.0, -3.5], [-1.0, -1.0]])
    reference = torch.tensor([[-2.0, -2.0], [-2.0, -2.0], [-2.0, -2.0], [-2.0, -2.0]])
    figures = preference_figures(policy, reference, 0.5, 1)
    assert figures["chosen_is_likelier"] == 0.5
    assert figures["chosen_is_likelier_low"] < 0.5 < figures["chosen_is_likelier_high"]
    assert figures["reward_margin"] == pytest.approx(0.5 * (1 - 2 + 0.5 + 0) / 4, abs=1e-5)
    assert figures["chosen_log_ratio"] == pytest.approx((1 - 2 - 1 + 1) / 4, abs=1e-5)


def test_an_input_comes_behind_the_prompt(make_task, tmp_path):
    rows = [
        {"instruction": "Add.", "input": f"{n}" if n % 2 else "", "chosen": f"{n}", "rejected": "?"} for n in range(9)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    task = make_task(
        "dpo", {"prompt_column": "instruction", "input_column": "input", "split_column": None, "on_error": "skip"}
    )
    found, counts = read_preferences(tmp_path / "rows.json", task, 1)
    asked = {of.chosen: of.prompt[0].content for part in found.values() for of in part}
    assert asked == {f"{n}": f"Add.\n\n{n}" if n % 2 else "Add." for n in range(9)}
    assert counts["skipped"] == {}
