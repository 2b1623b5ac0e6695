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


def draw_context(
    positions: Sequence[dict[str, Any]], contexts: Sequence[dict[str, Any]], title: str, path: Path
) -> None:
    """Loss by place in the window, a step a bucket; beside it what the same tokens cost more with less context."""
    figure = new_figure(9, 4)
    with matplotlib.rc_context(SETTINGS):
        placed, kept = figure.subplots(1, 2)
        edges = [row["from"] for row in positions] + [row["to"] + 1 for row in positions[-1:]]
        if positions:
            placed.stairs([row["nats_per_token"] for row in positions], edges, baseline=None, linewidth=1.5)
        _count_in_doublings(placed, edges)
        placed.set(xlabel="tokens before, in the window", ylabel="loss (nats a token)", title=title)
        lengths, more = ([row[key] for row in contexts] for key in ("context", "more"))
        # A single window has no interval.
        below = [row["more"] - row.get("more_low", row["more"]) for row in contexts]
        above = [row.get("more_high", row["more"]) - row["more"] for row in contexts]
        # A quantile of few draws may lie on the other side of the mean.
        kept.errorbar(
            lengths, more, yerr=[[max(of, 0) for of in side] for side in (below, above)], marker="o", capsize=3
        )
        _count_in_doublings(kept, lengths)
        kept.set(xlabel="tokens of context kept", ylabel="nats a token more than with all of it", title="same tokens")
    save_figure(figure, path)


def _count_in_doublings(axes: Any, values: Sequence[int]) -> None:
    """A logarithmic axis, from the first of the ordered values to the last, that is labelled in plain numbers."""
    bits = [value.bit_length() - 1 for value in values] or [0]
    ticks = [1 << bit for bit in range(bits[0], bits[-1] + 1)]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def draw_calibration(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """A reliability diagram: how often the likeliest token came, by its probability; the share of tokens below."""
    figure = new_figure(5, 5.5)
    with matplotlib.rc_context(SETTINGS):
        right, many = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        right.plot([0, 1], [0, 1], color="gray", linestyle="--", linewidth=1, label="perfectly calibrated")
        right.plot(
            [row["confidence"] for row in rows], [row["accuracy"] for row in rows], marker="o", label="this model"
        )
        right.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that came true", title=title)
        right.legend()
        total = max(sum(row["tokens"] for row in rows), 1)
        centres = [(row["from"] + row["to"]) / 2 for row in rows]
        many.bar(centres, [row["tokens"] / total for row in rows], width=0.09, color="silver")
        many.set(xlabel="probability of the likeliest token", ylabel="share of\ntokens")
    save_figure(figure, path)
