"""Pictures as SVG text: the same bytes for the same data."""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from llm.report.metrics import Score

SETTINGS: Any = {
    # Text stays text, ids are made from this salt and not from a random one, and no date is written.
    "svg.fonttype": "none",
    "svg.hashsalt": "groundup",
    # A dollar in a label is a dollar.
    "text.parse_math": False,
    "font.size": 10,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
MAX_NAMED_LABELS = 100  # of a confusion matrix
MAX_NAME_CHARS = 24
DASHED: Any = {"color": "gray", "linestyle": "--", "linewidth": 1}
Args = ParamSpec("Args")


def svg(draw: Callable[Args, Figure]) -> Callable[Args, str]:
    """Turn a function that draws a figure into one that returns it as SVG, in the style of all pictures."""

    @wraps(draw)
    def write(*args: Args.args, **options: Args.kwargs) -> str:
        file = io.StringIO()
        with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
            # Letters that our font lacks are text in the file: the program that shows it has a font for them.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            draw(*args, **options).savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()

    return write


@svg
def draw_curve(rows: Sequence[dict[str, float]], title: str, unit: str = "nats per token") -> Figure:
    """Draw training and validation loss over the steps, and the learning rate below."""
    figure = Figure((7, 5))
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for key, label in (("train_loss", "train"), ("val_loss", "validation")):
        _plot_loss(losses, rows, key, label=label)
    losses.set(ylabel=f"loss ({unit})", title=title)
    losses.legend()
    rates.plot([row["step"] for row in rows], [row["lr_factor"] for row in rows], color="gray")
    rates.set(xlabel="step", ylabel="fraction of\npeak lr")
    return figure


@svg
def draw_curves(curves: Mapping[str, Sequence[dict[str, float]]]) -> Figure:
    """Draw the learning curves of several runs: a color for each, validation solid, training dashed."""
    figure = Figure((8, 5))
    axes = figure.subplots()
    for number, (name, rows) in enumerate(curves.items()):
        color = f"C{number % 10}"
        _plot_loss(axes, rows, "val_loss", color=color)
        _plot_loss(axes, rows, "train_loss", color=color, linestyle="--")
        axes.plot([], [], color=color, label=name)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title="pretraining: validation loss, training dashed")
    axes.legend()
    return figure


def _plot_loss(axes: Any, rows: Sequence[dict[str, float]], key: str, **style: Any) -> None:
    points = [(row["step"], row[key]) for row in rows if key in row]
    if points:
        axes.plot(*zip(*points, strict=True), **style)


@svg
def draw_bars(values: Mapping[str, Score], title: str, unit: str, highlight: str) -> Figure:
    """Draw horizontal bars with their values and intervals, the first on top; one of them is highlighted."""
    figure = Figure((7, 0.9 + 0.4 * max(len(values), 1)))
    axes = figure.subplots()
    for y, (name, (value, low, high)) in enumerate(reversed([*values.items()])):
        axes.barh(y, value, color="tab:blue" if name == highlight else "silver")
        if low is not None and high is not None:
            axes.hlines(y, low, high, color="black", linewidth=1.5)
        end = max(value, high or value)
        axes.annotate(f"{value:.3f}", (end, y), (3, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(values)), [shorten(name) for name in values][::-1])
    axes.set(title=title, xlabel=unit)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.12)
    return figure


@svg
def draw_confusion(counts: Sequence[Sequence[int]], labels: Sequence[str], title: str) -> Figure:
    """Draw a confusion matrix: counts (actual, predicted), shaded by their fraction of the row.

    With more than MAX_NAMED_LABELS labels there is room for the shades alone.
    """
    cell = min(0.55, 16 / max(len(labels), 1))
    size = 2.5 + cell * max(len(labels), 1)
    named = [shorten(label) for label in labels] if len(labels) <= MAX_NAMED_LABELS else []
    matplotlib.rcParams["font.size"] = min(10, 20 * cell)  # until the end of this picture
    figure = Figure((size + 0.8, size))
    axes = figure.subplots()
    table = np.array(counts, dtype=np.int64).reshape(len(labels), len(labels))
    fractions = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    if labels:
        axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for y, x in np.argwhere(table) if named else []:
        color = "white" if fractions[y, x] > 0.5 else "black"
        axes.text(x, y, str(table[y, x]), ha="center", va="center", color=color)
    axes.set_xticks(range(len(named)), named, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(named)), named)
    axes.grid(visible=False)
    axes.set(xlabel="predicted", ylabel="actual", title=title)
    return figure


@svg
def draw_vocabulary(counts: Sequence[int], lengths: Sequence[int]) -> Figure:
    """Draw how often each token occurs, by rank, and how many tokens have how many bytes (special tokens have 0)."""
    figure = Figure((9, 4))
    by_rank, by_length = figure.subplots(1, 2)
    used = sorted((int(count) for count in counts if count), reverse=True)
    by_rank.loglog(range(1, len(used) + 1), used)
    for axis in (by_rank.xaxis, by_rank.yaxis):
        axis.set_major_formatter("{x:,.0f}")
    by_rank.set(xlabel="rank", ylabel="occurrences", title=f"{len(used):,} of {len(counts):,} tokens are used")
    sizes = [int(length) for length in lengths if length]
    by_length.hist(sizes, bins=range(1, max(sizes, default=1) + 2), align="left", color="silver", edgecolor="gray")
    by_length.set(xlabel="bytes of a token", ylabel="tokens", title="token lengths")
    return figure


@svg
def draw_context(positions: Sequence[dict[str, Any]], contexts: Sequence[dict[str, Any]], title: str) -> Figure:
    """Draw the loss by position in the window, and the loss that the same tokens add with less context."""
    figure = Figure((9, 4))
    by_position, by_context = figure.subplots(1, 2)
    edges = [row["from"] for row in positions] + [row["to"] + 1 for row in positions[-1:]]
    if positions:
        by_position.stairs([row["nats_per_token"] for row in positions], edges, baseline=None, linewidth=1.5)
    _scale_by_doublings(by_position, edges)
    by_position.set(xlabel="tokens before, in the window", ylabel="loss (nats per token)", title=title)
    lengths, more = ([row[key] for row in contexts] for key in ("context", "more"))
    # A single window has no interval, and a quantile of few draws may be on the other side of the mean.
    below = [max(row["more"] - row.get("more_low", row["more"]), 0) for row in contexts]
    above = [max(row.get("more_high", row["more"]) - row["more"], 0) for row in contexts]
    by_context.errorbar(lengths, more, yerr=[below, above], marker="o", capsize=3)
    _scale_by_doublings(by_context, lengths)
    by_context.set(xlabel="tokens of context", ylabel="added loss (nats per token)", title="same tokens")
    return figure


def _scale_by_doublings(axes: Any, values: Sequence[int]) -> None:
    """Make an axis logarithmic, with plain numbers from the first of the ordered values to the last."""
    bits = [value.bit_length() - 1 for value in values] or [0]
    ticks = [1 << bit for bit in range(bits[0], bits[-1] + 1)]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


@svg
def draw_reliability(series: Mapping[str, Sequence[dict[str, Any]]], unit: str, probability: str, title: str) -> Figure:
    """Draw how often a prediction is right by its probability, and the fraction of the predictions below.

    A bin has `from`, `to`, `confidence`, `accuracy` and `count`; `unit` names what is counted.
    """
    figure = Figure((5, 5.5))
    accuracy, fraction = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    accuracy.plot([0, 1], [0, 1], label="perfectly calibrated", **DASHED)
    for number, (name, rows) in enumerate(series.items()):
        points = [row["confidence"] for row in rows], [row["accuracy"] for row in rows]
        line = accuracy.plot(*points, marker="o", label=name)
        total = max(sum(row["count"] for row in rows), 1)
        fractions = [row["count"] / total for row in rows]
        # Side by side in their bin, each in the color of its line.
        widths = [0.9 * (row["to"] - row["from"]) / len(series) for row in rows]
        lefts = [row["from"] + number * width for row, width in zip(rows, widths, strict=True)]
        color = "silver" if len(series) == 1 else line[0].get_color()
        fraction.bar(lefts, fractions, width=widths, align="edge", color=color)
    accuracy.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=title)
    accuracy.legend()
    fraction.set(xlabel=probability, ylabel=f"fraction of\n{unit}")
    return figure


@svg
def draw_roc(
    roc: Sequence[tuple[float, float]], precision_recall: Sequence[tuple[float, float]], positive: float, title: str
) -> Figure:
    """Draw points (false positive rate, recall) and (recall, precision); dashed lines are chance.

    `positive` is the fraction of positive rows: the precision of chance at any recall.
    """
    figure = Figure((9, 4.5))
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], label="chance", **DASHED)
    left.step(*zip(*roc, strict=True), where="post")
    left.set(xlabel="false positive rate", ylabel="recall (true positive rate)", title=title)
    right.axhline(positive, label="chance", **DASHED)
    right.step(*zip(*precision_recall, strict=True), where="pre")
    right.set(xlabel="recall", ylabel="precision")
    for axes in (left, right):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.legend(loc="lower right")
    return figure


def shorten(name: str) -> str:
    """Return a name on one line, short enough to leave room for the picture.

    >>> shorten("a label that goes on and on and on")
    'a label that goes on an…'
    """
    line = " ".join(name.split())
    return line if len(line) <= MAX_NAME_CHARS else line[: MAX_NAME_CHARS - 1] + "…"
