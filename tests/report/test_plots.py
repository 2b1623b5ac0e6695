import re

import pytest

from llm.report.plots import (
    MOST_LABELS,
    draw_bars,
    draw_calibration,
    draw_confusion,
    draw_context,
    draw_curve,
    draw_intervals,
    draw_reliability,
    draw_roc,
)

ROWS = [
    {"step": 2, "train_loss": 4.5, "lr_factor": 0.5, "val_loss": 4.25},
    {"step": 4, "train_loss": 3.5, "lr_factor": 1.0, "val_loss": 3.25},
]
PLACES = [{"from": 1, "to": 1, "nats_per_token": 4.5}, {"from": 2, "to": 3, "nats_per_token": 3.5}]
KEPT = [
    {"context": 4, "more": 0.75, "more_low": 0.5, "more_high": 1.0},
    {"context": 8, "more": 0.0, "more_low": 0.0, "more_high": 0.0},
]
BINS = [{"from": 0.3, "to": 0.4, "count": 3, "confidence": 0.35, "accuracy": 0.25}]
ROW_BINS = [{"from": 0.3, "to": 0.4, "count": 3, "confidence": 0.35, "accuracy": 0.25}]
DRAWINGS = {
    "curve": lambda path, bend=0.0: draw_curve([ROWS[0], ROWS[1] | {"val_loss": 3.25 + bend}], "a title", path),
    "bars": lambda path, bend=0.0: draw_bars({"mine": 1.5, "theirs": 2.5 + bend}, "a title", "a unit", path, "mine"),
    "context": lambda path, bend=0.0: draw_context(PLACES, [KEPT[0] | {"more": 0.75 + bend}, KEPT[1]], "a title", path),
    "calibration": lambda path, bend=0.0: draw_calibration([BINS[0] | {"accuracy": bend / 4}], "a title", path),
    "confusion": lambda path, bend=0.0: draw_confusion([[3, 2 + int(bend)], [0, 7]], ["x", "y"], "a title", path),
    "reliability": lambda path, bend=0.0: draw_reliability(
        {"before": ROW_BINS, "after": [ROW_BINS[0] | {"accuracy": bend / 4}]}, "a probability", "a title", path
    ),
    "roc": lambda path, bend=0.0: draw_roc(
        [(0, 0), (0.25, 0.5 + bend / 8), (1, 1)], [(1, 0.5), (0, 1)], 0.5, "a title", path
    ),
    "intervals": lambda path, bend=0.0: draw_intervals(
        {"mine": (0.5, 0.25, 0.75), "theirs": (0.5 + bend / 8, None, None)}, "a title", "a unit", path, "mine"
    ),
}
FETCHED = re.compile(r"""(?:href|src)\s*=\s*["'](?!\#|data:)|url\((?!\#)|@import|<script|<\?xml-stylesheet""")


@pytest.fixture(params=DRAWINGS)
def draw(request):
    return DRAWINGS[request.param]


def test_the_same_data_gives_the_same_bytes_whatever_was_drawn_before(tmp_path):
    for order, names in (("first", [*DRAWINGS]), ("second", [*DRAWINGS][::-1])):
        for name in names:
            DRAWINGS[name](tmp_path / order / f"{name}.svg")
    for name in DRAWINGS:
        first, second = (tmp_path / order / f"{name}.svg" for order in ("first", "second"))
        assert first.read_bytes() == second.read_bytes(), name


def test_other_data_gives_another_picture(draw, tmp_path):
    draw(tmp_path / "first.svg")
    draw(tmp_path / "second.svg", bend=2.0)
    assert (tmp_path / "first.svg").read_bytes() != (tmp_path / "second.svg").read_bytes()


def test_a_picture_fetches_nothing_and_tells_no_date(draw, tmp_path):
    draw(tmp_path / "picture.svg")
    text = (tmp_path / "picture.svg").read_text(encoding="utf-8")
    assert not FETCHED.search(text)
    assert "dc:date" not in text


def test_words_stay_words_in_a_picture(draw, tmp_path):
    draw(tmp_path / "picture.svg")
    assert ">a title<" in (tmp_path / "picture.svg").read_text(encoding="utf-8")


def test_folders_on_the_way_are_made(draw, tmp_path):
    draw(tmp_path / "a" / "b" / "picture.svg")
    assert (tmp_path / "a" / "b" / "picture.svg").is_file()


def test_a_curve_without_validation_shows_training_alone(tmp_path):
    draw_curve([{"step": 1, "train_loss": 2.0, "lr_factor": 1.0}], "a title", tmp_path / "picture.svg")
    text = (tmp_path / "picture.svg").read_text(encoding="utf-8")
    assert ">train<" in text
    assert ">validation<" not in text


def test_every_bar_stands_with_its_name_and_value_the_first_on_top(tmp_path):
    draw_bars({"mine": 1.25, "theirs": 2.5}, "a title", "a unit", tmp_path / "picture.svg", highlight="mine")
    text = (tmp_path / "picture.svg").read_text(encoding="utf-8")
    assert ">1.250<" in text
    assert ">2.500<" in text
    height = {
        name: float(re.search(rf'y="([\d.]+)"[^>]*>{name}<|translate\([\d.]+ ([\d.]+)\)[^>]*>{name}<', text)[1])
        for name in ("mine", "theirs")
    }
    assert height["mine"] < height["theirs"]


def test_counts_stand_in_their_cells_and_nothing_in_empty_ones(tmp_path):
    draw_confusion([[13, 0], [17, 19]], ["x", "y"], "a title", tmp_path / "picture.svg")
    text = (tmp_path / "picture.svg").read_text(encoding="utf-8")
    assert all(f">{count}<" in text for count in (13, 17, 19))
    assert ">0<" not in text


def test_a_label_is_shown_as_it_is_written_on_one_line_and_in_any_script(tmp_path):
    labels = ["$x$ and \\frac", "two\nlines", "日本語", "a label that goes on and on and on"]
    draw_confusion([[2, 1, 1, 1]] * 4, labels, "a title", tmp_path / "confusion.svg")
    draw_bars(dict.fromkeys(labels, 0.5), "a title", "a unit", tmp_path / "bars.svg", highlight="")
    for name in ("confusion", "bars"):
        text = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        assert [label for label in ("$x$ and \\frac", "two lines", "日本語") if f">{label}<" not in text] == []
        assert ">a label that goes on an…<" in text


def test_more_labels_than_there_is_room_for_are_shades_alone(tmp_path):
    n = MOST_LABELS + 1
    for labels, is_named in (([f"label {i}" for i in range(n)], False), ([f"label {i}" for i in range(12)], True)):
        draw_confusion([[1] * len(labels)] * len(labels), labels, "a title", tmp_path / "picture.svg")
        text = (tmp_path / "picture.svg").read_text(encoding="utf-8")
        assert (">label 7<" in text) is is_named
        assert (">1<" in text) is is_named


def test_the_series_of_a_reliability_diagram_stand_side_by_side(tmp_path):
    draw_reliability({"before": ROW_BINS, "after": ROW_BINS}, "a probability", "a title", tmp_path / "picture.svg")
    text = (tmp_path / "picture.svg").read_text(encoding="utf-8")
    assert all(f">{words}<" in text for words in ("before", "after", "a probability", "rows"))
    bars = re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*" clip-path="[^"]*" style="fill: #', text)
    (left, end), (start, right) = sorted((float(a), float(b)) for a, b in bars)
    assert left < end < right
    assert end == pytest.approx(start, abs=1e-3)


def test_every_point_stands_with_its_name_and_value(tmp_path):
    draw_intervals(
        {"mine": (0.875, 0.75, 1.0), "theirs": (0.125, None, None)}, "a title", "a unit", tmp_path / "a.svg", "mine"
    )
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert all(f">{words}<" in text for words in ("mine", "theirs", "0.875", "0.125", "a unit"))


def test_contexts_are_counted_in_doublings_from_the_first_to_the_last(tmp_path):
    draw_context(PLACES, KEPT, "a title", tmp_path / "picture.svg")
    text = (tmp_path / "picture.svg").read_text(encoding="utf-8")
    # Places 1 to 3 take the ticks 1, 2 and 4; contexts 4 and 8.
    assert [text.count(f">{tick}<") for tick in (1, 2, 4, 8)] == [1, 1, 2, 1]


def test_an_interval_that_does_not_hold_its_mean_and_one_that_is_not_there_are_drawn(tmp_path):
    for row in (KEPT[0] | {"more_low": 0.8}, {"context": 4, "more": 0.75}):
        draw_context(PLACES, [row, KEPT[1]], "a title", tmp_path / "picture.svg")
        assert ">a title<" in (tmp_path / "picture.svg").read_text(encoding="utf-8")


def test_nothing_to_show_is_a_picture_all_the_same(tmp_path):
    draw_bars({}, "no text was held out", "a unit", tmp_path / "bars.svg", highlight="mine")
    draw_confusion([], [], "no rows", tmp_path / "confusion.svg")
    assert ">no text was held out<" in (tmp_path / "bars.svg").read_text(encoding="utf-8")
    draw_context([], [], "no text", tmp_path / "context.svg")
    draw_calibration([], "no tokens", tmp_path / "calibration.svg")
    assert ">no text<" in (tmp_path / "context.svg").read_text(encoding="utf-8")
    assert ">no tokens<" in (tmp_path / "calibration.svg").read_text(encoding="utf-8")
    draw_reliability({"before": [], "after": []}, "a probability", "no bins", tmp_path / "reliability.svg")
    draw_intervals({}, "no models", "a unit", tmp_path / "intervals.svg", "mine")
    assert ">no bins<" in (tmp_path / "reliability.svg").read_text(encoding="utf-8")
    assert ">no models<" in (tmp_path / "intervals.svg").read_text(encoding="utf-8")
    assert ">no rows<" in (tmp_path / "confusion.svg").read_text(encoding="utf-8")
