"""Read the metrics of all stages: one shape for every view of them.

    metrics/evaluate.json  {"test": {"model": {"bits_per_byte": 1.2, "bits_per_byte_low": 1.1, …}}, "quality": …}
    Metrics.systems("evaluate", "test")  →  {"model": {"bits_per_byte": Score(1.2, 1.1, 1.3)}}

The interval of a metric is in the keys METRIC_low and METRIC_high beside it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llm.core.errors import UserError

SPLITS = ("train", "val", "test")
NOT_METRICS = ("runtime/", "details/")  # folders in the folder of metrics
NO_DOCSTRINGS = "the corpus has no docstrings"  # why the tasks that `label` makes of docstrings are skipped


class Score(NamedTuple):
    """A metric of a system with its 95% interval, if it has one."""

    value: Any
    low: float | None = None
    high: float | None = None

    def show(self, digits: int = 4) -> str:
        """Return the value and its interval as text.

        >>> Score(1.18, 1.171, 1.19).show(2), Score(0.5).show(), Score(1234).show(), Score("better").show()
        ('1.18 [1.17, 1.19]', '0.5000', '1,234', 'better')
        """
        if not isinstance(self.value, float):
            return f"{self.value:,}" if isinstance(self.value, int) else str(self.value)
        interval = "" if self.low is None else f" [{self.low:z.{digits}f}, {self.high:z.{digits}f}]"
        return f"{self.value:z.{digits}f}{interval}"


class Files(dict[str, dict[str, Any]]):
    """The content of JSON files by stage; a stage without a file is a UserError."""

    def __missing__(self, stage: str) -> dict[str, Any]:
        raise UserError(f"{stage}.json: expected a metrics file, it is missing; run dvc repro")


class Metrics:
    """The metrics of a run, and the details, by stage; those of tasks as finetune/TASK."""

    def __init__(self, content: Mapping[str, Any], details: Mapping[str, Any] | None = None):
        self.content, self.details = Files(content), Files(details or {})

    def systems(self, stage: str, split: str) -> dict[str, dict[str, Score]]:
        """Return the scores of a stage on a split by system and metric, empty where it has none."""
        found = self.content.get(stage, {}).get(split, {})
        return {system: fold_intervals(metrics) for system, metrics in found.items()}

    def splits(self) -> list[str]:
        """Return the splits that were evaluated, test last."""
        return [split for split in SPLITS if self.content.get("evaluate", {}).get(split)]

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return the metrics of each finetuning task, without the tasks of docstrings where there are none."""
        found = {name: of for name, of in self.content.items() if name.startswith("finetune/")}
        return {name.removeprefix("finetune/"): of for name, of in found.items() if of.get("skipped") != NO_DOCSTRINGS}

    def of_tasks(self, tasks: Mapping[str, Any]) -> "Metrics":
        """Return the metrics without those of other tasks; UserError for a task without any."""
        content, details = (
            {name: of for name, of in files.items() if "/" not in name or name.partition("/")[2] in tasks}
            for files in (self.content, self.details)
        )
        return Metrics(content | {f"finetune/{name}": self.content[f"finetune/{name}"] for name in tasks}, details)


def read_metrics(folder: Path) -> Metrics:
    """Read every file of metrics and of details under a folder; none are no error."""
    content = {name: of for name, of in _read_folder(folder).items() if not name.startswith(NOT_METRICS)}
    return Metrics(content, _read_folder(folder / "details"))


def _read_folder(folder: Path) -> dict[str, Any]:
    paths = sorted(folder.rglob("*.json"))
    return {path.relative_to(folder).with_suffix("").as_posix(): read_json(path) for path in paths}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; UserError where the file has none."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a JSON file of a run, got {type(error).__name__}; run dvc repro") from None
    return content


def fold_intervals(metrics: Mapping[str, Any]) -> dict[str, Score]:
    """Join each metric with its `_low` and `_high`.

    >>> fold_intervals({"bits": 1.18, "bits_low": 1.171, "bits_high": 1.19, "tokens": 12})
    {'bits': Score(value=1.18, low=1.171, high=1.19), 'tokens': Score(value=12, low=None, high=None)}
    """
    ends = {f"{key}{end}" for key in metrics for end in ("_low", "_high")}
    names = [key for key in metrics if key not in ends]
    return {key: Score(metrics[key], metrics.get(f"{key}_low"), metrics.get(f"{key}_high")) for key in names}


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return every value of nested mappings by its dotted key; an empty mapping is a value.

    >>> flatten({"model": {"d_model": 192, "layers": [1, 2], "none": {}}, "seed": 1})
    {'model.d_model': 192, 'model.layers': [1, 2], 'model.none': {}, 'seed': 1}
    """
    flat: dict[str, Any] = {}
    for key, value in content.items():
        is_section = isinstance(value, dict) and value
        flat |= flatten(value, f"{prefix}{key}.") if is_section else {f"{prefix}{key}": value}
    return flat
