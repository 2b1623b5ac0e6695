"""Rows in batches: each once, alike in length, and a matter of the seed alone."""

import numpy as np
import pytest
import torch

from llm.finetune.data.batches import RowBatches, in_order, pad

LENGTHS = np.random.default_rng(3).integers(1, 200, 137).tolist()


@pytest.mark.parametrize("batch_size", [1, 7, 137, 500])
def test_each_row_comes_once_in_an_epoch(batch_size):
    batches = RowBatches(LENGTHS, batch_size, seed=1)
    for epoch in range(3):
        steps = range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch)
        rows = [row for step in steps for row in batches.at(step)]
        assert sorted(rows) == list(range(len(LENGTHS)))


def test_no_batch_is_larger_than_wanted():
    batches = RowBatches(LENGTHS, 8, seed=1)
    assert {len(batches.at(step)) for step in range(batches.per_epoch)} == {8, len(LENGTHS) % 8}


def test_a_step_has_the_same_rows_whichever_was_asked_before():
    batches = RowBatches(LENGTHS, 8, seed=1)
    forwards = [batches.at(step) for step in range(60)]
    assert [batches.at(step) for step in reversed(range(60))] == forwards[::-1]
    assert RowBatches(LENGTHS, 8, seed=1).at(41) == forwards[41]


def test_another_epoch_and_another_seed_have_another_order():
    batches = RowBatches(LENGTHS, 8, seed=1)
    epochs = [[batches.at(epoch * batches.per_epoch + step) for step in range(batches.per_epoch)] for epoch in (0, 1)]
    other = RowBatches(LENGTHS, 8, seed=2)
    assert epochs[0] != epochs[1]
    assert epochs[0] != [other.at(step) for step in range(other.per_epoch)]


def test_rows_of_a_batch_are_alike_in_length():
    batches = RowBatches(LENGTHS, 8, seed=1)
    filled = sum(max(LENGTHS[row] for row in rows) * len(rows) for rows in map(batches.at, range(batches.per_epoch)))
    assert filled < 1.2 * sum(LENGTHS)


def test_in_order_takes_each_row_once_the_short_ones_first():
    rows = [row for batch in in_order(LENGTHS, 8) for row in batch]
    assert sorted(rows) == list(range(len(LENGTHS)))
    assert [LENGTHS[row] for row in rows] == sorted(LENGTHS)


def test_padding_stands_on_the_right():
    assert torch.equal(pad([[5, 6], [7], [8, 9, 10]], 1), torch.tensor([[5, 6, 1], [7, 1, 1], [8, 9, 10]]))
