"""Derive the values that params.yaml leaves null because they follow from other values: every rule, once.

    sample.context_length: 256  →  sample.stride 256, evaluate.stride 192, memorise.prefix_tokens 64, …
    pretrain.max_steps: 2600    →  pretrain.schedule.warmup_steps 50, pretrain.eval_every_steps 200, …

A stage calls `derive` with what it reads itself, such as the context length of its model, so that DVC tracks it. Two
more values are derived where they need files: `max_tokens` of a finetuning task (llm/finetune/params.py) from its rows,
and the shape of a model under `pretrain.init_from` (llm/export/hf/base.py) from the folder.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

N_EVALS = 12  # about, in a run
MAX_UNSAVED_STEPS = 500  # of a killed run


class Rule(NamedTuple):
    """The key that a value is derived from, and how."""

    source: str
    of: Callable[[int], int]


def one_digit(value: float) -> int:
    """Round to one significant digit, down to 0.

    >>> [one_digit(value) for value in (0.4, 8.3, 52, 216.7, 8333)]
    [0, 8, 50, 200, 8000]
    """
    return round(float(f"{value:.1g}"))


def warmup_steps(max_steps: int) -> int:
    """Return 2% of the steps, and in a short run up to 5 of its first tenth.

    >>> [warmup_steps(n) for n in (10, 60, 540, 2600, 10_000, 100_000)]
    [1, 5, 10, 50, 200, 2000]
    """
    return max(one_digit(max_steps / 50), min(5, max_steps // 10))


def eval_every_steps(max_steps: int) -> int:
    """Return the interval with which a run has about `N_EVALS` evaluations.

    >>> [eval_every_steps(n) for n in (10, 60, 540, 2600, 10_000, 100_000)]
    [1, 5, 40, 200, 800, 8000]
    """
    return max(1, one_digit(max_steps / N_EVALS))


def _part_of_context(numerator: int, denominator: int) -> Rule:
    return Rule("sample.context_length", lambda context: max(1, context * numerator // denominator))


RULES = {
    "sample.stride": _part_of_context(1, 1),
    "pretrain.schedule.warmup_steps": Rule("pretrain.max_steps", warmup_steps),
    "pretrain.eval_every_steps": Rule("pretrain.max_steps", eval_every_steps),
    "pretrain.checkpoint_every_steps": Rule(
        "pretrain.max_steps", lambda max_steps: min(eval_every_steps(max_steps), MAX_UNSAVED_STEPS)
    ),
    "evaluate.stride": _part_of_context(3, 4),
    "evaluate.quality.prompt_tokens": _part_of_context(3, 16),
    "memorise.prefix_tokens": _part_of_context(1, 4),
    "cloze.context_tokens": _part_of_context(3, 8),
}


def derive(key: str, source: int, stated: int | None = None) -> int:
    """Return the stated value of a key, or the derived one if it is null.

    >>> derive("evaluate.stride", 256), derive("evaluate.stride", 256, stated=10)
    (192, 10)
    """
    return RULES[key].of(source) if stated is None else stated


def fill(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a params file with derived values in place of null; sections that are missing stay so."""
    filled = copy.deepcopy(content)
    for key, rule in RULES.items():
        *above, last = key.split(".")
        section, source = _inside(filled, above), _inside(filled, rule.source.split("."))
        if isinstance(section, dict) and isinstance(source, int):
            section[last] = derive(key, source, section.get(last))
    return filled


def _inside(content: Any, names: list[str]) -> Any:
    for name in names:
        content = content.get(name) if isinstance(content, dict) else None
    return content
