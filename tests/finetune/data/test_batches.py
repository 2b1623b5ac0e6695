"""Batches and packs hold every row once per epoch and depend on the seed and the step alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.finetune.data.batches import RowBatches, by_length, first_fit, pad

ROOM = 20
LENGTHS = st.lists(st.integers(1, ROOM), min_size=1, max_size=60)
FIXED = np.random.default_rng(3).integers(1, ROOM, 137).tolist()


@given(lengths=LENGTHS, batch_size=st.integers(1, 9), seed=st.integers(0, 9), room=st.sampled_from([None, ROOM]))
def test_an_epoch_has_each_row_once(lengths, batch_size, seed, room):
    batches = RowBatches(lengths, batch_size, seed, room)
    for epoch in range(3):
        steps = [batches.at(epoch * batches.per_epoch + step) for step in range(batches.per_epoch)]
        assert sorted(map(len, steps))[1:] == [batch_size] * (len(steps) - 1)
        packs = [pack if room else [pack] for step in steps for pack in step]
        assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
        assert all(sum(lengths[row] for row in pack) <= ROOM for pack in packs)


@pytest.mark.parametrize("room", [None, ROOM])
def test_the_seed_and_the_step_alone_decide(room):
    batches, again, other = (RowBatches(FIXED, 4, seed, room) for seed in (1, 1, 2))
    n = batches.per_epoch
    steps = [batches.at(step) for step in range(2 * n)]
    assert [again.at(step) for step in reversed(range(2 * n))][::-1] == steps
    assert steps[:n] not in (steps[n:], [other.at(step) for step in range(n)])


def test_rows_of_a_batch_have_similar_lengths():
    batches = RowBatches(FIXED, 8, seed=1)
    steps = [[FIXED[row] for row in batches.at(step)] for step in range(batches.per_epoch)]
    assert sum(max(lengths) * len(lengths) for lengths in steps) < 1.1 * sum(FIXED)
    assert [FIXED[row] for batch in by_length(FIXED, 8) for row in batch] == sorted(FIXED)


@given(lengths=LENGTHS)
def test_no_two_packs_would_fit_in_one(lengths):
    packs = first_fit(np.array(lengths), np.argsort(-np.array(lengths), kind="stable"), ROOM)
    filled = sorted(sum(lengths[row] for row in pack) for pack in packs)
    assert len(filled) == 1 or filled[0] + filled[1] > ROOM


def test_rows_are_padded_on_the_right():
    assert torch.equal(pad([[5, 6], [7], [8, 9, 10]], 1), torch.tensor([[5, 6, 1], [7, 1, 1], [8, 9, 10]]))
