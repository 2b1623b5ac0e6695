"""Pictures beside DVC's plots, for people who are offline: SVG, the same bytes for the same data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

SETTINGS: Any = {
    # Text stays text, ids are drawn from this salt and not from a random one, and no date is written.
    "svg.fonttype": "none",
    "svg.hashsalt": "groundup",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}


def new_figure(width: float = 7, height: float = 4) -> Figure:
    """An empty figure of so many inches."""
    with matplotlib.rc_context(SETTINGS):
        return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write it as SVG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def draw_curve(rows: Sequence[dict[str, float]], title: str, path: Path) -> None:
    """A learning curve: training and validation loss over the steps, the learning rate below."""
    figure = new_figure(7, 5)
    with matplotlib.rc_context(SETTINGS):
        losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        for key, label in (("train_loss", "train"), ("val_loss", "validation")):
            points = [(row["step"], row[key]) for row in rows if key in row]
            if points:
                losses.plot(*zip(*points, strict=True), label=label)
        losses.set(ylabel="loss (nats a token)", title=title)
        losses.legend()
        rates.plot([row["step"] for row in rows], [row["rate"] for row in rows], color="gray")
        rates.set(xlabel="step", ylabel="share of\nfull rate")
    save_figure(figure, path)


def draw_bars(values: dict[str, float], title: str, unit: str, path: Path, highlight: str) -> None:
    """Horizontal bars with their values, in the given order; one of them stands out."""
    figure = new_figure(7, 0.9 + 0.4 * max(len(values), 1))
    with matplotlib.rc_context(SETTINGS):
        axes = figure.subplots()
        names = list(values)[::-1]
        colors = ["tab:blue" if name == highlight else "silver" for name in names]
        bars = axes.barh(names, [values[name] for name in names], color=colors)
        axes.bar_label(bars, fmt="%.3f", padding=3)
        axes.set(title=title, xlabel=unit)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12)
    save_figure(figure, path)


def draw_confusion(counts: Any, labels: Sequence[str], title: str, path: Path) -> None:
    """A confusion matrix: counts (actual, predicted) as numbers on a shade of each row's share."""
    size = 2.5 + 0.55 * max(len(labels), 1)
    figure = new_figure(size + 0.8, size)
    with matplotlib.rc_context(SETTINGS):
        axes = figure.subplots()
        shares = [[count / max(sum(row), 1) for count in row] for row in counts]
        if labels:
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for y, row in enumerate(counts):
            for x, count in enumerate(row):
                if count:
                    axes.text(
                        x, y, str(count), ha="center", va="center", color="white" if shares[y][x] > 0.5 else "black"
                    )
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        axes.grid(visible=False)
        axes.set(xlabel="predicted", ylabel="actual", title=title)
    save_figure(figure, path)


def draw_note(text: str, path: Path) -> None:
    """A picture that says why there is no picture."""
    figure = new_figure(5, 1.5)
    figure.text(0.5, 0.5, text, ha="center", va="center")
    save_figure(figure, path)


def draw_vocabulary(counts: Any, lengths: Any, path: Path) -> None:
    """How often each token occurs, by rank, and how many tokens have how many bytes (special tokens have none)."""
    figure = new_figure(9, 4)
    with matplotlib.rc_context(SETTINGS):
        ranked, sized = figure.subplots(1, 2)
        used = sorted((int(count) for count in counts if count), reverse=True)
        ranked.loglog(range(1, len(used) + 1), used)
        ranked.set(xlabel="rank", ylabel="times in the text", title=f"{len(used):,} of {len(counts):,} tokens are used")
        sizes = [int(length) for length in lengths if length]
        sized.hist(sizes, bins=range(1, max(sizes, default=1) + 2), align="left", color="silver", edgecolor="gray")
        sized.set(xlabel="bytes of a token", ylabel="tokens", title="token lengths")
    save_figure(figure, path)
