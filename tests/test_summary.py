import json

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


def test_without_a_test_split_validation_is_shown(tmp_path):
    _write(tmp_path / "evaluate.json", {"val": {"bits_per_byte": 1.5}, "matmul_dtype": "float32"})
    text = summarise_run(tmp_path)
    assert _names(text) == ["this model"]
    assert "val" in text.splitlines()[0]


def test_a_classifiers_accuracies_stand_best_first(tmp_path):
    figures = {"majority": {"accuracy": 0.25}, "random_weights": {"accuracy": 0.5}, "pretrained": {"accuracy": 0.75}}
    _write(tmp_path / "finetune" / "library.json", {"test": figures})
    text = summarise_run(tmp_path)
    assert _names(text) == ["pretrained", "random weights", "majority"]
    assert text.startswith("library")


def test_an_instruction_model_is_shown_before_and_after(tmp_path):
    bits = {"before": 3.125, "after": 2.5}
    _write(tmp_path / "finetune" / "docstring.json", {"test": {"answer_bits_per_byte": bits}})
    text = summarise_run(tmp_path)
    assert _names(text) == ["before", "after"]
    assert text.index("3.125") < text.index("2.500")


def test_a_task_that_was_skipped_says_why(tmp_path):
    _write(tmp_path / "finetune" / "library.json", {"skipped": "there is no labeled row"})
    assert summarise_run(tmp_path) == "library: skipped, there is no labeled row\n"
