"""Three processes run `_member` below, once for all tests; each leaves what it saw in a file, and the tests look."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from llm.train.sharded import ShardedLoss, unsharded

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.train import parallel
from llm.train.batches import IGNORED
from llm.train.checkpoint import Checkpoint
from llm.train.language import LanguageLoss, split_loss
from llm.train.launch import launch
from llm.train.loop import TrainConfig, train
from llm.train.params import OptimizerParams, ScheduleParams

ROOT = Path(__file__).resolve().parents[2]
N, ROWS, STEPS = 3, 6, 7
CONFIG = ModelConfig(
    family="qwen3",
    attention="grouped",
    positions=None,
    d_model=20,
    n_layers=2,
    n_heads=2,
    n_kv_heads=1,
    d_ff=28,
    dropout=0.0,
    rope_theta=1000.0,
    norm_eps=1e-6,
    tie_embeddings=True,
    vocab_size=31,
    context_length=11,
)
MACHINE = Machine("cpu", "float32", threads=1, compiler=False, torch_version="any")
PLAN = TrainConfig(
    n_steps=STEPS,
    optimizer=OptimizerParams(kind="muon", muon_lr=0.02, adamw_lr=0.01, weight_decay=0.01, max_grad_norm=1.0),
    schedule=ScheduleParams(kind="wsd", warmup_steps=2, decay_fraction=0.5, final_lr_fraction=0.0),
    eval_every_steps=3,
    checkpoint_every_steps=2,
    checkpoint_selection="last",
    label="test",
)
MUON = replace(PLAN, weight_averaging="ema", ema_half_life_fraction=0.2, checkpoint_selection="best")
ADAMW = replace(PLAN, optimizer=PLAN.optimizer.model_copy(update={"kind": "adamw", "weight_decay": 0.1}))
PLANS = {"muon": MUON, "adamw": ADAMW}
LOWER = ("embedding", "blocks.0", "blocks.1.attention.key")  # some weights, to be frozen


class _KilledError(Exception):
    pass


def _batch(step, rows=ROWS):
    """Rows whose targets count to different lengths, the later the more."""
    drawn = torch.Generator().manual_seed(step)
    ids = torch.randint(0, 9, (rows, CONFIG.context_length + 1), generator=drawn)
    target = ids[:, 1:].clone()
    for row in range(rows):
        target[row, 1 + row * 2 :] = IGNORED
    return ids[:, :-1], target


def _learn(plan, state=None, sharded=False, kill_at=None, rows_at_once=2, frozen=()):
    """Train a fresh model; its weights and its curve."""
    gpt = GPT(CONFIG, torch.Generator().manual_seed(1))
    for name, weight in gpt.named_parameters():
        weight.requires_grad_(not name.startswith(frozen))
    loss = ShardedLoss(gpt, MACHINE) if sharded else LanguageLoss(gpt, MACHINE, compiled=False)
    checks = [_batch(100 + number, rows=2) for number in range(4)]

    def step_losses(step):
        if step == kill_at:
            raise _KilledError
        ids, target, share = parallel.own_rows(*_batch(step))
        for part in split_loss(loss, ids, target, rows_at_once):
            yield part * share

    def val_loss():
        own = sum(loss(*check).item() * counts for check, counts in parallel.round_robin_shard(checks))
        return parallel.sum_over_processes(own) / len(checks)

    state = state if parallel.is_main() else None
    curve = train(gpt, step_losses, val_loss, plan, MACHINE, state)
    gpt = unsharded(gpt) if sharded else gpt
    return {name: weight.detach().clone() for name, weight in gpt.named_parameters()}, curve.rows


def _member(folder):
    """What one process does and sees."""
    seen = {"processes": (parallel.n_processes(), Machine.find().processes), "main": parallel.is_main()}
    own = parallel.rank() + 1
    seen["sum"] = parallel.sum_over_processes(own / 10)
    seen["broadcast_from_rank0"] = parallel.broadcast_from_rank0(
        {"rank": parallel.rank(), "weights": torch.full((2,), own)}
    )
    seen["signals"] = [parallel.share_signals([]), parallel.share_signals([15] if own == 2 else [])]
    ids, target, share = parallel.own_rows(*_batch(0))
    seen["rows"] = ids, target, share
    seen["turns"] = list(parallel.round_robin_shard("abcd"))
    parallel.refuse_if_nodes_differ(seed=1)
    try:
        parallel.refuse_if_nodes_differ(seed=7, model=own == 2)
    except UserError as error:
        seen["refused"] = str(error)
    weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (5,), (4, 1))]
    for number, weight in enumerate(weights[:2]):
        weight.grad = torch.full(weight.shape, 10.0**number * own)
    if own == 3:
        weights[0].grad = None
    parallel.BUCKET_ELEMENTS = 8
    parallel.sum_gradients(weights)
    seen["gradients"] = [weight.grad for weight in weights]

    seen["learned"] = {}
    for name, plan in PLANS.items():
        for sharded in (False, True):
            kind = "sharded" if sharded else "whole"
            seen["learned"][name, kind] = _learn(plan, sharded=sharded)
            state = Checkpoint(folder / f"{name} {kind} {parallel.rank()}")
            try:
                _learn(plan, state, sharded, kill_at=5)
            except _KilledError:
                seen["learned"][name, kind, "resumed"] = _learn(plan, state, sharded)
    seen["learned"]["frozen"] = _learn(MUON, frozen=LOWER)
    torch.save(seen, folder / f"seen {parallel.rank()}")


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    environment = {"PYTHONPATH": str(ROOT), "NPROC": str(N), "OMP_NUM_THREADS": "1", "GROUNDUP_DEVICE": "cpu"}
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(
        command, env=os.environ | environment, check=False, capture_output=True, timeout=120, text=True
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"seen {rank}", weights_only=True) for rank in range(N)] + [done.stderr]


def test_each_process_knows_how_many_there_are_and_which_is_the_first(seen):
    assert [one["processes"] for one in seen[:N]] == [(N, N)] * N
    assert [one["main"] for one in seen[:N]] == [True, False, False]


def test_a_sum_is_the_same_everywhere(seen):
    assert [one["sum"] for one in seen[:N]] == [seen[0]["sum"]] * N
    assert seen[0]["sum"] == pytest.approx(0.6)


def test_the_first_ones_value_reaches_all(seen):
    for one in seen[:N]:
        assert one["broadcast_from_rank0"]["rank"] == 0
        assert one["broadcast_from_rank0"]["weights"].tolist() == [1, 1]


def test_a_signal_to_one_is_a_signal_to_all(seen):
    assert [one["signals"] for one in seen[:N]] == [[[], [15]]] * N


def test_the_rows_are_shared_out_and_weigh_as_much_as_they_have_targets(seen):
    ids, target = _batch(0)
    assert torch.equal(torch.cat([one["rows"][0] for one in seen[:N]]), ids)
    assert torch.equal(torch.cat([one["rows"][1] for one in seen[:N]]), target)
    assert [one["rows"][2] for one in seen[:N]] == pytest.approx([4 / 36, 12 / 36, 20 / 36])


def test_what_goes_round_is_had_once_and_each_has_equally_many(seen):
    turns = [one["turns"] for one in seen[:N]]
    assert {len(own) for own in turns} == {2}
    assert sorted(item for own in turns for item, counts in own if counts) == list("abcd")


def test_gradients_are_summed_and_a_missing_one_is_zeros(seen):
    for one in seen[:N]:
        first, second, third = one["gradients"]
        assert torch.equal(first, torch.full((2, 3), 3.0))
        assert torch.equal(second, torch.full((5,), 60.0))
        assert torch.equal(third, torch.zeros(4, 1))


def test_what_differs_between_nodes_is_refused_by_all(seen):
    told = "environment: wanted the same params and inputs on every node, given more than one model"
    assert [one["refused"] for one in seen[:N]] == [told] * N


def _same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _assert_close(learned, expected):
    torch.testing.assert_close(learned[0], expected[0], atol=2e-4, rtol=1e-3)
    assert [row["step"] for row in learned[1]] == [row["step"] for row in expected[1]] == [3, 6, 7]
    for row, other in zip(learned[1], expected[1], strict=True):
        assert row == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("kind", ["whole", "sharded"])
@pytest.mark.parametrize("plan", PLANS)
def test_many_processes_learn_what_one_does(seen, plan, kind):
    _assert_close(seen[0]["learned"][plan, kind], _learn(PLANS[plan], rows_at_once=ROWS))


@pytest.mark.parametrize("kind", ["whole", "sharded"])
@pytest.mark.parametrize("plan", PLANS)
def test_all_processes_end_with_the_same_weights_and_the_same_curve(seen, plan, kind):
    weights, rows = seen[0]["learned"][plan, kind]
    for one in seen[1:N]:
        assert _same(one["learned"][plan, kind][0], weights)
        assert one["learned"][plan, kind][1] == rows


@pytest.mark.parametrize("kind", ["whole", "sharded"])
@pytest.mark.parametrize("plan", PLANS)
def test_a_resumed_run_ends_in_the_same_bytes(seen, plan, kind):
    whole, resumed = seen[0]["learned"][plan, kind], seen[0]["learned"][plan, kind, "resumed"]
    assert _same(resumed[0], whole[0])
    assert resumed[1] == whole[1]
    assert "test: resumed at step 4" in seen[N]


def test_many_processes_learn_what_one_does_where_some_weights_are_frozen(seen):
    learned = seen[0]["learned"]["frozen"]
    _assert_close(learned, _learn(MUON, rows_at_once=ROWS, frozen=LOWER))
    before = dict(GPT(CONFIG, torch.Generator().manual_seed(1)).named_parameters())
    for name, weight in learned[0].items():
        assert torch.equal(weight, before[name]) is name.startswith(LOWER)
    assert all(_same(one["learned"]["frozen"][0], learned[0]) for one in seen[1:N])


def test_only_the_first_process_shows_its_progress_and_keeps_a_state(seen):
    assert seen[N].count("test: resumed at step 4") == 2 * len(PLANS)


def test_a_single_process_tells_nobody_anything():
    assert (parallel.n_processes(), parallel.rank(), parallel.is_main()) == (1, 0, True)
    assert parallel.sum_over_processes(0.1) == 0.1
    value = object()
    assert parallel.broadcast_from_rank0(value) is value
    came = [2]
    assert parallel.share_signals(came) is came
    assert parallel.share_signals([]) == []
    batch = _batch(0)
    assert all(own is given for own, given in zip(parallel.own_rows(*batch), batch, strict=False))
    assert parallel.own_rows(*batch)[2] == 1
    assert list(parallel.round_robin_shard("ab")) == [("a", True), ("b", True)]
    weight = torch.nn.Parameter(torch.ones(2))
    parallel.sum_gradients([weight])
    assert weight.grad is None
    parallel.refuse_if_nodes_differ(seed=1)
    tensor = torch.ones(2)
    assert parallel.full_tensor([{"weight": tensor}])[0]["weight"] is tensor
    assert parallel.local_shard(tensor, weight) is tensor


if __name__ == "__main__":
    launch(_member, Path(sys.argv[1]))
