import json

import numpy as np
import pytest

from llm.evaluate.bootstrap import ratio_interval
from llm.evaluate.breakdown import (
    BETTER,
    LOSSY,
    NO_INTERVAL,
    SEES_THE_FUTURE,
    WITHIN,
    WORSE,
    Baselines,
    compare_with_baselines,
    read_baselines,
    summarise_best,
)

SIZES = np.full(40, 100)
HARD = np.random.default_rng(1).gamma(4.0, 50.0, size=40)  # bits of each document, 2 bits a byte
NOISE = np.random.default_rng(2).normal(0.0, 3.0, size=40)


def _compare(bits, n_bytes=SIZES, sees_the_future=False, is_lossless=True, **theirs):
    totals = {name: round(float(own.sum()) / n_bytes.sum(), 5) for name, own in theirs.items()}
    rows = compare_with_baselines(bits, n_bytes, Baselines(totals, theirs), np.random.default_rng(1))
    return rows, summarise_best(rows, sees_the_future, is_lossless)


@pytest.mark.parametrize(
    ("bits", "verdict"),
    [
        (HARD - 10 + NOISE, BETTER),
        (HARD + NOISE - NOISE.mean(), WITHIN),
        (HARD, WITHIN),
        (HARD + 10 + NOISE, WORSE),
        (HARD - 0.1, BETTER),  # a little less, in each single document
        (np.where(np.arange(40) == 7, HARD - 400, HARD), WITHIN),  # one document alone
    ],
    ids=["better", "chance", "equal", "worse", "a little, always", "much, once"],
)
def test_the_verdict_is_whether_the_interval_has_0_in_it(bits, verdict):
    _, summary = _compare(bits, xz=HARD)
    assert (summary["best_baseline"], summary["verdict"]) == ("xz", verdict)
    assert summary["bits_per_byte_difference"] == pytest.approx((bits - HARD).mean() / 100, abs=2e-5)
    assert summary["bits_per_byte_difference_low"] <= summary["bits_per_byte_difference_high"]


def test_pairs_find_what_two_intervals_do_not():
    bits = HARD - 10 + NOISE
    (row,), _ = _compare(bits, xz=HARD)
    own, theirs = (ratio_interval(of, SIZES, np.random.default_rng(1)) for of in (bits, HARD))
    assert own[1] > theirs[0]
    assert row["difference_high"] < 0


def test_one_document_has_a_difference_and_no_interval():
    (row,), summary = _compare(HARD[:1] - 10, SIZES[:1], xz=HARD[:1])
    assert row["difference"] == summary["bits_per_byte_difference"] == pytest.approx(-0.1, abs=1e-4)
    assert not {"difference_low", "bits_per_byte_difference_low"} & {*row, *summary}
    assert summary["verdict"] == NO_INTERVAL


def test_the_best_baseline_may_have_no_bits_of_documents():
    baselines = Baselines({"unigram": 3.0, "bzip2": 1.5, "xz": 2.0}, {"unigram": HARD, "xz": HARD})
    rows = compare_with_baselines(HARD, SIZES, baselines, np.random.default_rng(1))
    assert [row["baseline"] for row in rows] == ["bzip2", "xz", "unigram"]
    assert (summarise_best(rows, False, True)["best_baseline"], summarise_best(rows, False, True)["verdict"]) == (
        "bzip2",
        NO_INTERVAL,
    )
    assert "difference_low" in rows[1]
    assert _compare(HARD) == ([], {})


@pytest.mark.parametrize(
    ("sees_the_future", "is_lossless", "reason"),
    [(False, True, None), (True, True, SEES_THE_FUTURE), (False, False, LOSSY), (True, False, SEES_THE_FUTURE)],
)
def test_a_comparison_of_unlike_figures_is_not_valid(sees_the_future, is_lossless, reason):
    assert _compare(HARD - 10, SIZES, sees_the_future, is_lossless, xz=HARD)[1]["verdict"] == (reason or BETTER)


def test_baselines_are_read_by_split(tmp_path, write_document_bits):
    totals = {"val": {"xz": {"bits_per_byte": 1.5}}, "test": {"bzip2": {"bits_per_byte": 2.0}}}
    (tmp_path / "b.json").write_text(json.dumps(totals))
    write_document_bits(tmp_path / "b.parquet", {"val": {"xz": [1.0, 2.0]}, "test": {"xz": [3.0]}})
    found = read_baselines(tmp_path / "b.json", tmp_path / "b.parquet")
    assert {split: of.bits_per_byte for split, of in found.items()} == {"val": {"xz": 1.5}, "test": {"bzip2": 2.0}}
    assert [of.document_bits["xz"].tolist() for of in found.values()] == [[1.0, 2.0], [3.0]]
