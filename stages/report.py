"""Metrics, details and hashes → everything in reports/: Markdown, pictures, one page in HTML."""

import shutil
from pathlib import Path

from llm.core import stage
from llm.core.stage import Input, Output
from llm.report.reports import write_reports


def main(
    settings: Input = Path("params.yaml"),
    metrics: Input = Path("metrics"),
    curve: Input = Path("plots/pretrain/curve.tsv"),
    data: Input = Path("data"),
    models: Input = Path("models"),
    reports: Output = Path("reports"),
) -> None:
    """Write the folder `reports`; of `data` and `models` only the hashes are shown, and the page is copied beside."""
    write_reports(settings, metrics, curve, data, models, reports)
    shutil.copyfile(models / "page.html", reports / "model.html")


if __name__ == "__main__":
    stage.run(main)
