import re

import pytest

from llm.plots import draw_bars, draw_calibration, draw_confusion, draw_context, draw_curve

ROWS = [
    {"step": 2, "train_loss": 4.5, "rate": 0.5, "val_loss": 4.25},
    {"step": 4, "train_loss": 3.5, "rate": 1.0, "val_loss": 3.25},
]
PLACES = [{"from": 1, "to": 1, "nats_per_token": 4.5}, {"from": 2, "to": 3, "nats_per_token": 3.5}]
KEPT = [
    {"context": 4, "more": 0.75, "more_low": 0.5, "more_high": 1.0},
    {"context": 8, "more": 0.0, "more_low": 0.0, "more_high": 0.0},
]
BINS = [{"from": 0.3, "to": 0.4, "tokens": 3, "confidence": 0.35, "accuracy": 0.25}]
DRAWINGS = {
    "curve": lambda path, bend=0.0: draw_curve([ROWS[0], ROWS[1] | {"val_loss": 3.25 + bend}], "a title", path),
    "bars": lambda path, bend=0.0: draw_bars({"mine": 1.5, "theirs": 2.5 + bend}, "a title", "a unit", path, "mine"),
    "context": lambda path, bend=0.0: draw_context(PLACES, [KEPT[0] | {"more": 0.75 + bend}, KEPT[1]], "a title", path),
    "calibration": lambda path, bend=0.0: draw_calibration([BINS[0] | {"accuracy": bend / 4}], "a title", path),
    "confusion": lambda path, bend=0.0: draw_confusion([[3, 2 + int(bend)], [0, 7]], ["x", "y"], "a title", path),
}
FETCHED = re.compile(r"""(?:href|src)\s*=\s*["'](?!\#|data:)|url\((?!\#)|@import|<script|<\?xml-stylesheet""")


@pytest.fixture(params=DRAWINGS)
def draw(request):
    return DRAWINGS[request.param]


def test_the_same_data_gives_the_same_bytes_whatever_was_drawn_before(draw, tmp_path):
    draw(tmp_path / "first.svg")
    for other in DRAWINGS.values():
        other(tmp_path / "other.svg")
    draw(tmp_path / "second.svg")
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


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
    draw_curve([{"step": 1, "train_loss": 2.0, "rate": 1.0}], "a title", tmp_path / "picture.svg")
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
    assert ">no rows<" in (tmp_path / "confusion.svg").read_text(encoding="utf-8")
