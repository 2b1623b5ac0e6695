"""Everything in the folder reports/: Markdown of each stage, pictures, and the page.

    metrics/details/evaluate.json  ──evaluate.evaluation──► reports/evaluation.md
                                   ──evaluate.pictures────► reports/context.svg …
    all of them                    ──write_page───────────► reports/report.html

The page loads nothing from elsewhere. The same files give the same bytes.
"""

import base64
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from llm.core import params as params_file
from llm.core.derived import fill
from llm.report import evaluate, finetune, plots, stages, views
from llm.report.metrics import Metrics, flatten, read_json, read_metrics
from llm.report.tables import Code, Table, render

# A Markdown file of reports/: the stage whose details it shows, and the function that writes it.
PAGES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "prepare": ("prepare", stages.documents),
    "tokenize": ("tokenize", stages.vocabulary),
    "contamination": ("sample", stages.contamination),
    "evaluation": ("evaluate", evaluate.evaluation),
    "samples": ("evaluate", evaluate.samples),
    "continuations": ("evaluate", evaluate.continuations),
    "memorization": ("memorise", stages.memorization),
}
BOUNDS = (1, 2, 3, 4, 6, 8)  # nats; the shade of a token is the number of bounds that its nats reach


def write_reports(settings: Path, metrics: Path, curve: Path, data: Path, models: Path, reports: Path) -> None:
    """Write the folder; `settings` is params.yaml."""
    params = params_file.read(settings)
    found = read_metrics(metrics).of_tasks(params["finetune"]["tasks"])
    details = found.details
    texts = {name: write(details[stage]) for name, (stage, write) in PAGES.items()}
    pictures = {
        "curve": plots.draw_curve(stages.read_curve(curve.read_text(encoding="utf-8").splitlines()), "pretraining"),
        "vocabulary": plots.draw_vocabulary(details["tokenize"]["counts"], details["tokenize"]["lengths"]),
        **evaluate.pictures(details["evaluate"]),
    }
    for name in found.tasks():
        texts[f"finetune/{name}"] = finetune.markdown(details[f"finetune/{name}"])
        own = finetune.pictures(details[f"finetune/{name}"])
        pictures |= {f"finetune/{name}/{kind}": svg for kind, svg in own.items()}
    files = {f"{name}.md": text for name, text in texts.items()}
    files |= {f"{name}.svg": svg for name, svg in pictures.items()}
    config = read_json(models / "pretrained" / "config.json")
    files["report.html"] = write_page(found, params, config, pictures, views.lineage(data, models))
    for name, text in files.items():
        path = reports / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def write_page(
    metrics: Metrics,
    params: dict[str, Any],
    config: Mapping[str, Any],
    pictures: Mapping[str, str],
    lineage: Table,
) -> str:
    """Return the page; `config` is the model's, `pictures` are SVG by name, those of a task as finetune/TASK/NAME."""
    details = metrics.details["evaluate"]
    splits = list(details["splits"])
    encoded = {name: base64.b64encode(svg.encode()).decode() for name, svg in pictures.items()}
    return render(
        "report.html.jinja",
        metrics=metrics.content,
        details=details,
        params=fill(params),
        splits=splits,
        shown=splits[-1] if splits else None,
        evaluation=evaluate.tables(details) if splits else None,
        tables=views.tables(metrics, fill(params), config, lineage) | {"params": params_table(params)},
        verdict=stages.VERDICTS[metrics.content["memorise"]["copies"]],
        tasks=metrics.tasks(),
        levels=[*(f"{low}–{high}" for low, high in pairwise([0, *BOUNDS])), f"{BOUNDS[-1]} or more"],
        pictures={name: f"data:image/svg+xml;base64,{code}" for name, code in encoded.items()},
        bounds=BOUNDS,
        e=math.e,
        captions=finetune.CAPTIONS,
        short=stages.SHORT,
    )


def params_table(params: Mapping[str, Any]) -> Table:
    """Return the sections of params, each with the sha256 of its JSON with sorted keys, and their values.

    >>> params_table({"sample": {"stride": 2}}).rows[1]
    [Code(text='sample.stride'), Code(text='2')]
    """
    rows: list[list[Any]] = []
    for section, content in params.items():
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        rows.append([section, Code(hashlib.sha256(text.encode()).hexdigest())])
        for key, value in flatten({section: content}).items():
            rows.append([Code(key), Code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))])
    return Table(["param", "value"], rows)
