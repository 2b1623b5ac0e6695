"""The report page: metrics, tables, pictures and samples of a run in one HTML file that loads nothing from elsewhere.

The words are in page.html.jinja. Every number is read from a file, and the same files give the same bytes.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from llm.report import evaluate, memorise, views
from llm.report.glossary import SHORT
from llm.report.metrics import Metrics, flatten
from llm.report.tables import Code, Table, render

BOUNDS = (1, 2, 3, 4, 6, 8)  # nats; the shade of a token is the number of bounds that its nats reach
CAPTIONS = {
    "curve": "Loss over the steps of the finetuning.",
    "confusion": "Rows by actual label (down) and predicted label (across); the diagonal is correct.",
    "reliability": "Accuracy by predicted probability, before and after temperature scaling on val.",
    "roc": "ROC curve and precision-recall curve of the second label.",
    "labels": "F1 of each label.",
    "systems": "The accuracies above with their intervals.",
}


def write_page(metrics: Metrics, params: Mapping[str, Any], pictures: Mapping[str, str], lineage: Table) -> str:
    """Return the page; `pictures` are SVG by name, those of a task as finetune/TASK/NAME."""
    details = metrics.details["evaluate"]
    splits = list(details["splits"])
    return render(
        "page.html.jinja",
        metrics=metrics.content,
        details=details,
        params=params,
        splits=splits,
        shown=splits[-1] if splits else None,
        evaluation=evaluate.tables(details) if splits else None,
        tables=views.tables(metrics, params, params["model"], lineage) | {"params": params_table(params)},
        verdict=memorise.VERDICTS[metrics.content["memorise"]["copies"]],
        tasks=metrics.tasks(),
        levels=[*(f"{low}–{high}" for low, high in pairwise([0, *BOUNDS])), f"{BOUNDS[-1]} or more"],
        pictures={name: data_uri(picture) for name, picture in pictures.items()},
        bounds=BOUNDS,
        e=math.e,
        captions=CAPTIONS,
        short=SHORT,
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


def data_uri(svg: str) -> str:
    """Return a picture as an address that contains it, for the `src` of an image."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
