"""The figures in README.md and docs/, which `python -m llm figures` writes from the last run's metrics.

A page has blocks between two comments; a block has a name of `WRITERS`, and the rest of a page stays as it is:

    <!-- figures: bits per byte -->
    | bits per byte, less is better | val | test |
    …
    <!-- end of figures -->
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from llm.core.errors import UserError
from llm.report import views
from llm.report.experiments import draw_learning_curve, learning_curve_table
from llm.report.metrics import Metrics, read_metrics
from llm.report.tables import Table, fence

BLOCK = re.compile(r"<!-- figures: (?P<name>[^\n]+?) -->\r?\n.*?<!-- end of figures -->", re.DOTALL)
SPINE = (  # the files to read first, in reading order
    *(f"stages/{name}.py" for name in ("prepare", "tokenize", "sample", "pretrain", "evaluate", "export", "finetune")),
    *(f"llm/core/{name}.py" for name in ("stage", "outputs", "params", "tables")),
    *(f"llm/tokens/{name}.py" for name in ("tokenizer", "bpe", "tokenize", "windows", "sample")),
    *(
        f"llm/model/{name}.py"
        for name in ("config", "positions", "functions", "attention", "layers", "gpt", "kv_cache")
    ),
    *(f"llm/train/{name}.py" for name in ("pretrain", "batches", "language", "muon", "optimizers", "loop")),
    *(f"llm/evaluate/{name}.py" for name in ("likelihood", "bootstrap")),
    *(f"llm/finetune/classify/{name}.py" for name in ("classifier", "measures", "job")),
)
PICTURES = ("bits_per_byte.svg", "curve.svg")  # of reports/, which pages show


def write_figures(page: Path, metrics: Path, summary: str) -> None:
    """Replace each block of a page by the current figures; UserError for an unknown block or missing metrics."""
    content = page.read_bytes().decode() if page.is_file() else ""
    if not BLOCK.search(content):
        raise UserError(f"{page}: expected <!-- figures: NAME --> and <!-- end of figures -->, got no such block")
    ends = "\r\n" if "\r\n" in content else "\n"
    found = read_metrics(metrics)
    runtime = {path.stem: json.loads(path.read_bytes()) for path in sorted((metrics / "runtime").glob("*.json"))}
    found.content["runtime"] = runtime
    writers = {"summary": lambda _: fence(f"$ make repro\n…\n{summary.rstrip()}", "console"), **WRITERS}

    def write(block: re.Match[str]) -> str:
        name = block["name"]
        if name not in writers:
            raise UserError(f"{page}: expected a block of {', '.join(writers)}, got {name}")
        try:
            text = writers[name](found)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            problem = f"expected metrics for the block {name}, got none ({error}); run dvc repro"
            raise UserError(f"{metrics}: {problem}") from None
        return ends.join([f"<!-- figures: {name} -->", *text.split("\n"), "<!-- end of figures -->"])

    page.write_bytes(BLOCK.sub(write, content).encode())


def write_pictures(metrics: Path, reports: Path, folder: Path) -> list[Path]:
    """Write the pictures that pages show: copies from reports/, and the learning curve of the task library."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [Path(shutil.copy(reports / name, folder / name)) for name in PICTURES if (reports / name).is_file()]
    if points := read_metrics(metrics).content.get("learning_curve/library"):
        found.append(folder / "learning_curve.svg")
        found[-1].write_text(draw_learning_curve(points), encoding="utf-8")
    return found


def _run(metrics: Metrics) -> str:
    runtime = sorted(metrics.content["runtime"].items(), key=lambda of: -of[1]["seconds"])
    seconds = sum(of["seconds"] for _, of in runtime)
    peak = max(of["peak_memory_mb"] for _, of in runtime) / 1000
    each = ", ".join(f"{name} {of['seconds']:.0f}" for name, of in runtime)
    return (
        f"On two cores without a GPU the stages take {seconds // 60:.0f} minutes {seconds % 60:.0f} seconds, and "
        f"at most {peak:.1f} GB of memory.\nSeconds by stage: {each}."
    )


def _bits_per_byte(metrics: Metrics) -> str:
    split, pretrain = metrics.splits()[-1], metrics.content["pretrain"]
    return (
        f"{views.bits_per_byte(metrics, digits=3)}\n\nOn {split}, {views.difference(metrics, split, digits=3)}. The "
        f"model has {pretrain['parameters']:,} parameters and was trained on {pretrain['tokens_seen']:,} tokens, "
        f"{pretrain['epochs']:.2f} epochs of the training text."
    )


def _docstring(metrics: Metrics) -> str:
    test = metrics.content["finetune/docstring"]["test"]
    before, after = (test[system]["answer_bits_per_byte"] for system in ("before", "after"))
    return (
        f"Task `docstring`: {before:.3f} bits per byte of the held-out answers before finetuning, {after:.3f} after "
        f"({1 - after / before:.0%} fewer)."
    )


def _spine(_: Metrics) -> str:
    lines = {name: len(Path(name).read_text(encoding="utf-8").splitlines()) for name in SPINE}
    rows = [[f"[{name}]({name})", n] for name, n in lines.items()]
    return str(Table(["file", "lines"], [*rows, ["all of them", sum(lines.values())]]))


WRITERS: dict[str, Callable[[Metrics], str]] = {
    "run": _run,
    "spine": _spine,
    "bits per byte": _bits_per_byte,
    "quality": lambda metrics: str(views.quality(metrics, digits=3)),
    "library": lambda metrics: str(views.task(metrics.content["finetune/library"], digits=3)),
    "docstring": _docstring,
    "learning curve": lambda metrics: learning_curve_table(metrics.content["learning_curve/library"]).rstrip(),
}
