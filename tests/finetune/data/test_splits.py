"""Splits are a function of the seed, hold the fractions, leave relatives together, and small files get all three."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.finetune.data.splits import FRACTIONS, draw_splits

SEEDS = st.integers(0, 2**63 - 1)
ROWS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 20).map(str)), min_size=1, max_size=80)


@given(labels=st.lists(st.sampled_from("abc"), min_size=1, max_size=120), seed=SEEDS, labeled=st.booleans())
def test_every_label_has_its_fractions_as_far_as_its_rows_go(labels, seed, labeled):
    labels = labels if labeled else [""] * len(labels)
    splits = draw_splits(len(labels), seed, labels if labeled else None)
    for label in set(labels):
        found = Counter(split for split, of in zip(splits, labels, strict=True) if of == label)
        n = found.total()
        assert found["train"] >= 1
        assert found["test"] + found["val"] >= min(n - 1, 1)
        if n >= 3:
            for split, fraction in FRACTIONS.items():
                assert found[split] == max(1, round(fraction * n))


@given(n_a=st.integers(1, 11), n_b=st.integers(1, 11), seed=SEEDS, grouped=st.booleans())
def test_labels_of_few_rows_are_in_all_splits_where_train_has_both(n_a, n_b, seed, grouped):
    labels = ["a"] * n_a + ["b"] * n_b
    groups = [f"{number}" for number in range(n_a + n_b)] if grouped else None
    splits = draw_splits(len(labels), seed, labels, groups)
    assert {label for label, split in zip(labels, splits, strict=True) if split == "train"} == {"a", "b"}
    assert len(set(splits) - {"train"}) == min(n_a + n_b - 2, 2)


@given(rows=ROWS, seed=SEEDS)
def test_a_group_has_one_split_and_a_label_of_one_group_is_in_train(rows, seed):
    labels, groups = zip(*rows, strict=True)
    splits = draw_splits(len(rows), seed, labels, groups)
    of_group = dict(zip(groups, splits, strict=True))
    assert [of_group[group] for group in groups] == splits.tolist()
    assert {label for label, split in zip(labels, splits, strict=True) if split == "train"} == set(labels)


@given(sizes=st.lists(st.integers(1, 9), min_size=3, max_size=40), seed=SEEDS)
def test_three_groups_or_more_are_enough_for_three_splits(sizes, seed):
    groups = [f"{group}" for group, size in enumerate(sizes) for _ in range(size)]
    assert set(draw_splits(len(groups), seed, groups=groups)) == {"train", "test", "val"}


@pytest.mark.parametrize("n_labels", [1, 3, 20])
@pytest.mark.parametrize("biggest", [2, 5, 60])
def test_with_groups_all_and_each_label_have_the_fractions(n_labels, biggest):
    rng = np.random.default_rng(biggest)
    sizes = rng.integers(1, biggest + 1, 6000 // biggest)
    groups = np.repeat(np.arange(len(sizes)), sizes).astype(str).tolist()
    labels = (rng.integers(0, 1000, len(groups)) % n_labels).astype(str)
    splits, again = (draw_splits(len(groups), 1, labels.tolist(), groups) for _ in range(2))
    assert splits.tolist() == again.tolist()
    for split, fraction in (FRACTIONS | {"train": 0.7}).items():
        assert (splits == split).mean() == pytest.approx(fraction, abs=0.01)
        for label in set(labels):
            assert (splits[labels == label] == split).mean() == pytest.approx(fraction, abs=0.05)


def test_the_longest_label_does_not_set_the_room_of_all():
    labels = ["a" * 50_000_000, *("ab" * 200)]
    assert Counter(draw_splits(401, 1, labels))["train"] == 281
    assert draw_splits(60, 1, labels[1:61]).tolist() != draw_splits(60, 2, labels[1:61]).tolist()
