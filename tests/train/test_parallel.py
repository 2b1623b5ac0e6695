"""Three processes run `_member` below, once for all tests; each saves what it has seen in a file."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.model.config import ModelConfig
from llm.model.functions import IGNORED
from llm.model.gpt import GPT
from llm.train import parallel
from llm.train.checkpoint import Checkpoint
from llm.train.language import LanguageLoss, ShardedLoss, split_loss, unsharded
from llm.train.launch import launch
from llm.train.loop import TrainConfig, train
from llm.train.params import OptimizerParams, ScheduleParams

ROOT = Path(__file__).resolve().parents[2]
N, ROWS, STEPS = 3, 6, 7
SHAPE = {"family": "qwen3", "attention": "grouped", "positions": None, "d_model": 20, "n_layers": 2, "n_heads": 2}
SHAPE |= {"n_kv_heads": 1, "d_ff": 28, "dropout": 0.0, "rope_theta": 1000.0, "norm_eps": 1e-6}
CONFIG = ModelConfig(**SHAPE, tie_embeddings=True, vocab_size=31, context_length=11)
MACHINE = Machine("cpu", "float32", threads=1, compiler=False, torch_version="any")
TRAINING = TrainConfig(
    n_steps=STEPS,
    optimizer=OptimizerParams(kind="muon", muon_lr=0.02, adamw_lr=0.01, weight_decay=0.01, max_grad_norm=1.0),
    schedule=ScheduleParams(kind="wsd", warmup_steps=2, decay_fraction=0.5, final_lr_fraction=0.0),
    weight_averaging="ema",
    ema_half_life_fraction=0.2,
    tail_fraction=1.0,
    eval_every_steps=3,
    early_stopping_patience=None,
    checkpoint_every_steps=2,
    checkpoint_selection="best",
    label="test",
)
FROZEN = ("embedding", "blocks.0", "blocks.1.attention.key")


class _KilledError(Exception):
    pass


def _batch(step, rows=ROWS):
    """Return rows with different numbers of targets, the later the more."""
    ids = torch.randint(0, 9, (rows, CONFIG.context_length + 1), generator=torch.Generator().manual_seed(step))
    target = ids[:, 1:].clone()
    for row in range(rows):
        target[row, 1 + row * 2 :] = IGNORED
    return ids[:, :-1], target


def _train(checkpoint=None, sharded=False, kill_at=None, micro_batch_size=2, frozen=()):
    """Train a fresh model; return its weights and its curve."""
    # Random: where the embedding has a constant channel and is frozen, the gradient of that channel's norm is rounding.
    gpt = GPT(CONFIG, torch.Generator().manual_seed(1), "random")
    for name, weight in gpt.named_parameters():
        weight.requires_grad_(not name.startswith(frozen))
    loss = ShardedLoss(gpt, MACHINE) if sharded else LanguageLoss(gpt, MACHINE, compiled=False)
    checks = [_batch(100 + number, rows=2) for number in range(4)]

    def step_losses(step):
        if step == kill_at:
            raise _KilledError
        ids, target, share = parallel.shard_rows(*_batch(step))
        for part in split_loss(loss, ids, target, micro_batch_size):
            yield part * share

    def val_loss():
        own = sum(loss(*check).item() * counts for check, counts in parallel.round_robin_shard(checks))
        return parallel.sum_over_processes(own) / len(checks)

    curve = train(gpt, step_losses, val_loss, TRAINING, MACHINE, None if parallel.rank() else checkpoint)
    gpt = unsharded(gpt) if sharded else gpt
    return {name: weight.detach().clone() for name, weight in gpt.named_parameters()}, curve.rows


def _signals_during_an_exchange(rank):
    """Receive a signal in one process just after its part of an exchange was sent."""
    received, all_reduce = [], parallel.dist.all_reduce

    def late(*args, **options):
        all_reduce(*args, **options)
        if rank == 1:
            received.append(15)

    parallel.dist.all_reduce = late
    first = list(parallel.share_signals(received))
    parallel.dist.all_reduce = all_reduce
    return first, list(parallel.share_signals(received))


def _member(folder):
    """Call every collective, then train."""
    rank = parallel.rank()
    seen = {"processes": (parallel.n_processes(), Machine.find().processes), "rank": rank}
    seen["sum"] = parallel.sum_over_processes((rank + 1) / 10)
    seen["broadcast"] = parallel.broadcast_from_rank0({"rank": rank, "weights": torch.full((2,), rank + 1)})
    seen["signals"] = [parallel.share_signals([]), parallel.share_signals([15] if rank == 1 else [])]
    seen["late signal"] = _signals_during_an_exchange(rank)
    seen["rows"] = parallel.shard_rows(*_batch(0))
    seen["round robin"] = list(parallel.round_robin_shard("abcd"))
    parallel.check_same_on_all_nodes(seed=1)
    try:
        parallel.check_same_on_all_nodes(seed=7, model=rank == 1)
    except UserError as error:
        seen["refused"] = str(error)
    weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (5,), (4, 1))]
    for number, weight in enumerate(weights[:2]):
        weight.grad = torch.full(weight.shape, 10.0**number * (rank + 1))
    if rank == 2:
        weights[0].grad = None
    parallel.sum_gradients(weights)
    seen["gradients"] = [weight.grad for weight in weights]
    seen["trained"] = {"frozen": _train(frozen=FROZEN)}
    for sharded in (False, True):
        seen["trained"][sharded] = _train(sharded=sharded)
        checkpoint = Checkpoint(folder / f"{sharded} {rank}")
        try:
            _train(checkpoint, sharded, kill_at=5)
        except _KilledError:
            seen["trained"][sharded, "resumed"] = _train(checkpoint, sharded)
    torch.save(seen, folder / f"seen {rank}")


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    environment = {"PYTHONPATH": str(ROOT), "NPROC": str(N), "OMP_NUM_THREADS": "1", "GROUNDUP_DEVICE": "cpu"}
    command, options = [sys.executable, __file__, str(folder)], {"capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run(command, env=os.environ | environment, check=False, **options)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"seen {rank}", weights_only=True) for rank in range(N)], done.stderr


@pytest.fixture(scope="module")
def seen(output):
    return output[0]


def test_each_process_has_a_rank(seen):
    assert [(one["processes"], one["rank"]) for one in seen] == [((N, N), rank) for rank in range(N)]


def test_sums_and_broadcasts_are_the_same_everywhere(seen):
    assert [one["sum"] for one in seen] == [seen[0]["sum"]] * N
    assert seen[0]["sum"] == pytest.approx(0.6)
    assert [(one["broadcast"]["rank"], one["broadcast"]["weights"].tolist()) for one in seen] == [(0, [1, 1])] * N


def test_all_processes_agree_on_a_signal(seen):
    assert [one["signals"] for one in seen] == [[[], [15]]] * N
    # Where one process alone stopped, its next collective would meet another one of the others.
    assert [one["late signal"] for one in seen] == [([], [15])] * N


def test_rows_are_divided_and_weigh_as_their_targets(seen):
    for number, expected in enumerate(_batch(0)):
        assert torch.equal(torch.cat([one["rows"][number] for one in seen]), expected)
    assert [one["rows"][2] for one in seen] == pytest.approx([4 / 36, 12 / 36, 20 / 36])


def test_round_robin_gives_each_item_once_and_equally_many(seen):
    assert {len(one["round robin"]) for one in seen} == {2}
    assert sorted(item for one in seen for item, counts in one["round robin"] if counts) == list("abcd")


def test_gradients_are_summed_and_a_missing_one_is_zeros(seen):
    expected = [torch.full((2, 3), 3.0), torch.full((5,), 60.0), torch.zeros(4, 1)]
    assert all(all(map(torch.equal, one["gradients"], expected)) for one in seen)


def test_a_difference_between_nodes_is_refused_by_all(seen):
    expected = "environment: expected the same params and inputs on every node, got different model"
    assert [one["refused"] for one in seen] == [expected] * N


def _same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("case", [False, True, "frozen"])
def test_several_processes_learn_what_one_does(seen, case):
    frozen = FROZEN if case == "frozen" else ()
    weights, rows = seen[0]["trained"][case]
    expected_weights, expected_rows = _train(micro_batch_size=ROWS, frozen=frozen)
    torch.testing.assert_close(weights, expected_weights, atol=2e-4, rtol=1e-3)
    assert [row["step"] for row in rows] == [3, 6, 7]
    for row, other in zip(rows, expected_rows, strict=True):
        assert row == pytest.approx(other, abs=1e-4)
    assert all(_same(one["trained"][case][0], weights) and one["trained"][case][1] == rows for one in seen)
    before = dict(GPT(CONFIG, torch.Generator().manual_seed(1), "random").named_parameters())
    if frozen:
        assert {name for name, weight in weights.items() if torch.equal(weight, before[name])} == {
            name for name in weights if name.startswith(frozen)
        }


@pytest.mark.parametrize("sharded", [False, True])
def test_a_resumed_run_ends_in_the_same_bytes(output, sharded):
    trained = output[0][0]["trained"]
    assert _same(trained[sharded, "resumed"][0], trained[sharded][0])
    assert trained[sharded, "resumed"][1] == trained[sharded][1]
    assert output[1].count("test: resumed at step 4") == 2  # rank 0 alone prints


def test_without_a_group_every_collective_returns_its_argument():
    assert (parallel.n_processes(), parallel.rank()) == (1, 0)
    assert parallel.sum_over_processes(0.1) == 0.1
    value, received, batch = object(), [2], _batch(0)
    assert parallel.broadcast_from_rank0(value) is value
    assert parallel.share_signals(received) is received
    assert parallel.shard_rows(*batch)[:2] == batch
    assert parallel.shard_rows(*batch)[2] == 1
    assert list(parallel.round_robin_shard("ab")) == [("a", True), ("b", True)]
    weight, tensor = torch.nn.Parameter(torch.ones(2)), torch.ones(2)
    parallel.sum_gradients([weight])
    assert weight.grad is None
    parallel.check_same_on_all_nodes(seed=1)
    assert parallel.full_tensor([{"weight": tensor}])[0]["weight"] is tensor
    assert parallel.local_shard(tensor, weight) is tensor


SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize(
    ("raised", "error", "expected", "code"),
    [
        ([signal.SIGTERM], None, SystemExit, 143),
        ([signal.SIGINT], None, KeyboardInterrupt, None),
        ([signal.SIGINT, signal.SIGINT], None, KeyboardInterrupt, None),
        ([signal.SIGTERM], ZeroDivisionError, ZeroDivisionError, None),
        ([], None, None, None),
    ],
)
def test_signals_are_deferred_to_the_end_of_the_block(raised, error, expected, code):
    before, notes = [signal.getsignal(number) for number in SIGNALS], []

    def run():
        with parallel.defer_signals() as received:
            for number in raised:
                signal.raise_signal(number)
                notes.append(list(received))
            if error:
                raise error

    if expected is None:
        run()
    else:
        with pytest.raises(expected) as caught:
            run()
        assert getattr(caught.value, "code", None) == code
    assert notes == [[number] for number in raised][:1]  # a second Ctrl-C interrupts at once
    assert [signal.getsignal(number) for number in SIGNALS] == before


if __name__ == "__main__":
    launch(_member, Path(sys.argv[1]))
