"""Pictures: the same bytes for the same data, and everything that a reader looks for is in them."""

import re

import pytest

from llm.report import plots
from llm.report.metrics import Score

ROWS = [{"step": 2, "train_loss": 4.5, "lr_factor": 0.5, "val_loss": 4.25}, {"step": 4, "train_loss": 3.5}]
ROWS[1] |= {"lr_factor": 1.0, "val_loss": 3.25}
POSITIONS = [{"from": 1, "to": 1, "nats_per_token": 4.5}, {"from": 2, "to": 3, "nats_per_token": 3.5}]
CONTEXTS = [{"context": 4, "more": 0.75, "more_low": 0.5, "more_high": 1.0}, {"context": 8, "more": 0.0}]
BIN = {"from": 0.3, "to": 0.4, "count": 3, "confidence": 0.35, "accuracy": 0.25}
ROC = [(0, 0), (0.25, 0.5), (1, 1)], [(1, 0.5), (0, 1)], 0.5
BARS = {"mine": Score(1.25, 1.0, 1.5), "theirs": Score(2.5)}
# A function, its data, and other data.
PICTURES = [
    (plots.draw_curve, [ROWS, "title"], [ROWS[:1], "title"]),
    (plots.draw_curves, [{"title": ROWS, "other": ROWS}], [{"title": ROWS, "other": ROWS[:1]}]),
    (plots.draw_bars, [BARS, "title", "unit", "mine"], [BARS | {"theirs": Score(3.5)}, "title", "unit", "mine"]),
    (plots.draw_context, [POSITIONS, CONTEXTS, "title"], [POSITIONS, CONTEXTS[:1], "title"]),
    (plots.draw_confusion, [[[3, 2], [0, 7]], ["x", "y"], "title"], [[[3, 4], [0, 7]], ["x", "y"], "title"]),
    (plots.draw_reliability, [{"a": [BIN]}, "rows", "p", "title"], [{"a": [BIN], "b": [BIN]}, "rows", "p", "title"]),
    (plots.draw_roc, [*ROC, "title"], [*ROC[:2], 0.25, "title"]),
    (plots.draw_vocabulary, [[9, 3, 0, 1], [0, 1, 2, 4]], [[9, 3, 0, 1], [0, 1, 2, 6]]),
]
FETCHED = re.compile(r"""(?:href|src)\s*=\s*["'](?!\#|data:)|url\((?!\#)|@import|<script|<\?xml-stylesheet""")


@pytest.mark.parametrize(("draw", "data", "other"), PICTURES, ids=lambda value: getattr(value, "__name__", ""))
def test_the_same_data_gives_the_same_bytes(draw, data, other):
    first, bent, again = draw(*data), draw(*other), draw(*data)
    assert first == again != bent
    assert not FETCHED.search(first)
    assert "dc:date" not in first
    assert draw is plots.draw_vocabulary or ">title<" in first  # words are text, not shapes


NAMES = [f"label {i}" for i in range(plots.MAX_NAMED_LABELS + 1)]


@pytest.mark.parametrize(
    ("picture", "shown", "absent"),
    [
        (plots.draw_curve([{"step": 1, "train_loss": 2.0, "lr_factor": 1.0}], "a"), ["train"], ["validation"]),
        (plots.draw_bars(BARS, "a", "unit", "mine"), ["mine", "1.250", "2.500", "unit"], []),
        (plots.draw_confusion([[13, 0], [17, 19]], ["x", "y"], "a"), ["13", "17", "19"], ["0"]),
        (plots.draw_vocabulary([9, 0, 1], [0, 1, 2]), ["2 of 3 tokens are used"], []),
        (plots.draw_confusion([[1] * 12] * 12, NAMES[:12], "a"), ["label 7", "1"], []),
        # More labels than there is room for are shades alone.
        (plots.draw_confusion([[1] * 101] * 101, NAMES, "a"), [], ["label 7"]),
        # Without data there is a picture all the same.
        (plots.draw_bars({}, "none", "b", "mine"), ["none"], []),
        (plots.draw_confusion([], [], "none"), ["none"], []),
        (plots.draw_context([], [], "none"), ["none"], []),
        (plots.draw_reliability({"a": []}, "rows", "b", "none"), ["none"], []),
        # An interval that does not contain its mean.
        (plots.draw_context(POSITIONS, [CONTEXTS[0] | {"more_low": 0.8}], "a"), ["a"], []),
    ],
)
def test_names_and_values_are_in_a_picture(picture, shown, absent):
    assert [text for text in shown if f">{text}<" not in picture] == []
    assert [text for text in absent if f">{text}<" in picture] == []


def test_labels_are_shown_as_written_on_one_line():
    labels = ["$x$ and \\frac", "two\nlines", "日本語", "a label that goes on and on and on"]
    bars = plots.draw_bars(dict.fromkeys(labels, Score(0.5)), "a", "b", highlight="")
    for picture in (plots.draw_confusion([[2, 1, 1, 1]] * 4, labels, "a"), bars):
        shown = ["$x$ and \\frac", "two lines", "日本語", "a label that goes on an…"]
        assert [label for label in shown if f">{label}<" not in picture] == []


def test_series_of_a_reliability_diagram_are_side_by_side():
    text = plots.draw_reliability({"before": [BIN], "after": [BIN]}, "rows", "a probability", "a title")
    bars = re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*" clip-path="[^"]*" style="fill: #', text)
    (left, end), (start, right) = sorted((float(a), float(b)) for a, b in bars)
    assert left < end < right
    assert end == pytest.approx(start, abs=1e-3)


def test_ticks_of_contexts_are_doublings():
    text = plots.draw_context(POSITIONS, CONTEXTS, "a title")
    # Positions 1 to 3 have the ticks 1, 2 and 4; contexts 4 and 8.
    assert [text.count(f">{tick}<") for tick in (1, 2, 4, 8)] == [1, 1, 2, 1]
