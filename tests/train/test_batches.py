import numpy as np
import pytest
import torch

from llm.tokens.windows import Windows
from llm.train.batches import IGNORED, WindowBatches, take_windows

# 13 windows of 3 tokens, 5 tokens apart, so that a window is known by its first token.
N, LENGTH, STRIDE, BATCH = 13, 3, 5, 4
STREAM = np.arange(N * STRIDE, dtype=np.uint16)
STARTS = np.arange(0, N * STRIDE, STRIDE, dtype=np.int64)
PAD = 999


def _windows(stream=STREAM, starts=STARTS, length=LENGTH, weight=1.0):
    n = len(starts)
    return Windows(stream, np.array(starts), np.full(n, length, dtype=np.int32), np.full(n, weight, dtype=np.float32))


def _batches(seed=1, batch_size=BATCH, segmentations=None):
    return WindowBatches(segmentations or [_windows()], LENGTH, batch_size, PAD, seed)


def _order(seed, n_epochs):
    """The starts of the windows, one row an epoch."""
    batches = _batches(seed, batch_size=1)
    return np.array([int(batches.at(step)[0][0, 0]) for step in range(n_epochs * N)]).reshape(n_epochs, N)


def test_the_target_is_the_input_moved_by_one_token():
    ids, target = _batches().at(2)
    assert ids.shape == target.shape == (BATCH, LENGTH)
    assert ids.dtype == target.dtype == torch.int64
    assert torch.equal(target, ids + 1)


@pytest.mark.parametrize("batch_size", [1, 4, 13, 29])
def test_every_window_comes_once_an_epoch_whatever_the_batch(batch_size):
    batches = _batches(batch_size=batch_size)
    firsts = torch.cat([batches.at(step)[0][:, 0] for step in range(N)])
    for epoch in firsts.view(batch_size, N):
        assert sorted(epoch.tolist()) == STARTS.tolist()


def test_a_step_is_the_same_whenever_it_is_asked_for():
    asked_in_order = _batches()
    expected = [asked_in_order.at(step) for step in range(20)]
    asked_anyhow = _batches()
    for step in (19, 3, 3, 0, 11, 2, 18):
        assert all(map(torch.equal, asked_anyhow.at(step), expected[step]))


def test_every_epoch_of_every_seed_has_an_order_of_its_own():
    orders = [tuple(order) for seed in range(5) for order in _order(seed, 5)]
    assert len(set(orders)) == 25


def test_windows_are_not_read_in_the_texts_order():
    assert all((np.diff(order) < 0).any() for order in _order(1, 3))


def test_epochs_are_counted_in_windows_seen():
    assert _batches().epochs(N) == BATCH
    assert _batches().epochs(1) == BATCH / N


def test_a_weight_is_how_often_an_epoch_sees_a_window():
    weights = np.array([2.0, 0.0, *[1.0] * (N - 2)], dtype=np.float32)
    batches = _batches(batch_size=N, segmentations=[_windows()._replace(weights=weights)])
    for epoch in range(3):
        seen = sorted(batches.at(epoch)[0][:, 0].tolist())
        assert seen == sorted([0, 0, *STARTS[2:].tolist()])


def test_epochs_of_uneven_lengths_are_counted_too():
    batches = _batches(batch_size=1, segmentations=[_windows(weight=0.5)])
    firsts = [int(batches.at(step)[0][0, 0]) for step in range(4 * N)]
    assert {first: firsts.count(first) for first in STARTS.tolist()} == dict.fromkeys(STARTS.tolist(), 4)
    assert batches.epochs(N) == 2
    assert batches.epochs(0) == 0


def test_epochs_take_the_segmentations_in_turn():
    other = _windows(stream=STREAM + 100, starts=STARTS[:-1])
    batches = _batches(batch_size=1, segmentations=[_windows(), other])
    firsts = [int(batches.at(step)[0][0, 0]) for step in range(2 * N - 1 + 3)]
    assert sorted(firsts[:N]) == STARTS.tolist()
    assert sorted(firsts[N : 2 * N - 1]) == (STARTS[:-1] + 100).tolist()
    assert set(firsts[2 * N - 1 :]) <= set(STARTS.tolist())


def test_windows_may_overlap_and_do_not_change_the_stream():
    windows = _windows(starts=[7, 8])
    ids, target = take_windows([(windows, 0), (windows, 1)], LENGTH, PAD)
    assert ids.tolist() == [[7, 8, 9], [8, 9, 10]]
    assert target.tolist() == [[8, 9, 10], [9, 10, 11]]
    ids += 100
    assert STREAM[7] == 7


def test_a_short_window_is_filled_up_and_its_filling_does_not_count():
    windows = _windows(starts=[7], length=2)
    ids, target = take_windows([(windows, 0)], 4, PAD)
    assert ids.tolist() == [[7, 8, PAD, PAD]]
    assert target.tolist() == [[8, 9, IGNORED, IGNORED]]


def test_ids_beyond_16_bits_stay_what_they_are():
    stream = np.array([1, 70_000, 3_000_000_000], dtype=np.uint32)
    ids, target = take_windows([(_windows(stream, [0], 2), 0)], 2, PAD)
    assert ids.tolist() + target.tolist() == [[1, 70_000], [70_000, 3_000_000_000]]
