"""Baselines by hand: they learn what words decide, and nothing from test."""

from dataclasses import replace

import numpy as np

from llm.finetune.classify.baselines import score_baselines
from llm.finetune.classify.classifier import Prepared, Rows

RAIN, RIVER = "the rain falls {}", "a river runs {}"
SIZES = {"train": 24, "val": 6, "test": 6}


def rows(texts: list[list[str]], labels: list) -> Rows:
    return Rows([[7]] * len(texts), texts, np.array(labels, dtype=np.int64))


def one_label(n: int) -> Rows:
    """n rows of rain, twice as many of a river."""
    texts = [[RAIN.format(i)] for i in range(n)] + [[RIVER.format(i)] for i in range(2 * n)]
    return rows(texts, [0] * n + [1] * 2 * n)


def any_labels(n: int) -> Rows:
    """Texts of two parts, each of one of the labels or none; all of them are weather."""
    texts = [[RAIN.format(i) if i % 2 else "none", RIVER.format(i) if i % 3 else "none"] for i in range(n)]
    return rows(texts, [[int("rain" in a), int("river" in b), 1] for a, b in texts])


ONE = Prepared({split: one_label(n) for split, n in SIZES.items()}, ["rain", "river"], {}, 32)
ANY = Prepared({split: any_labels(n) for split, n in SIZES.items()}, ["rain", "river", "weather"], {}, 32)


def test_the_majority_has_the_frequencies_of_train():
    found = score_baselines(ONE, seed=1)["majority"]
    assert found.setting == {"label": "river"}
    np.testing.assert_allclose(found.test.probabilities(), [[1 / 3, 2 / 3]] * 18, rtol=1e-6)
    found = score_baselines(ANY, seed=1)["majority"]
    # Of 24 rows 12 have rain and 16 a river; one row with and one without each label is added.
    np.testing.assert_allclose(found.test.probabilities()[0], [13 / 26, 17 / 26, 25 / 26], rtol=1e-6)
    assert found.setting == {"label": "river, weather"}
    assert found.test.predict().tolist() == [[0, 1, 1]] * 6


def test_words_are_learned_and_labels_of_test_are_not_used():
    for prepared in (ONE, ANY):
        test, found = prepared.rows["test"], score_baselines(prepared, seed=1)
        assert found["tfidf"].val.is_right().all()
        assert found["tfidf"].test.is_right().all()
        other = replace(prepared, rows=prepared.rows | {"test": replace(test, labels=1 - test.labels)})
        for name, again in score_baselines(other, seed=1).items():
            assert again.setting == found[name].setting
            assert (again.test.scores == found[name].test.scores).all()


def test_the_regularization_is_chosen_on_val():
    val = rows([[RAIN.format(0)], [RAIN.format(1)], [RIVER.format(1)]], [1, 0, 1])
    settings = [
        score_baselines(prepared, seed=1)["tfidf"].setting
        for prepared in (ONE, replace(ONE, rows=ONE.rows | {"val": val}))
    ]
    for setting in settings:
        assert setting["val_loss_by_C"][str(setting["C"])] == min(setting["val_loss_by_C"].values())
    assert settings[0]["C"] == 100 > settings[1]["C"]
