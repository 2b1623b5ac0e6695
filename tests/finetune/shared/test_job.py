"""Learning rates are searched on val, the best weights stay, and a killed run ends in the same bytes."""

import pytest
import torch

from llm.finetune.shared.job import Objective, Run, fit
from llm.model import kernels
from llm.model.functions import next_token_loss
from llm.train.checkpoint import Checkpoint

N_STEPS = 70  # the state is saved every 50
IDS = torch.randint(0, 320, (40, 9), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def fit_gpt(draw_gpt, make_task, plain_cpu):
    """Fit a language model; return it with the loss on val, the number of bases loaded and of steps."""

    def run(scratch, kind="full", rates=(0.02,), kill_at: int | None = None, **changes):
        loaded, steps = [], []

        def load():
            loaded.append(draw_gpt())
            return loaded[-1]

        def loss(model, rows):
            return next_token_loss(model(rows[:, :-1]), rows[:, 1:])

        def step_loss(model, step):
            if len(steps) == kill_at:
                raise KeyboardInterrupt
            steps.append(step)
            return loss(model, IDS[step % 8 * 4 : step % 8 * 4 + 4])

        def val_loss(model):
            with torch.no_grad():
                return loss(model, IDS[32:]).item()

        own = {"learning_rates": list(rates), "n_evals": 7, "epochs": 1.0, "lr_search_fraction": 0.5} | changes
        task = make_task("classify", {f"training.{key}": value for key, value in own.items()} | {"method.kind": kind})
        objective = Objective(load, step_loss, val_loss, N_STEPS)
        fitted = fit(objective, task.method, task.training, Run("gpt", 3, plain_cpu, scratch))
        return fitted, val_loss, len(loaded), len(steps)

    return run


# At the end of a search, and in the run after its first checkpoint.
@pytest.mark.parametrize("kill_at", [35, 130])
def test_the_best_rate_is_used_and_resumed_equals_uninterrupted(tmp_path, fit_gpt, kill_at):
    whole, _, n_loaded, n_steps = fit_gpt(tmp_path / "whole", rates=(0.001, 0.02))
    losses = whole.setting["val_loss_by_learning_rate"]
    assert whole.setting["learning_rate"] == 0.02
    assert [*losses] == ["0.001", "0.02"]
    assert losses["0.02"] < losses["0.001"]
    assert (n_loaded, n_steps) == (3, 2 * N_STEPS // 2 + N_STEPS)
    with pytest.raises(KeyboardInterrupt):
        fit_gpt(tmp_path / "killed", rates=(0.001, 0.02), kill_at=kill_at)
    resumed, _, _, n_resumed = fit_gpt(tmp_path / "killed", rates=(0.001, 0.02))
    assert all(map(torch.equal, resumed.model.parameters(), whole.model.parameters()))
    assert (resumed.curve, resumed.setting) == (whole.curve, whole.setting)
    assert n_resumed <= n_steps - 35


@pytest.mark.parametrize("kind", ["full", "lora", "dora", "head", "last_k_blocks"])
def test_every_method_trains_its_part_and_resumes(tmp_path, fit_gpt, draw_gpt, plain_cpu, kind):
    whole, val_loss, n_loaded, n_steps = fit_gpt(tmp_path / "whole", kind)
    assert (whole.setting["val_loss_by_learning_rate"], n_loaded, n_steps) == ({}, 1, N_STEPS)
    state = Checkpoint(tmp_path / "whole" / f"{plain_cpu.key()}{kernels.key()}" / "gpt").load()
    before, after = (dict(model.named_parameters()) for model in (draw_gpt(), whole.model))
    assert [*after] == [*before]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # What is checkpointed is what is trained; adapters have names of their own.
    saved = {name.rsplit(".", 1)[0] for name in state["best"]} - {"head"}  # which is tied
    assert saved == {name.rsplit(".", 1)[0] for name in changed}
    assert val_loss(whole.model) == pytest.approx(whole.curve.best()["val_loss"], abs=2e-5)
    with pytest.raises(KeyboardInterrupt):
        fit_gpt(tmp_path / "killed", kind, kill_at=60)
    resumed = fit_gpt(tmp_path / "killed", kind)[0]
    assert all(map(torch.equal, resumed.model.parameters(), whole.model.parameters()))


def test_a_run_ends_where_val_does_not_improve(tmp_path, fit_gpt):
    fitted, _, _, n_steps = fit_gpt(tmp_path, rates=(0.3,), early_stopping_patience=2, n_evals=35)
    losses = [row["val_loss"] for row in fitted.curve.rows]
    assert losses.index(min(losses)) == len(losses) - 3
    assert n_steps == len(losses) * 2 < N_STEPS


def test_low_blocks_change_less_with_a_layerwise_decay(tmp_path, fit_gpt, draw_gpt):
    before, moved = dict(draw_gpt().named_parameters()), []
    for decay in (1.0, 0.01):
        model = fit_gpt(tmp_path / str(decay), layerwise_lr_decay=decay)[0].model
        moved.append({name: (weight - before[name]).norm().item() for name, weight in model.named_parameters()})
    ratios = [of["blocks.0.feed_forward.up.weight"] / of["blocks.1.feed_forward.up.weight"] for of in moved]
    assert 0.5 < ratios[0] < 2
    assert 0.005 < ratios[1] < 0.02
