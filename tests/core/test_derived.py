"""Derived values: today's numbers at the default, sensible ones elsewhere, and never in place of a stated one."""

from pathlib import Path

import pytest

from llm.core import params
from llm.core.derived import RULES, derive, fill

SHIPPED = params.read(Path(__file__).resolve().parents[2] / "params.yaml")
DEFAULT = {"context_length": 256, "max_steps": 2600}
VALUES = {
    "sample.stride": 256,
    "pretrain.schedule.warmup_steps": 50,
    "pretrain.eval_every_steps": 200,
    "pretrain.checkpoint_every_steps": 200,
    "evaluate.stride": 192,
    "evaluate.quality.prompt_tokens": 48,
    "memorise.prefix_tokens": 64,
    "cloze.context_tokens": 96,
}


def test_the_rules_at_a_context_of_256_and_2600_steps() -> None:
    assert {key: rule.of(DEFAULT[rule.source.split(".")[1]]) for key, rule in RULES.items()} == VALUES


@pytest.mark.parametrize("n", [1, 2, 3, 7, 50, 64, 100, 1023, 100_000])
def test_values_are_possible_for_any_source(n: int) -> None:
    found = {key: derive(key, n) for key in RULES}
    warmup = found.pop("pretrain.schedule.warmup_steps")
    assert 0 <= warmup <= n // 10
    assert {key for key, value in found.items() if not 1 <= value <= n} == set()
    assert found["pretrain.checkpoint_every_steps"] <= 500


@pytest.mark.parametrize(("n_steps", "most"), [(50, 13), (2600, 15), (100_000, 15)])
def test_a_run_has_about_a_dozen_evaluations(n_steps: int, most: int) -> None:
    assert 10 <= n_steps // derive("pretrain.eval_every_steps", n_steps) <= most


def test_a_stated_value_stays() -> None:
    assert derive("evaluate.stride", 256, stated=1) == 1
    content = {"sample": {"context_length": 64, "stride": 3}, "pretrain": {"max_steps": 60}}
    content["evaluate"] = {"stride": None}
    filled = fill(content)
    assert filled["sample"] == {"context_length": 64, "stride": 3}
    assert filled["evaluate"] == {"stride": 48}
    assert filled["pretrain"] == {"max_steps": 60, "eval_every_steps": 5, "checkpoint_every_steps": 5}
    assert content["evaluate"] == {"stride": None}


def test_the_shipped_file_leaves_every_derived_value_to_its_rule() -> None:
    assert [key for key in RULES if params.find(SHIPPED, key, Path("params.yaml")) is not None] == []
