"""The figures in README.md and docs/, written from the last run's metrics by `python -m llm figures`.

A page holds blocks between two comments. Each block has a name here, and nothing else of a page is touched:

    <!-- figures: bits per byte -->
    | bits per byte, less is better | val | test |
    …
    <!-- end of figures -->
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llm.core.errors import UserError
from llm.report.evaluate import QUALITY
from llm.report.glossary import title
from llm.report.markdown import table

BLOCK = re.compile(r"<!-- figures: (?P<name>[^\n]+?) -->\r?\n.*?<!-- end of figures -->", re.DOTALL)
Writer = Callable[[Path], list[str]]


def write_figures(page: Path, metrics: Path, summary: str) -> None:
    """Replace each block of a page by what the metrics say now; raise UserError for a block that has no such name."""
    content = page.read_bytes().decode() if page.is_file() else ""
    if not BLOCK.search(content):
        raise UserError(f"{page}: expected <!-- figures: NAME --> and <!-- end of figures -->, got no such block")
    ends = "\r\n" if "\r\n" in content else "\n"

    def written(found: re.Match[str]) -> str:
        name = found["name"]
        if name != "summary" and name not in WRITERS:
            raise UserError(f"{page}: expected a block of {', '.join(['summary', *WRITERS])}, got {name}")
        try:
            lines = _console(summary) if name == "summary" else WRITERS[name](metrics)
        except KeyError as error:
            raise UserError(f"{metrics}: expected {error} for the block {name}, got none; run dvc repro") from None
        return ends.join([f"<!-- figures: {name} -->", *lines, "<!-- end of figures -->"])

    page.write_bytes(BLOCK.sub(written, content).encode())


def _console(summary: str) -> list[str]:
    # A fence is longer than any in the text.
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", summary)), default=0))
    return [f"{fence}console", "$ make repro", "…", *summary.rstrip("\n").split("\n"), fence]


def _run(metrics: Path) -> list[str]:
    runtime = {path.stem: json.loads(path.read_bytes()) for path in (metrics / "runtime").glob("*.json")}
    seconds = sum(of["seconds"] for of in runtime.values())
    peak = max(of["peak_memory_mb"] for of in runtime.values()) / 1000
    tasks = sorted(name for name in runtime if name.startswith("finetune-"))
    stages = [*STAGES[: STAGES.index("card")], *tasks, "card", "report"]
    each = ", ".join(f"{name} {runtime[name]['seconds']:.0f}" for name in stages if name in runtime)
    return [
        f"On two cores without a GPU its stages took {seconds // 60:.0f} minutes {seconds % 60:.0f} seconds, and "
        f"{peak:.1f} GB of memory at most.",
        f"Seconds by stage: {each}.",
    ]


def _bits_per_byte(metrics: Path) -> list[str]:
    evaluation, baselines = _read(metrics / "evaluate.json"), _read(metrics / "baselines.json")
    splits = [split for split in ("val", "test") if split in evaluation]
    names = sorted(baselines[splits[-1]], key=lambda name: float(baselines[splits[-1]][name]))
    rows = [["**this model**", *(_interval(evaluation[split], "bits_per_byte") for split in splits)]]
    rows += [[name.replace("_", " "), *(f"{baselines[split][name]:.3f}" for split in splits)] for name in names]
    found = evaluation[splits[-1]]
    best, pretrain = found["best_baseline"].replace("_", " "), _read(metrics / "pretrain.json")
    return [
        *table(["bits per byte, less is better", *splits], rows),
        "",
        f"This model less {best}, on the same documents of {splits[-1]}: "
        f"**{_interval(found, 'bits_per_byte_difference')}**, {found['verdict']}. The model has "
        f"{pretrain['parameters']:,} parameters and saw {pretrain['tokens_seen']:,} tokens, {pretrain['epochs']:.2f} "
        "of the training text.",
    ]


def _quality(metrics: Path) -> list[str]:
    found = _read(metrics / "evaluate.json")["quality"]
    measures = [name for name in QUALITY[2:] if name in found["true"]]
    rows = [[title(name).name, *(_interval(found[of], name) for of in ("model", "true"))] for name in measures]
    return table([f"{found['texts']} continuations of {found['split']}", "this model", "the true ones"], rows)


def _library(metrics: Path) -> list[str]:
    rows = sorted(_read(metrics / "finetune/library.json")["test"].items(), key=lambda row: -row[1]["accuracy"])
    cells = [
        [name.replace("_", " "), _interval(of, "accuracy"), f"{of['macro_f1']:.3f}", f"{of['log_loss']:.3f}"]
        for name, of in rows
    ]
    return table(["task `library`, test", "accuracy", "macro-F1", "log loss"], cells)


def _docstring(metrics: Path) -> list[str]:
    bits = _read(metrics / "finetune/docstring.json")["test"]["answer_bits_per_byte"]
    saved = 1 - bits["after"] / bits["before"]
    return [
        f"Task `docstring`: {bits['before']:.3f} bits per byte of the held-out answers before finetuning, "
        f"{bits['after']:.3f} after ({saved:.0%} fewer)."
    ]


def _learning_curve(metrics: Path) -> list[str]:
    points = [_renamed(point) for point in _read(metrics / "learning_curve/library.json")["points"]]
    rows = [
        [name.replace("_", " ")]
        + [f"{of['accuracy_mean']:.3f} ± {of['accuracy_std']:.3f}" for of in points if of["system"] == name]
        for name in dict.fromkeys(point["system"] for point in points)
    ]
    fractions = {point["fraction"]: point["rows"] for point in points}
    head = [f"{fraction:.0%} ({n_rows:,} rows)" for fraction, n_rows in fractions.items()]
    return table(["accuracy on test, mean ± std over seeds", *head], rows)


def _renamed(point: dict[str, Any]) -> dict[str, Any]:
    """Read a point of a metrics file with the old keys too; to be deleted after the next `make learning-curve`."""
    if "system" in point:
        return point
    accuracy = {f"accuracy_{name}": value for name, value in point["accuracy"].items()}
    return {"system": point["row"], "fraction": point["share"], "rows": point["rows"], **accuracy}


WRITERS: Mapping[str, Writer] = {
    "run": _run,
    "bits per byte": _bits_per_byte,
    "quality": _quality,
    "library": _library,
    "docstring": _docstring,
    "learning curve": _learning_curve,
}
STAGES = ["prepare", "label", "tokenize", "sample", "pretrain", "baselines", "evaluate", "memorise", "cloze", "export"]
STAGES += ["card", "report"]


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected the metrics of a run, got none ({error}); run dvc repro") from None
    return found


def _interval(of: dict[str, Any], name: str) -> str:
    ends = f" [{of[f'{name}_low']:.3f}, {of[f'{name}_high']:.3f}]" if f"{name}_low" in of else ""
    return f"{of[name]:.3f}{ends}"
