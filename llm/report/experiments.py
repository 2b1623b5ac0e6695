"""Show experiments: a scaling ladder with its law and prediction, and a learning curve of labeled rows."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from llm.report.plots import svg
from llm.report.tables import Table, render, title

SYMBOLS = {"E": "E", "alpha": "α", "beta": "β"}
REPEATED = "\\*"  # mark of more than one epoch


def scaling_page(details: dict[str, Any]) -> str:
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


def learning_curve_table(details: dict[str, Any]) -> str:
    """Return a table of accuracies by labeled rows, from what `llm.experiments.learning_curve` writes."""
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
