from pathlib import Path

import pytest

from llm.core import params
from llm.core.errors import UserError
from llm.train.params import PretrainParams

SHIPPED = params.read(Path(__file__).resolve().parents[2] / "params.yaml")["pretrain"]


def _check(**change):
    return params.check(PretrainParams, SHIPPED | change, "pretrain", "params.yaml")


@pytest.mark.parametrize("size", [None, 1, 2, 4, 8])
def test_a_micro_batch_divides_the_batch(size):
    assert _check(batch_size=8, micro_batch_size=size).micro_batch_size == size


@pytest.mark.parametrize("size", [3, 5, 16])
def test_a_micro_batch_that_does_not_is_refused_in_one_line(size):
    with pytest.raises(UserError, match=f"^params.yaml: pretrain: wanted batch_size divisible .* 8 and {size}$"):
        _check(batch_size=8, micro_batch_size=size)


def test_an_early_stop_keeps_the_best_weights():
    assert _check(early_stopping_patience=2, checkpoint_selection="best").early_stopping_patience == 2
    with pytest.raises(
        UserError, match=r"pretrain: wanted keep best where early_stopping_patience .*, given keep last$"
    ):
        _check(early_stopping_patience=2, checkpoint_selection="last")
