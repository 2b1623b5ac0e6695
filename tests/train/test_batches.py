"""Batches as a pure function of the step; epochs that have each window as often as its weight says."""

import numpy as np
import pytest
import torch

from llm.model.functions import IGNORED
from llm.tokens.windows import Windows
from llm.train.batches import WindowBatches, take_windows, validation_batches

# 13 windows of 3 tokens, 5 tokens apart, so that a window has its own first token.
N, LENGTH, STRIDE, BATCH = 13, 3, 5, 4
STREAM = np.arange(N * STRIDE, dtype=np.uint16)
STARTS = np.arange(0, N * STRIDE, STRIDE, dtype=np.int64)
PAD = 999


def _windows(stream=STREAM, starts=STARTS, length=LENGTH, weight=1.0):
    n = len(starts)
    return Windows(stream, np.array(starts), np.full(n, length, dtype=np.int32), np.full(n, weight, dtype=np.float32))


def _batches(seed=1, batch_size=BATCH, segmentations=None):
    return WindowBatches(segmentations or [_windows()], LENGTH, batch_size, PAD, seed)


def _firsts(batches, n_steps):
    return torch.cat([batches.at(step)[0][:, 0] for step in range(n_steps)]).tolist()


@pytest.mark.parametrize("batch_size", [1, 4, 13, 29])
def test_an_epoch_has_every_window_once(batch_size):
    batches = _batches(batch_size=batch_size)
    firsts = np.reshape(_firsts(batches, N), (batch_size, N))
    assert all(sorted(epoch) == STARTS.tolist() for epoch in firsts)
    assert batches.epochs(N) == batch_size
    assert batches.epochs(1) == batch_size / N


def test_a_step_is_the_same_in_any_order_of_calls():
    in_order, any_order = _batches(), _batches()
    expected = [in_order.at(step) for step in range(20)]
    for step in (19, 3, 3, 0, 11, 2, 18):
        assert all(map(torch.equal, any_order.at(step), expected[step]))


def test_every_epoch_of_every_seed_has_its_own_random_order():
    orders = [tuple(np.reshape(_firsts(_batches(seed, 1), 5 * N), (5, N))[e]) for seed in range(5) for e in range(5)]
    assert len(set(orders)) == 25
    assert tuple(STARTS) not in orders


def test_a_weight_is_how_often_an_epoch_sees_a_window():
    weights = np.array([2.0, 0.0, *[1.0] * (N - 2)], dtype=np.float32)
    batches = _batches(batch_size=N, segmentations=[_windows()._replace(weights=weights)])
    for epoch in range(3):
        assert sorted(batches.at(epoch)[0][:, 0].tolist()) == sorted([0, 0, *STARTS[2:].tolist()])
    half = _batches(batch_size=1, segmentations=[_windows(weight=0.5)])
    firsts = _firsts(half, 4 * N)
    assert {first: firsts.count(first) for first in STARTS.tolist()} == dict.fromkeys(STARTS.tolist(), 4)
    assert (half.epochs(N), half.epochs(0)) == (2, 0)


def test_epochs_take_the_segmentations_in_turn():
    other = _windows(stream=STREAM + 100, starts=STARTS[:-1])
    firsts = _firsts(_batches(batch_size=1, segmentations=[_windows(), other]), 2 * N + 2)
    assert sorted(firsts[:N]) == STARTS.tolist()
    assert sorted(firsts[N : 2 * N - 1]) == (STARTS[:-1] + 100).tolist()
    assert set(firsts[2 * N - 1 :]) <= set(STARTS.tolist())


@pytest.mark.parametrize(
    ("windows", "length", "ids", "target"),
    [
        (_windows(starts=[7, 8]), 3, [[7, 8, 9], [8, 9, 10]], [[8, 9, 10], [9, 10, 11]]),
        (_windows(starts=[7], length=2), 4, [[7, 8, PAD, PAD]], [[8, 9, IGNORED, IGNORED]]),
        (
            _windows(np.array([1, 70_000, 3_000_000_000], dtype=np.uint32), [0], 2),
            2,
            [[1, 70_000]],
            [[70_000, 3 * 10**9]],
        ),
    ],
)
def test_the_target_is_the_input_shifted_by_one(windows, length, ids, target):
    given = take_windows([(windows, number) for number in range(len(ids))], length, PAD)
    assert [tensor.tolist() for tensor in given] == [ids, target]
    assert {tensor.dtype for tensor in given} == {torch.int64}


@pytest.mark.parametrize(("max_windows", "sizes"), [(5, [4]), (8, [4, 4]), (99, [4, 4, 4]), (3, [3])])
def test_validation_windows_are_evenly_spaced(max_windows, sizes):
    batches = validation_batches(_windows(), LENGTH, BATCH, PAD, max_windows)
    assert [len(ids) for ids, _ in batches] == sizes
    firsts = [int(first) for ids, _ in batches for first in ids[:, 0]]
    assert firsts == [STRIDE * (n * N // len(firsts)) for n in range(len(firsts))]
    assert validation_batches(_windows(starts=[]), LENGTH, BATCH, PAD, max_windows) == []
