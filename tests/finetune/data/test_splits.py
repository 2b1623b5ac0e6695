"""Splits are a function of the seed, hold the shares, leave relatives together, and small files get all three."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.finetune.data.splits import FRACTIONS, draw_splits

LABELS = st.lists(st.sampled_from("abc"), min_size=1, max_size=120)
SEEDS = st.integers(0, 2**63 - 1)


def rows_with_groups(draw):
    n_rows = draw(st.integers(1, 80))
    labels = draw(st.lists(st.sampled_from("abcd"), min_size=n_rows, max_size=n_rows))
    groups = draw(st.lists(st.integers(0, 20).map(str), min_size=n_rows, max_size=n_rows))
    return labels, groups


ROWS_WITH_GROUPS = st.composite(rows_with_groups)()


@given(labels=LABELS, seed=SEEDS)
def test_every_label_has_its_share_as_far_as_its_rows_go(labels, seed):
    splits = draw_splits(len(labels), seed, labels)
    for label in set(labels):
        found = Counter(split for split, of in zip(splits, labels, strict=True) if of == label)
        n = found.total()
        assert found["train"] >= 1
        assert found["test"] + found["val"] >= min(n - 1, 1)
        if n >= 3:
            for split, fraction in FRACTIONS.items():
                assert found[split] == max(1, round(fraction * n))


@given(n_rows=st.integers(3, 300), seed=SEEDS)
def test_without_labels_the_shares_are_of_all_rows(n_rows, seed):
    found = Counter(draw_splits(n_rows, seed))
    assert found == {
        "test": (n_test := max(1, round(0.2 * n_rows))),
        "val": (n_val := max(1, round(0.1 * n_rows))),
        "train": n_rows - n_test - n_val,
    }


@given(n_a=st.integers(1, 11), n_b=st.integers(1, 11), seed=SEEDS, grouped=st.booleans())
def test_two_labels_of_a_few_rows_are_in_all_three_splits_where_train_has_both(n_a, n_b, seed, grouped):
    labels = ["a"] * n_a + ["b"] * n_b
    groups = [f"{number}" for number in range(n_a + n_b)] if grouped else None
    splits = draw_splits(len(labels), seed, labels, groups)
    assert {label for label, split in zip(labels, splits, strict=True) if split == "train"} == {"a", "b"}
    n_others = n_a + n_b - 2
    assert len(set(splits) - {"train"}) == min(n_others, 2)


@given(rows=ROWS_WITH_GROUPS, seed=SEEDS)
def test_a_group_has_one_split_and_a_label_of_one_group_is_in_train(rows, seed):
    labels, groups = rows
    splits = draw_splits(len(labels), seed, labels, groups)
    of_group = dict(zip(groups, splits, strict=True))
    assert [of_group[group] for group in groups] == splits.tolist()
    assert {label for label, split in zip(labels, splits, strict=True) if split == "train"} == set(labels)


@given(sizes=st.lists(st.integers(1, 9), min_size=3, max_size=40), seed=SEEDS)
def test_three_groups_or_more_are_enough_for_three_splits(sizes, seed):
    groups = [f"{group}" for group, size in enumerate(sizes) for _ in range(size)]
    assert set(draw_splits(len(groups), seed, groups=groups)) == {"train", "test", "val"}


@pytest.mark.parametrize("n_labels", [1, 3, 20])
@pytest.mark.parametrize("biggest", [2, 5, 60])
def test_with_groups_the_shares_are_held_of_all_and_of_each_label(n_labels, biggest):
    rng = np.random.default_rng(biggest)
    sizes = rng.integers(1, biggest + 1, 6000 // biggest)
    groups = np.repeat(np.arange(len(sizes)), sizes).astype(str).tolist()
    labels = (rng.integers(0, 1000, len(groups)) % n_labels).astype(str)
    splits = draw_splits(len(groups), 1, labels.tolist(), groups)
    for split, fraction in (FRACTIONS | {"train": 0.7}).items():
        assert (splits == split).mean() == pytest.approx(fraction, abs=0.01)
        for label in set(labels):
            assert (splits[labels == label] == split).mean() == pytest.approx(fraction, abs=0.05)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_seed_alone_decides(grouped):
    labels = [f"{number % 3}" for number in range(60)]
    groups = [f"{number // 2}" for number in range(60)] if grouped else None
    one, same, other = (draw_splits(60, seed, labels, groups).tolist() for seed in (1, 1, 2))
    assert one == same != other


def test_the_longest_label_does_not_set_the_room_of_all():
    labels = ["a" * 50_000_000, *("ab" * 200)]
    assert Counter(draw_splits(401, 1, labels))["train"] == 281
