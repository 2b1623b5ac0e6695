import json
import shlex

import pytest
from rich.text import Text

from llm.report.excerpt import ELLIPSIS as CUT
from llm.report.excerpt import LINES, WIDTH, excerpt
from llm.report.summary import describe_run, how_to_try, show_texts, summarise_run


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


def test_a_model_that_sees_the_future_says_that_its_figures_are_no_measure(tmp_path):
    _write(tmp_path / "evaluate.json", {"test": {"bits_per_byte": 0.5}, "sees_the_future": True})
    assert "its bits per byte are no measure" in summarise_run(tmp_path)


# -- texts


def _samples(*samples, prompts_of="test"):
    rows = [
        {"prompt": prompt, "text": f"{way} {text}", "greedy": way == "greedy", "way": way, "ended": ended}
        for prompt, text, ended in samples
        for way in ("greedy", "temperature 0.8, top 50")
    ]
    return {"prompts_of": prompts_of, "samples": rows}


def _example(*messages, after="It runs.", reference="Run.\n\nFast."):
    turns = [{"role": role, "content": content} for role, content in messages]
    return {"answers": [{"messages": turns, "before": "x", "after": after, "reference": reference}]}


def test_the_first_drawn_texts_and_the_first_answer_are_shown(tmp_path):
    rows = [("def f(x)\n\n", "Return x.", True), ("class A\n\n", "More", False), ("class B\n\n", "Third", True)]
    _write(tmp_path / "samples.json", _samples(*rows))
    example = _example(("user", "Describe it.\n\ndef g()"))
    example["answers"].append(_example(("user", "Another"))["answers"][0])
    _write(tmp_path / "finetune" / "docstring.json", example)
    _write(tmp_path / "finetune" / "library.json", {"answers": []})
    assert "\n".join(show_texts(tmp_path)).splitlines() == [
        "beginnings of documents of test, continued (temperature 0.8, top 50; not selected)",
        "",
        "  > def f(x)",
        "    temperature 0.8, top 50 Return x.",
        "",
        "  > class A",
        "    temperature 0.8, top 50 More …",
        "",
        "docstring: a message of test, answered (greedy; not selected)",
        "",
        "  > Describe it.",
        "  >",
        "  > def g()",
        "    It runs.",
        "",
        "    reference: Run. Fast.",
    ]


def test_prompts_of_the_user_are_said_to_be_given(tmp_path):
    _write(tmp_path / "samples.json", _samples(("Once", "upon", True), prompts_of=None))
    assert show_texts(tmp_path)[0].startswith("prompts of params.yaml, continued (")


@pytest.mark.parametrize("samples", [None, {"prompts_of": None, "samples": []}], ids=["no file", "no prompts"])
def test_without_texts_none_are_shown(tmp_path, samples):
    if samples:
        _write(tmp_path / "samples.json", samples)
    assert show_texts(tmp_path) == []
    assert describe_run(tmp_path / "nowhere", tmp_path, tmp_path) == ""


def test_an_answer_without_a_word_is_said_to_be_none(tmp_path):
    _write(tmp_path / "finetune" / "a.json", _example(("system", "Be brief."), ("user", "Why?"), after="\n"))
    lines = show_texts(tmp_path)[0].splitlines()
    assert lines[2:5] == ["  > system: Be brief.", "  > user: Why?", "    (nothing)"]


EXCERPTS = {
    "prose": "It was the best of times, it was the worst of times. " * 60,
    "chinese": "今天天气很好，我们去公园散步。" * 90,
    "verse": "Two roads diverged\n" * 90,
    "one word": "x" * 5000,
    "code": "def f():\n\treturn [\n" + "        1,\n" * 50,
    "combining": "e\u0301" * 5000,
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 4000,
}


@pytest.mark.parametrize("text", EXCERPTS.values(), ids=EXCERPTS.keys())
def test_a_long_text_fits_a_terminal_and_says_that_it_is_cut(text):
    lines = excerpt(text, "    ")
    assert len(lines) == LINES
    assert max(Text(line).cell_len for line in lines) <= WIDTH
    assert lines[-1].endswith(CUT)
    shown = "".join("".join(lines).removesuffix(CUT).split())
    assert "".join(text.split()).startswith(shown[:-1])


@pytest.mark.parametrize(
    ("text", "ended", "lines"),
    [
        ("", True, [">"]),
        ("x", True, ["> x"]),
        ("x", False, ["> x …"]),
        ("\n\n  x\n\n\ty\n\n", True, [">   x", ">", ">     y"]),
        ("a\x00\x1b[31m\r\u202eb\u2028c\x85", True, [r"> a\x00\x1b[31m\r\u202eb\u2028c\x85"]),
        ("می‌رود\u3000\xa0x", True, ["> می‌رود\u3000\xa0x"]),
        ("[bold]x[/bold] :smile:", True, ["> [bold]x[/bold] :smile:"]),
    ],
)
def test_a_short_text_stays_as_it_is_but_for_control_characters(text, ended, lines):
    assert excerpt(text, "> ", ended) == lines


# -- how to try it


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([("user", "It's 2?")], ["--temperature", "0", "It's 2?"]),
        ([("system", "Be brief."), ("user", "a")], ["--system", "Be brief.", "--temperature", "0", "a"]),
        ([("user", "first"), ("assistant", "x"), ("user", "second")], ["--temperature", "0", "first"]),
        ([("user", "- a")], []),
        ([("user", "a\0b")], []),
        ([("user", "long " * 80)], []),
    ],
)
def test_a_model_that_answers_is_tried_with_a_message_of_its_kind(tmp_path, messages, words):
    export, folder = tmp_path / "models/export", tmp_path / "models/finetuned/my-task"
    _write(export / "config.json", {})
    _write(tmp_path / "finetune" / "my-task.json", _example(*messages))
    assert "chat" not in how_to_try(tmp_path, tmp_path, export)
    _write(folder / "chat_template.jinja", "")
    *_, command = how_to_try(tmp_path, tmp_path, export).splitlines()
    assert shlex.split(command) == ["python", "-m", "llm", "chat", str(folder), *words]
