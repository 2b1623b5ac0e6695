"""Pictures: the same bytes for the same data, and everything that a reader looks for is in them."""

import re

import pytest

from llm.report.metrics import Score
from llm.report.plots import (
    MAX_NAMED_LABELS,
    draw_bars,
    draw_confusion,
    draw_context,
    draw_curve,
    draw_curves,
    draw_reliability,
    draw_roc,
    draw_vocabulary,
)

ROWS = [
    {"step": 2, "train_loss": 4.5, "lr_factor": 0.5, "val_loss": 4.25},
    {"step": 4, "train_loss": 3.5, "lr_factor": 1.0, "val_loss": 3.25},
]
POSITIONS = [{"from": 1, "to": 1, "nats_per_token": 4.5}, {"from": 2, "to": 3, "nats_per_token": 3.5}]
CONTEXTS = [
    {"context": 4, "more": 0.75, "more_low": 0.5, "more_high": 1.0},
    {"context": 8, "more": 0.0, "more_low": 0.0, "more_high": 0.0},
]
BIN = {"from": 0.3, "to": 0.4, "count": 3, "confidence": 0.35}
ROC = [(0, 0), (0.25, 0.5), (1, 1)]
BARS = {"mine": Score(1.25, 1.0, 1.5), "theirs": Score(2.5)}
# A picture of each kind, which differs with `bend`.
PICTURES = {
    "curve": lambda bend: draw_curve([ROWS[0], ROWS[1] | {"val_loss": 3.25 + bend}], "title"),
    "curves": lambda bend: draw_curves({"title": ROWS, "other": [ROWS[0] | {"train_loss": bend}]}),
    "bars": lambda bend: draw_bars(
        {"mine": Score(0.5, 0.25, 0.75), "theirs": Score(2.5 + bend)}, "title", "unit", "mine"
    ),
    "context": lambda bend: draw_context(POSITIONS, [CONTEXTS[0] | {"more": 0.75 + bend}, CONTEXTS[1]], "title"),
    "confusion": lambda bend: draw_confusion([[3, 2 + int(bend)], [0, 7]], ["x", "y"], "title"),
    "reliability": lambda bend: draw_reliability(
        {"a": [BIN | {"accuracy": 0.25}], "b": [BIN | {"accuracy": bend / 4}]}, "rows", "probability", "title"
    ),
    "roc": lambda bend: draw_roc([ROC[0], (0.25, 0.5 + bend / 8), ROC[2]], [(1, 0.5), (0, 1)], 0.5, "title"),
    "vocabulary": lambda bend: draw_vocabulary([9, 3, 0, 1], [0, 1, 2, 4 + int(bend)]),
}
FETCHED = re.compile(r"""(?:href|src)\s*=\s*["'](?!\#|data:)|url\((?!\#)|@import|<script|<\?xml-stylesheet""")


@pytest.fixture(scope="module")
def drawn():
    """Every picture, drawn in order, then bent, then straight in the other order."""
    first = {name: draw(0.0) for name, draw in PICTURES.items()}
    bent = {name: draw(2.0) for name, draw in PICTURES.items()}
    again = {name: PICTURES[name](0.0) for name in reversed(PICTURES)}
    return first, bent, again


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_data_gives_the_same_bytes(drawn, name):
    first, bent, again = (pictures[name] for pictures in drawn)
    assert first == again != bent
    assert not FETCHED.search(first)
    assert "dc:date" not in first
    assert name == "vocabulary" or ">title<" in first  # words are text, not shapes


@pytest.mark.parametrize(
    ("picture", "shown", "absent"),
    [
        (lambda: draw_curve([{"step": 1, "train_loss": 2.0, "lr_factor": 1.0}], "a"), ["train"], ["validation"]),
        (lambda: draw_bars(BARS, "a", "unit", "mine"), ["mine", "1.250", "2.500", "unit"], []),
        (lambda: draw_confusion([[13, 0], [17, 19]], ["x", "y"], "a"), ["13", "17", "19"], ["0"]),
        (lambda: draw_vocabulary([9, 0, 1], [0, 1, 2]), ["2 of 3 tokens are used"], []),
        (lambda: draw_confusion([[1] * 12] * 12, [f"label {i}" for i in range(12)], "a"), ["label 7", "1"], []),
        # More labels than there is room for are shades alone.
        (
            lambda: draw_confusion([[1] * 101] * 101, [f"label {i}" for i in range(MAX_NAMED_LABELS + 1)], "a"),
            [],
            ["label 7"],
        ),
        # Without data there is a picture all the same.
        (lambda: draw_bars({}, "none", "b", "mine"), ["none"], []),
        (lambda: draw_confusion([], [], "none"), ["none"], []),
        (lambda: draw_context([], [], "none"), ["none"], []),
        (lambda: draw_reliability({"a": []}, "rows", "b", "none"), ["none"], []),
        # An interval that does not contain its mean, and none.
        (lambda: draw_context(POSITIONS, [CONTEXTS[0] | {"more_low": 0.8}], "a"), ["a"], []),
        (lambda: draw_context(POSITIONS, [{"context": 4, "more": 0.75}], "a"), ["a"], []),
    ],
)
def test_names_and_values_are_in_a_picture(picture, shown, absent):
    found = picture()
    assert [text for text in shown if f">{text}<" not in found] == []
    assert [text for text in absent if f">{text}<" in found] == []


def test_labels_are_shown_as_written_on_one_line():
    labels = ["$x$ and \\frac", "two\nlines", "日本語", "a label that goes on and on and on"]
    for text in (
        draw_confusion([[2, 1, 1, 1]] * 4, labels, "a"),
        draw_bars(dict.fromkeys(labels, Score(0.5)), "a", "b", highlight=""),
    ):
        shown = ["$x$ and \\frac", "two lines", "日本語", "a label that goes on an…"]
        assert [label for label in shown if f">{label}<" not in text] == []


def test_series_of_a_reliability_diagram_are_side_by_side():
    bins = [BIN | {"accuracy": 0.25}]
    text = draw_reliability({"before": bins, "after": bins}, "rows", "a probability", "a title")
    bars = re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*" clip-path="[^"]*" style="fill: #', text)
    (left, end), (start, right) = sorted((float(a), float(b)) for a, b in bars)
    assert left < end < right
    assert end == pytest.approx(start, abs=1e-3)


def test_ticks_of_contexts_are_doublings():
    text = draw_context(POSITIONS, CONTEXTS, "a title")
    # Positions 1 to 3 have the ticks 1, 2 and 4; contexts 4 and 8.
    assert [text.count(f">{tick}<") for tick in (1, 2, 4, 8)] == [1, 1, 2, 1]
