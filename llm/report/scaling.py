"""Show a scaling ladder: the runs, the fitted law, the prediction beside the measured loss."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from llm.report.plots import svg
from llm.report.tables import Table, render

SYMBOLS = {"E": "E", "alpha": "α", "beta": "β"}
REPEATED = "\\*"  # mark of more than one epoch


def markdown(details: dict[str, Any]) -> str:
    """Return plots/scaling.md, from metrics/scaling.json."""
    rows = [
        [
            run["name"],
            run["parameters"],
            run["tokens"],
            f"{run['epochs']:.2f}" + REPEATED * (run["epochs"] > 1),
            f"{run['tokens'] / run['parameters']:.2g}",
            f"{run['loss']:.3f}",
            f"{run['law']:.3f}",
            f"{run['law'] / run['loss'] - 1:+.1%}",
        ]
        for run in sorted(details["runs"], key=lambda run: (run["tokens"], run["parameters"]))
    ]
    return render(
        "scaling.md.jinja",
        details=details,
        table=Table(["run", "N", "D", "epochs", "D / N", "loss", "law", "error"], rows),
        repeats=any(run["epochs"] > 1 for run in [*details["runs"], *filter(None, [details["outcome"]])]),
        symbols=SYMBOLS,
    )


@svg
def draw_scaling(details: dict[str, Any]) -> Figure:
    """Draw the loss against N, a color for each D: runs as points, the law as lines, the prediction's interval.

    Runs of more than one epoch are hollow.
    """
    runs, outcome, predicted = details["runs"], details["outcome"], details["prediction"]
    E, A, alpha, B, beta = (details["law"][name] for name in ("E", "A", "alpha", "B", "beta"))
    parameters = [run["parameters"] for run in runs]
    sizes = np.geomspace(min(parameters), max(predicted["parameters"], *parameters), 60)
    figure = Figure((7.5, 5))
    axes = figure.subplots()
    for number, tokens in enumerate(sorted({run["tokens"] for run in runs} | {predicted["tokens"]})):
        color = f"C{number % 10}"
        axes.plot(sizes, E + A / sizes**alpha + B / tokens**beta, color=color, linewidth=1)
        axes.plot([], [], "o", color=color, label=f"{tokens / 1e6:.2g}M tokens")
        _plot_runs(axes, [run for run in runs if run["tokens"] == tokens], color)
    if max(run["epochs"] for run in runs) > 1:
        axes.plot([], [], "o", color="gray", markerfacecolor="white", label="more than one epoch")
    error = [[predicted["value"] - predicted["low"]], [predicted["high"] - predicted["value"]]]
    position = [predicted["parameters"]], [predicted["value"]]
    axes.errorbar(*position, error, fmt="_", color="black", capsize=4, label="predicted")
    if outcome is not None:
        axes.plot([outcome["parameters"]], [outcome["loss"]], "*", color="crimson", markersize=11, label="measured")
    axes.set(xscale="log", xlabel="parameters without the embedding", ylabel="validation loss (nats per token)")
    axes.set_title("runs as points, the fitted law as lines")
    axes.legend()
    return figure


def _plot_runs(axes: Any, runs: list[dict[str, Any]], color: str) -> None:
    for run in runs:
        fill = "white" if run["epochs"] > 1 else color
        axes.plot([run["parameters"]], [run["loss"]], "o", color=color, markerfacecolor=fill)
