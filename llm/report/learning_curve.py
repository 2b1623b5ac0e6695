"""Show a learning curve: accuracy on test by the number of labeled rows, with pretraining and without."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from llm.report.plots import svg
from llm.report.tables import Table, title


def markdown(details: dict[str, Any]) -> str:
    """Return a table of accuracies, from what `llm.experiments.learning_curve` writes."""
    systems = _by_system(details)
    head = [f"{point['fraction']:.0%} ({point['rows']:,} rows)" for point in next(iter(systems.values()))]
    rows = [
        [title(name), *(f"{point['accuracy_mean']:.3f} ± {point['accuracy_std']:.3f}" for point in points)]
        for name, points in systems.items()
    ]
    return f"{Table(['accuracy on test, mean ± std over seeds', *head], rows)}\n"


@svg
def draw_learning_curve(details: dict[str, Any]) -> Figure:
    """Draw accuracy against labeled rows, a line with its spread over the seeds for each system."""
    figure = Figure((7, 4.2))
    axes = figure.subplots()
    for name, points in _by_system(details).items():
        n_rows = [point["rows"] for point in points]
        mean, std = (np.array([point[f"accuracy_{of}"] for point in points]) for of in ("mean", "std"))
        (line,) = axes.plot(n_rows, mean, marker="o", label=title(name).name)
        axes.fill_between(n_rows, mean - std, mean + std, color=line.get_color(), alpha=0.15)
    heading = f"value of pretraining: {details['task']}"
    axes.set(xscale="log", xlabel="labeled rows", ylabel="accuracy on test", title=heading)
    axes.set_xticks(n_rows, [f"{n:,}" for n in n_rows], minor=False)
    axes.minorticks_off()
    axes.legend()
    return figure


def _by_system(details: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    systems = dict.fromkeys(point["system"] for point in details["points"])
    return {name: [point for point in details["points"] if point["system"] == name] for name in systems}
