"""Show a scaling ladder: the runs, the fitted law, the prediction beside the measured loss."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from llm.report.plots import svg
from llm.report.tables import Table

SYMBOLS = {"E": "E", "alpha": "α", "beta": "β"}


def markdown(details: dict[str, Any]) -> str:
    """Return plots/scaling.md, from metrics/scaling.json."""
    runs, outcome = details["runs"], details["outcome"]
    rows = sorted(runs, key=lambda run: (run["tokens"], run["parameters"]))
    lines = [
        f"# Scaling: the ladder `{details['setting']}`",
        "",
        "L(N, D) = E + A / N^α + B / D^β: N parameters without the embedding, D training tokens, L nats per token of "
        "val. Every run's learning rate ends at zero. The last column is the error of the law.",
        "",
        str(Table(["run", "N", "D", "epochs", "D / N", "loss", "law", "error"], [_cells(run) for run in rows])),
    ]
    if any(run["epochs"] > 1 for run in [*runs, *filter(None, [outcome])]):
        lines += [
            "",
            "\\* more than one epoch: D counts repeated tokens, which teach less (Muennighoff et al. 2023, "
            "arXiv:2305.16264).",
        ]
    lines += ["", "## The law", "", *_law(details), "", "## The prediction", "", *_prediction(details)]
    lines += [
        "",
        "Intervals are 95%, of a jackknife over the runs with their scatter, one seed each. They do not cover that the "
        "form may fail further out.",
    ]
    return "\n".join(lines) + "\n"


def _cells(run: dict[str, Any]) -> list[str]:
    return [
        run["name"],
        f"{run['parameters']:,}",
        f"{run['tokens']:,}",
        f"{run['epochs']:.2f}{_mark(run)}",
        f"{run['tokens'] / run['parameters']:.2g}",
        f"{run['loss']:.3f}",
        f"{run['law']:.3f}",
        f"{run['law'] / run['loss'] - 1:+.1%}",
    ]


def _mark(run: dict[str, Any]) -> str:
    return "\\*" if run["epochs"] > 1 else ""


def _law(details: dict[str, Any]) -> list[str]:
    law = details["law"]
    constants = [
        f"{symbol} = {law[name]:.3g} [{low:.3g}, {high:.3g}]"
        for name, symbol in SYMBOLS.items()
        for low, high in [details["intervals"][name]]
    ]
    lines = [f"{', '.join(constants)}; A = {law['A']:.3g}, B = {law['B']:.3g}", ""]
    if details["undetermined"]:
        names = ", ".join(SYMBOLS[name] for name in details["undetermined"])
        return [
            *lines,
            f"These {len(details['runs'])} runs do not determine {names}: the 95% interval includes meaningless "
            "values. The law is a curve through the runs; its constants are not findings.",
        ]
    exponent = law["beta"] / (law["alpha"] + law["beta"])
    return [
        *lines,
        f"The best N for a compute C ∝ N · D grows as C^(β / (α + β)) = C^{exponent:.2f}: ten times the compute needs "
        f"{10**exponent:.1f} times the parameters and {10 ** (1 - exponent):.1f} times the tokens.",
    ]


def _prediction(details: dict[str, Any]) -> list[str]:
    found, outcome = details["prediction"], details["outcome"]
    first = (
        f"A model of N = {found['parameters']:,} after D = {found['tokens']:,} tokens, which is not in the fit: "
        f"predicted **{found['value']:.3f}** [{found['low']:.3f}, {found['high']:.3f}] nats per token"
    )
    if outcome is None:
        return [f"{first}; it was not trained."]
    where = "within" if found["low"] <= outcome["loss"] <= found["high"] else "outside"
    error = outcome["loss"] - found["value"]
    return [
        f"{first}, measured{_mark(outcome)} **{outcome['loss']:.3f}**: {error:+.3f} ({error / found['value']:+.1%}), "
        f"{where} the interval."
    ]


def pictures(details: dict[str, Any]) -> dict[str, str]:
    """Return the loss against N, a color for each D: runs as points, the law as lines, the prediction's interval.

    Runs of more than one epoch are hollow.
    """
    runs, outcome, predicted = details["runs"], details["outcome"], details["prediction"]
    E, A, alpha, B, beta = (details["law"][name] for name in ("E", "A", "alpha", "B", "beta"))
    sizes = np.geomspace(
        min(run["parameters"] for run in runs),
        max(predicted["parameters"], *(run["parameters"] for run in runs)),
        60,
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, tokens in enumerate(sorted({run["tokens"] for run in runs} | {predicted["tokens"]})):
            color = f"C{number % 10}"
            axes.plot(sizes, E + A / sizes**alpha + B / tokens**beta, color=color, linewidth=1)
            axes.plot([], [], "o", color=color, label=f"{tokens / 1e6:.2g}M tokens")
            for run in (run for run in runs if run["tokens"] == tokens):
                fill = "white" if run["epochs"] > 1 else color
                axes.plot([run["parameters"]], [run["loss"]], "o", color=color, markerfacecolor=fill)
        if any(run["epochs"] > 1 for run in runs):
            axes.plot([], [], "o", color="gray", markerfacecolor="white", label="more than one epoch")
        error = [[predicted["value"] - predicted["low"]], [predicted["high"] - predicted["value"]]]
        position = [predicted["parameters"]], [predicted["value"]]
        axes.errorbar(*position, error, fmt="_", color="black", capsize=4, label="predicted")
        if outcome is not None:
            axes.plot([outcome["parameters"]], [outcome["loss"]], "*", color="crimson", markersize=11, label="measured")
        axes.set_xscale("log")
        axes.set(xlabel="parameters without the embedding", ylabel="validation loss (nats per token)")
        axes.set_title("runs as points, the fitted law as lines")
        axes.legend()

    return {"scaling": svg(draw, 7.5, 5)}
