"""The loss by hand, the direction of its gradient, pairs with their own references."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from llm.core.errors import UserError
from llm.finetune.data.messages import RowError
from llm.finetune.dpo import job as dpo
from llm.finetune.dpo.job import (
    Pair,
    dpo_loss,
    make_objective,
    make_pair,
    preference_figures,
    prepare_pairs,
    read_preferences,
    reward_margins,
    score_pairs,
    to_preference,
)
from llm.finetune.shared.chat import Message
from llm.finetune.shared.job import Base, Run, fit
from llm.tokens.special import IM_END

SPLITS = ("train", "val", "test")
ASKED = [("go", "rain", "river"), ("walk the path", "names, if", "no"), ("hm", "on", "The river runs.")]
ASKED += [("a", "b", "c")]


def preference(prompt: list[Message], chosen: str, rejected: str):
    return [*prompt, Message("assistant", chosen)], [*prompt, Message("assistant", rejected)]


PREFERENCES = [preference([Message("user", user)], *answers) for user, *answers in ASKED]


@pytest.fixture(scope="module")
def pairs(tokenizer) -> list[Pair]:
    return [make_pair(of, tokenizer) for of in PREFERENCES]


def test_the_loss_by_hand():
    policy, reference = torch.tensor([[-1.0, -5.0], [-4.0, -2.0]]), torch.tensor([[-3.0, -4.0], [-3.0, -4.0]])
    # Log-ratios: 2 and -1, -1 and 2; margins at β = 0.5: 1.5 and -1.5.
    assert reward_margins(policy, reference, 0.5).tolist() == [1.5, -1.5]
    expected = [math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(1.5))]
    assert dpo_loss(policy, reference, 0.5).tolist() == pytest.approx(expected, abs=1e-6)


@given(scores=st.lists(st.floats(-50, 0), min_size=4, max_size=4), beta=st.floats(0.01, 1))
def test_the_gradient_raises_chosen_and_lowers_rejected_alike(scores, beta):
    """Section 4: the step is β σ(−margin), towards the chosen and away from the rejected answer."""
    policy = torch.tensor(scores[:2], dtype=torch.float64)[None].requires_grad_()
    reference = torch.tensor(scores[2:], dtype=torch.float64)[None]
    dpo_loss(policy, reference, beta).sum().backward()
    step = beta * torch.sigmoid(-reward_margins(policy.detach(), reference, beta)).item()
    assert policy.grad[0].tolist() == pytest.approx([-step, step])


@torch.no_grad()
def test_log_probabilities_are_of_the_last_answer_and_its_end(draw_gpt, pairs, tokenizer, plain_cpu):
    talk = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    model, every = draw_gpt(), [*pairs, make_pair(preference(talk, "d", "e"), tokenizer)]
    for pair, scores in zip(every, score_pairs(model, every, tokenizer.pad, 3, plain_cpu), strict=True):
        for row, score in zip(pair, scores.tolist(), strict=True):
            ids, n_prompt = torch.tensor(row.ids), len(row.prompt_ids)
            logits = model(ids[None, :-1])[0]
            nats = cross_entropy(logits[n_prompt - 1 :], ids[n_prompt:], reduction="sum").item()
            assert score == pytest.approx(-nats, abs=1e-3)
            assert tokenizer.decode(row.ids[n_prompt:]) == row.messages[-1].content + IM_END


def test_rows_become_preferences_or_have_a_reason(make_task, tmp_path):
    task = make_task("dpo")
    row = {"prompt": "go", "chosen": " rain ", "rejected": "river"}
    assert to_preference(row, task) == PREFERENCES[0]
    with pytest.raises(RowError, match=r"^expected different answers in chosen and rejected, got equal ones$"):
        to_preference(row | {"rejected": "rain"}, task)
    with pytest.raises(RowError, match=r"^rejected: expected text, got nothing$"):
        to_preference(row | {"rejected": " "}, task)
    rows = [{"ask": "Add.", "more": f"{n}" if n % 2 else "", "chosen": f"{n}", "rejected": "?"} for n in range(9)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    columns = {"prompt_column": "ask", "input_column": "more", "split_column": None}
    found, counts = read_preferences(tmp_path / "rows.json", make_task("dpo", columns), 1)
    asked = {chosen[-1].content: chosen[0].content for part in found.values() for chosen, _ in part}
    assert asked == {f"{n}": f"Add.\n\n{n}" if n % 2 else "Add." for n in range(9)}
    assert counts["dropped"] == {}


def test_a_pair_of_which_one_row_is_too_long_is_dropped(make_task, tokenizer):
    long = preference([Message("user", "go")], "rain", "rain " * 50)
    by_split = dict.fromkeys(SPLITS, PREFERENCES) | {"train": [*PREFERENCES, long]}
    pairs, counts, _ = prepare_pairs(by_split, make_task("dpo"), tokenizer, 48)
    assert counts == {"rows": dict.fromkeys(SPLITS, 4), "dropped": {"too_long": 1}}
    assert pairs["train"] == pairs["val"]
    with pytest.raises(UserError, match=r"^rows.csv: expected rows of at most 40 tokens in val, got none$"):
        prepare_pairs(by_split | {"val": [long]}, make_task("dpo"), tokenizer, 48)


@pytest.fixture
def fit_pairs(tmp_path, make_task, draw_gpt, tokenizer, plain_cpu, pairs):
    """Fit a model to pairs with changed keys; return it with the base's scores."""

    def run(changes: dict):
        task, where = make_task("dpo", changes), Run("dpo", 1, plain_cpu, tmp_path)
        reference = score_pairs(draw_gpt(), pairs, 1, 2, plain_cpu)
        scores, by_split = dict.fromkeys(SPLITS, reference), dict.fromkeys(SPLITS, pairs)
        objective = make_objective(by_split, scores, task, Base(tmp_path, tokenizer, draw_gpt), where)
        return fit(objective, task.method, task.training, where), reference

    return run


def test_preferences_are_learned(fit_pairs, pairs, plain_cpu):
    fitted, reference = fit_pairs({"training.epochs": 30.0})
    policy = score_pairs(fitted.model, pairs, 1, 2, plain_cpu)
    before, after = (preference_figures(of, reference, 0.1, 1) for of in (reference, policy))
    assert (before["reward_margin"], before["chosen_log_ratio"]) == (0.0, 0.0)
    assert before["chosen_is_likelier"] < 1 == after["chosen_is_likelier"]
    assert after["reward_margin"] > 1
    assert fitted.curve.rows[0]["train_loss"] > 10 * fitted.curve.best()["val_loss"]
    assert fitted.curve.best()["val_loss"] == pytest.approx(dpo_loss(policy, reference, 0.1).mean().item(), abs=1e-4)


def test_a_batch_has_its_own_references(fit_pairs, monkeypatch):
    seen = []
    monkeypatch.setattr(dpo, "dpo_loss", lambda *given: seen.append(given) or dpo_loss(*given))
    changes = {"training.batch_size": 2, "training.epochs": 3.0, "training.learning_rates": [1e-9]}
    fitted, reference = fit_pairs(changes)
    assert fitted.curve.rows[0]["train_loss"] == pytest.approx(math.log(2), abs=1e-5)
    for policy, of_base, _ in seen:
        torch.testing.assert_close(policy.detach(), of_base, atol=1e-3, rtol=0)
    assert len({round(float(value), 3) for value in reference.flatten()}) == reference.numel()


def test_the_figures_by_hand():
    policy = torch.tensor([[-1.0, -2.0], [-4.0, -2.0], [-3.0, -3.5], [-1.0, -1.0]])
    reference = torch.full((4, 2), -2.0)
    figures = preference_figures(policy, reference, 0.5, 1)
    assert figures["chosen_is_likelier_low"] < figures["chosen_is_likelier"] == 0.5
    assert figures["reward_margin"] == pytest.approx(0.5 * (1 - 2 + 0.5 + 0) / 4, abs=1e-5)
    assert figures["chosen_log_ratio"] == pytest.approx((1 - 2 - 1 + 1) / 4, abs=1e-5)
