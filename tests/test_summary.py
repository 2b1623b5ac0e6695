import json

import pytest

from llm.summary import summarise_run


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _names(text):
    """The names in the rows of a table, top down."""
    return [line.split("[")[0].rsplit(maxsplit=1)[0].strip() for line in text.splitlines() if line.startswith("  ")]


def test_where_nothing_was_measured_there_is_nothing_to_say(tmp_path):
    assert summarise_run(tmp_path / "metrics") == ""


def test_the_model_stands_among_its_baselines_in_order(tmp_path):
    test = {"bits_per_byte": 1.5, "bits_per_byte_low": 1.25, "bits_per_byte_high": 1.75}
    _write(tmp_path / "evaluate.json", {"val": {"bits_per_byte": 7}, "test": test})
    _write(tmp_path / "baselines.json", {"val": {"xz": 8}, "test": {"xz": 2.25, "zstd_given_train": 1.25}})
    text = summarise_run(tmp_path)
    assert _names(text) == ["zstd given train", "this model", "xz"]
    assert "test" in text.splitlines()[0]
    assert "1.500 [1.250, 1.750]" in text


@pytest.mark.parametrize(
    ("interval", "verdict", "line"),
    [
        ((-0.198, -0.121), "better, outside of chance", "−0.160 [−0.198, −0.121], better, outside of chance"),
        ((-0.25, 0.0625), "within chance", "−0.160 [−0.250, 0.062], within chance"),
        (
            None,
            "no interval, so nothing can be said of chance",
            "−0.160, no interval, so nothing can be said of chance",
        ),
    ],
)
def test_one_line_below_says_whether_the_best_baseline_is_beaten(tmp_path, interval, verdict, line):
    test = {"bits_per_byte": 1.5, "best_baseline": "xz_given_train", "bits_per_byte_difference": -0.16}
    test |= {"verdict": verdict}
    if interval:
        test |= dict(zip(("bits_per_byte_difference_low", "bits_per_byte_difference_high"), interval, strict=True))
    _write(tmp_path / "evaluate.json", {"test": test})
    _write(tmp_path / "baselines.json", {"test": {"xz_given_train": 1.66}})
    assert summarise_run(tmp_path).splitlines()[3:] == [f"  this model − xz given train: {line}"]


def test_without_a_test_split_validation_is_shown(tmp_path):
    _write(tmp_path / "evaluate.json", {"val": {"bits_per_byte": 1.5}, "matmul_dtype": "float32"})
    text = summarise_run(tmp_path)
    assert _names(text) == ["this model"]
    assert "val" in text.splitlines()[0]


def test_a_classifiers_accuracies_stand_best_first(tmp_path):
    figures = {"majority": {"accuracy": 0.25}, "random_weights": {"accuracy": 0.5}, "pretrained": {"accuracy": 0.75}}
    _write(tmp_path / "finetune" / "library.json", {"test": figures, "skipped": {"empty_text": 3}})
    text = summarise_run(tmp_path)
    assert _names(text) == ["pretrained", "random weights", "majority"]
    assert text.startswith("library")


def test_an_instruction_model_is_shown_before_and_after(tmp_path):
    bits = {"before": 3.125, "after": 2.5}
    _write(tmp_path / "finetune" / "docstring.json", {"test": {"answer_bits_per_byte": bits}})
    text = summarise_run(tmp_path)
    assert _names(text) == ["before", "after"]
    assert text.index("3.125") < text.index("2.500")


def test_every_figure_stands_with_its_own_interval(tmp_path):
    figures = {
        "pretrained": {"accuracy": 0.75, "accuracy_low": 0.625, "accuracy_high": 0.875},
        "zero_shot": {"accuracy": 0.25, "accuracy_low": 0.125, "accuracy_high": 0.375},
        "majority": {"accuracy": 0.5},
    }
    _write(tmp_path / "finetune" / "library.json", {"test": figures})
    lines = summarise_run(tmp_path).splitlines()
    assert [line.split()[-3:] for line in lines[1:]] == [
        ["0.750", "[0.625,", "0.875]"],
        ["majority", "0.500"],
        ["0.250", "[0.125,", "0.375]"],
    ]
    assert lines[3].startswith("  zero shot ")


def test_a_model_of_preferences_shows_pairs_and_answers(tmp_path):
    test = {
        "chosen_is_likelier": {"before": 0.5, "after": 0.75},
        "chosen_is_likelier_low": {"before": 0.375, "after": 0.625},
        "chosen_is_likelier_high": {"before": 0.625, "after": 0.875},
        "answer_bits_per_byte": {"before": 2.125, "after": 2.25},
        "answers_scored": 12,
    }
    _write(tmp_path / "finetune" / "likes.json", {"test": test})
    text = summarise_run(tmp_path)
    assert _names(text) == ["before", "after", "before", "after"]
    assert "0.500 [0.375, 0.625]" in text
    assert "0.750 [0.625, 0.875]" in text
    assert text.index("pairs") < text.index("0.750") < text.index("bits per byte") < text.index("2.250\n")


def test_a_task_that_was_skipped_says_why(tmp_path):
    _write(tmp_path / "finetune" / "library.json", {"skipped": "there is no labeled row"})
    assert summarise_run(tmp_path) == "library: skipped, there is no labeled row\n"
