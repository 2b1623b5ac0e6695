"""Everything in the folder reports/: Markdown of each stage, pictures, and the page.

metrics/details/evaluate.json  ──evaluate.evaluation──► reports/evaluation.md
──evaluate.pictures────► reports/context.svg …
all of them                    ──write_page───────────► reports/report.html
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm.core import params as params_file
from llm.report import evaluate, finetune, memorise, prepare, pretrain, sample, tokenize, views
from llm.report.metrics import Metrics, read_metrics
from llm.report.page import write_page

Details = dict[str, Any]
# A Markdown file of reports/: the stage whose details it shows, and the function that writes it.
PAGES: dict[str, tuple[str, Callable[[Details], str]]] = {
    "prepare": ("prepare", prepare.markdown),
    "tokenize": ("tokenize", tokenize.markdown),
    "contamination": ("sample", sample.markdown),
    "evaluation": ("evaluate", evaluate.evaluation),
    "samples": ("evaluate", evaluate.samples),
    "continuations": ("evaluate", evaluate.continuations),
    "memorisation": ("memorise", memorise.markdown),
}


def write_reports(settings: Path, metrics: Path, curve: Path, artifacts: list[Path], reports: Path) -> None:
    """Write the folder; `settings` is params.yaml, `metrics` and `artifacts` are folders."""
    params = params_file.read(settings)
    found = of_tasks(read_metrics(metrics), params)
    details = found.details
    texts = {name: write(details[stage]) for name, (stage, write) in PAGES.items()}
    pictures = pretrain.pictures({"curve": pretrain.read_curve(curve.read_text(encoding="utf-8").splitlines())})
    pictures |= tokenize.pictures(details["tokenize"]) | evaluate.pictures(details["evaluate"])
    for name in found.tasks():
        texts[f"finetune/{name}"] = finetune.markdown(details[f"finetune/{name}"])
        own = finetune.pictures(details[f"finetune/{name}"])
        pictures |= {f"finetune/{name}/{kind}": svg for kind, svg in own.items()}
    page = write_page(found, params, pictures, views.lineage(*artifacts))
    files = {f"{name}.md": text for name, text in texts.items()} | {
        f"{name}.svg": svg for name, svg in pictures.items()
    }
    for name, text in (files | {"report.html": page}).items():
        path = reports / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def of_tasks(metrics: Metrics, params: dict[str, Any]) -> Metrics:
    """Return the metrics without those of tasks that are not in params.yaml; UserError for a task without any."""
    tasks = params["finetune"]["tasks"]
    content, details = (
        {name: of for name, of in files.items() if "/" not in name or name.partition("/")[2] in tasks}
        for files in (metrics.content, metrics.details)
    )
    return Metrics(content | {f"finetune/{name}": metrics.content[f"finetune/{name}"] for name in tasks}, details)
