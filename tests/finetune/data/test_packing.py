"""Every row of an epoch stands in one pack, none of which is too long; the seed decides on which."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llm.finetune.data.packing import PackedBatches, first_fit

ROOM = 20
LENGTHS = st.lists(st.integers(1, ROOM), min_size=1, max_size=40)


@given(lengths=LENGTHS, batch_size=st.integers(1, 5), seed=st.integers(0, 9))
def test_every_epoch_has_each_row_once_in_packs_that_fit(lengths, batch_size, seed):
    batches = PackedBatches(lengths, ROOM, batch_size, seed)
    for epoch in range(3):
        steps = [batches.at(epoch * batches.per_epoch + step) for step in range(batches.per_epoch)]
        packs = [pack for step in steps for pack in step]
        assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
        assert all(sum(lengths[row] for row in pack) <= ROOM for pack in packs)
        assert all(len(step) == batch_size for step in steps[:-1])
        assert 1 <= len(steps[-1]) <= batch_size


@given(lengths=LENGTHS)
def test_of_two_packs_one_is_more_than_half_full(lengths):
    packs = first_fit(np.array(lengths), np.argsort(-np.array(lengths), kind="stable"), ROOM)
    filled = sorted(sum(lengths[row] for row in pack) for pack in packs)
    assert len(filled) == 1 or filled[0] + filled[1] > ROOM


def test_the_seed_and_the_step_alone_decide():
    lengths = np.random.default_rng(0).integers(1, ROOM, 60).tolist()
    batches = PackedBatches(lengths, ROOM, 4, 1)
    forth = [batches.at(step) for step in range(2 * batches.per_epoch)]
    again = PackedBatches(lengths, ROOM, 4, 1)
    assert [again.at(step) for step in reversed(range(2 * batches.per_epoch))][::-1] == forth
    assert forth[: batches.per_epoch] != forth[batches.per_epoch :]
    assert [PackedBatches(lengths, ROOM, 4, 2).at(step) for step in range(batches.per_epoch)] != forth[
        : batches.per_epoch
    ]
