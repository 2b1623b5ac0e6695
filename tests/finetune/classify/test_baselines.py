"""Baselines by hand, and what holds for a fair one: it learns what words decide, and nothing from test."""

from dataclasses import replace

import numpy as np
import pytest

from llm.finetune.classify.baselines import score_baselines
from llm.finetune.classify.classifier import Prepared, Rows
from llm.finetune.classify.measures import measure

RAIN, RIVER = "the rain falls {}", "a river runs {}"


def _rows(texts: list[list[str]], labels: list) -> Rows:
    return Rows([[7]] * len(texts), texts, np.array(labels, dtype=np.int64))


def _prepared(make, labels: list[str], **sizes: int) -> Prepared:
    return Prepared({split: make(n) for split, n in sizes.items()}, labels, {})


def _rain_and_river(n: int) -> Rows:
    """n rows of rain, twice as many of a river."""
    return _rows(
        [[RAIN.format(i)] for i in range(n)] + [[RIVER.format(i)] for i in range(2 * n)], [0] * n + [1] * 2 * n
    )


def _rain_or_river(n: int) -> Rows:
    """Texts of two parts, each of which is one of the labels, or none; all of them are weather."""
    texts = [[RAIN.format(i) if i % 2 else "none", RIVER.format(i) if i % 3 else "none"] for i in range(n)]
    return _rows(texts, [[int("rain" in a), int("river" in b), 1] for a, b in texts])


SIZES = {"train": 24, "val": 6, "test": 6}
ONE = _prepared(_rain_and_river, ["rain", "river"], **SIZES)
ANY = _prepared(_rain_or_river, ["rain", "river", "weather"], **SIZES)


def test_the_majority_gives_the_shares_of_train():
    rival = score_baselines(ONE, seed=1)["majority"]
    assert rival.setting == {"label": "river"}
    np.testing.assert_allclose(rival.test.probabilities(), [[1 / 3, 2 / 3]] * 18, rtol=1e-6)
    assert measure(rival.test, 1.0, seed=1)["accuracy"] == pytest.approx(2 / 3, abs=1e-4)


def test_the_majority_of_any_number_of_labels_is_each_ones_own():
    rival = score_baselines(ANY, seed=1)["majority"]
    # Of 24 rows 12 are of rain and 16 of a river, and one of either kind is added.
    np.testing.assert_allclose(rival.test.probabilities()[0], [13 / 26, 17 / 26, 25 / 26], rtol=1e-6)
    assert rival.setting == {"label": "river, weather"}
    assert rival.test.predict().tolist() == [[0, 1, 1]] * 6


def test_what_a_word_decides_is_learned_from_either_text():
    for prepared in (ONE, ANY):
        rival = score_baselines(prepared, seed=1)["tfidf"]
        assert rival.val.is_right().all()
        assert rival.test.is_right().all()
        assert (rival.test.actual == prepared.rows["test"].labels).all()


def test_scores_of_one_label_are_log_probabilities():
    three = replace(
        ONE,
        labels=["rain", "river", "snow"],
        rows={split: _rows([["rain"], ["river"], ["snow"]] * 4, [0, 1, 2] * 4) for split in SIZES},
    )
    for prepared in (ONE, three):
        for rival in score_baselines(prepared, seed=1).values():
            np.testing.assert_allclose(np.exp(rival.val.scores).sum(axis=1), 1, rtol=1e-5)


def test_the_strength_is_the_one_that_val_likes_best():
    noisy = replace(
        ONE, rows=ONE.rows | {"val": _rows([[RAIN.format(0)], [RAIN.format(1)], [RIVER.format(1)]], [1, 0, 1])}
    )
    chosen = [score_baselines(prepared, seed=1)["tfidf"].setting for prepared in (ONE, noisy)]
    for setting in chosen:
        tried = setting["val_loss_by_C"]
        assert tried[str(setting["C"])] == min(tried.values())
    assert chosen[0]["C"] == 100
    assert chosen[1]["C"] < 100


@pytest.mark.parametrize("prepared", [ONE, ANY], ids=["one", "any"])
def test_nothing_is_chosen_by_the_labels_of_test(prepared):
    test = prepared.rows["test"]
    other = replace(prepared, rows=prepared.rows | {"test": replace(test, labels=1 - test.labels)})
    for row, rival in score_baselines(prepared, seed=1).items():
        again = score_baselines(other, seed=1)[row]
        assert again.setting == rival.setting
        assert (again.test.scores == rival.test.scores).all()
        assert (again.test.actual == 1 - rival.test.actual).all()
