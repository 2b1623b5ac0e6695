import numpy as np
import pytest
import torch

from llm.train.batches import WindowBatches, take_windows

# 13 windows of 3 tokens, 5 tokens apart, so that a window is known by its first token.
N, LENGTH, STRIDE, BATCH = 13, 3, 5, 4
STREAM = np.arange(N * STRIDE, dtype=np.uint16)
STARTS = np.arange(0, N * STRIDE, STRIDE, dtype=np.int64)


def _batches(seed=1, batch_size=BATCH):
    return WindowBatches(STREAM, STARTS, LENGTH, batch_size, seed)


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


def test_windows_may_overlap_and_do_not_change_the_stream():
    ids, target = take_windows(STREAM, [7, 8], LENGTH)
    assert ids.tolist() == [[7, 8, 9], [8, 9, 10]]
    assert target.tolist() == [[8, 9, 10], [9, 10, 11]]
    ids += 100
    assert STREAM[7] == 7


def test_ids_beyond_16_bits_stay_what_they_are():
    stream = np.array([1, 70_000, 3_000_000_000], dtype=np.uint32)
    ids, target = take_windows(stream, [0], 2)
    assert ids.tolist() + target.tolist() == [[1, 70_000], [70_000, 3_000_000_000]]
