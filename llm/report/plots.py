"""Pictures beside DVC's plots, for people who are offline: SVG, the same bytes for the same data."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

SETTINGS: Any = {
    # Text stays text, ids are drawn from this salt and not from a random one, and no date is written.
    "svg.fonttype": "none",
    "svg.hashsalt": "groundup",
    # A dollar in a label is a dollar.
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
MOST_LABELS = 100  # of a confusion matrix that are named
LONGEST_NAME = 24


def new_figure(width: float = 7, height: float = 4) -> Figure:
    """An empty figure of so many inches."""
    with matplotlib.rc_context(SETTINGS):
        return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write it as SVG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        # Letters that our font lacks are text in the file: whoever shows it has a font for them.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def draw_curve(rows: Sequence[dict[str, float]], title: str, path: Path, unit: str = "nats a token") -> None:
    """A learning curve: training and validation loss over the steps, the learning rate below."""
    figure = new_figure(7, 5)
    with matplotlib.rc_context(SETTINGS):
        losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        for key, label in (("train_loss", "train"), ("val_loss", "validation")):
            points = [(row["step"], row[key]) for row in rows if key in row]
            if points:
                losses.plot(*zip(*points, strict=True), label=label)
        losses.set(ylabel=f"loss ({unit})", title=title)
        losses.legend()
        rates.plot([row["step"] for row in rows], [row["lr_factor"] for row in rows], color="gray")
        rates.set(xlabel="step", ylabel="share of\nfull rate")
    save_figure(figure, path)


def draw_bars(values: dict[str, float], title: str, unit: str, path: Path, highlight: str) -> None:
    """Horizontal bars with their values, in the given order; one of them stands out."""
    figure = new_figure(7, 0.9 + 0.4 * max(len(values), 1))
    with matplotlib.rc_context(SETTINGS):
        axes = figure.subplots()
        names = list(values)[::-1]
        colors = ["tab:blue" if name == highlight else "silver" for name in names]
        bars = axes.barh(range(len(names)), [values[name] for name in names], color=colors)
        axes.set_yticks(range(len(names)), [shorten(name) for name in names])
        axes.bar_label(bars, fmt="%.3f", padding=3)
        axes.set(title=title, xlabel=unit)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12)
    save_figure(figure, path)


def draw_confusion(counts: Any, labels: Sequence[str], title: str, path: Path) -> None:
    """A confusion matrix: counts (actual, predicted) as numbers on a shade of each row's share.

    Above MOST_LABELS there is room for the shades alone.
    """
    cell = min(0.55, 16 / max(len(labels), 1))
    size = 2.5 + cell * max(len(labels), 1)
    figure = new_figure(size + 0.8, size)
    with matplotlib.rc_context(SETTINGS | {"font.size": min(10, 20 * cell)}):
        axes = figure.subplots()
        shares = [[count / max(sum(row), 1) for count in row] for row in counts]
        if labels:
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for y, row in enumerate(counts if len(labels) <= MOST_LABELS else []):
            for x, count in enumerate(row):
                if count:
                    axes.text(
                        x, y, str(count), ha="center", va="center", color="white" if shares[y][x] > 0.5 else "black"
                    )
        names = [shorten(label) for label in labels] if len(labels) <= MOST_LABELS else []
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.grid(visible=False)
        axes.set(xlabel="predicted", ylabel="actual", title=title)
    save_figure(figure, path)


def shorten(name: str) -> str:
    """A name that leaves room for the picture, on one line.

    >>> shorten("a label that goes on and on and on")
    'a label that goes on an…'
    """
    line = " ".join(name.split())
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"


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
    _draw_reliability({"this model": rows}, "tokens", "probability of the likeliest token", title, path)


def draw_reliability(series: Mapping[str, Sequence[dict[str, Any]]], of: str, title: str, path: Path) -> None:
    """A reliability diagram of several models of the same rows: `of` names the probability that is looked at."""
    _draw_reliability(series, "rows", of, title, path)


def _draw_reliability(
    series: Mapping[str, Sequence[dict[str, Any]]], unit: str, of: str, title: str, path: Path
) -> None:
    """Bins, rows with `from`, `to`, `confidence`, `accuracy` and how many under `unit`, of each of the series."""
    figure = new_figure(5, 5.5)
    with matplotlib.rc_context(SETTINGS):
        right, many = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        right.plot([0, 1], [0, 1], color="gray", linestyle="--", linewidth=1, label="perfectly calibrated")
        for number, (name, rows) in enumerate(series.items()):
            drawn = right.plot(
                [row["confidence"] for row in rows], [row["accuracy"] for row in rows], marker="o", label=name
            )
            total = max(sum(row["count"] for row in rows), 1)
            shares = [row["count"] / total for row in rows]
            if len(series) == 1:
                centres = [(row["from"] + row["to"]) / 2 for row in rows]
                many.bar(centres, shares, width=0.09, color="silver")
            else:
                # Side by side in their bin, each in the colour of its line.
                wide = [0.9 * (row["to"] - row["from"]) / len(series) for row in rows]
                lefts = [row["from"] + number * width for row, width in zip(rows, wide, strict=True)]
                many.bar(lefts, shares, width=wide, align="edge", color=drawn[0].get_color())
        right.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that came true", title=title)
        right.legend()
        many.set(xlabel=of, ylabel=f"share of\n{unit}")
    save_figure(figure, path)


def draw_roc(
    roc: Sequence[tuple[float, float]],
    precision_recall: Sequence[tuple[float, float]],
    share: float,
    title: str,
    path: Path,
) -> None:
    """Two curves of one threshold: (false positive rate, recall) and (recall, precision); dashed is chance.

    `share` of the rows are what is to be found: chance has that precision at any recall.
    """
    figure = new_figure(9, 4.5)
    with matplotlib.rc_context(SETTINGS):
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], color="gray", linestyle="--", linewidth=1, label="chance")
        left.step(*zip(*roc, strict=True), where="post")
        left.set(xlabel="false positive rate", ylabel="recall (true positive rate)", title=title)
        right.axhline(share, color="gray", linestyle="--", linewidth=1, label="chance")
        right.step(*zip(*precision_recall, strict=True), where="pre")
        right.set(xlabel="recall", ylabel="precision")
        for axes in (left, right):
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            axes.legend(loc="lower right")
    save_figure(figure, path)


def draw_intervals(
    values: Mapping[str, tuple[float, float | None, float | None]], title: str, unit: str, path: Path, highlight: str
) -> None:
    """A point and the ends of its interval for each name, the first on top; one of them stands out."""
    figure = new_figure(7, 1.1 + 0.4 * max(len(values), 1))
    with matplotlib.rc_context(SETTINGS):
        axes = figure.subplots()
        for y, (name, (value, low, high)) in enumerate(reversed([*values.items()])):
            color = "tab:blue" if name == highlight else "dimgray"
            axes.hlines(y, value if low is None else low, value if high is None else high, color=color, linewidth=2)
            axes.plot([value], [y], marker="o", color=color)
            axes.annotate(
                f"{value:.3f}", (value, y), xytext=(0, 6), textcoords="offset points", ha="center", color=color
            )
        axes.set_yticks(range(len(values)), [shorten(name) for name in values][::-1])
        axes.set(title=title, xlabel=unit, xlim=(0, 1), ylim=(-0.5, max(len(values), 1) - 0.3))
        axes.grid(visible=False, axis="y")
    save_figure(figure, path)
