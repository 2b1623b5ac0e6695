"""The summary of a run: scores with their intervals, texts, commands; excerpts that fit a terminal."""

import shlex

import pytest
from rich.text import Text

from llm.report import summary
from llm.report.metrics import Metrics
from llm.report.summary import describe_run, excerpt, show_commands, show_scores, show_texts
from tests.report.samples import CONTENT, DETAILS, EXAMPLE, merged


def scores(changes: dict | None = None) -> str:
    return show_scores(Metrics(merged(CONTENT, changes or {})))


@pytest.mark.parametrize(
    "lines",
    [
        [
            "bits per byte of test, less is better",
            "this model 1.375 [1.125, 1.500]",
            "xz -9e, given the training text 1.410",
            "bzip2 -9 1.900",
            "this model minus xz -9e, given the training text: -0.160 [-0.200, -0.120] bits per byte, better, outside "
            "of chance",
        ],
        ["topics: accuracy on test", "this model, finetuned 0.812 [0.701, 0.902]", "TF-IDF 0.634"],
        ["answers: chosen answer more likely", "before 0.512", "after 0.735 [0.654, 0.801]"],
        ["answers: bits per byte of the right answers", "before 3.456", "after 2.135"],
        ["none: skipped, no function of the corpus is left in test"],
    ],
)
def test_scores_are_in_tables_the_best_first(lines):
    found = "\n".join(" ".join(line.split()) for line in scores().splitlines())
    assert "\n".join(lines) in found


@pytest.mark.parametrize(
    ("changes", "shown", "absent"),
    [
        ({"evaluate": {"test": ...}}, "bits per byte of val", "of test, less"),
        ({"evaluate": {"test": {"model": {"best_baseline": ...}}}}, "this model   ", "this model less"),
        ({"evaluate": {"non_causal": True}}, "bits per byte are meaningless", "no text"),
    ],
)
def test_sentences_state_what_was_measured(tmp_path, changes, shown, absent):
    assert shown in scores(changes) and absent not in scores(changes)
    assert show_scores(Metrics({"pretrain": {}})) == "No text was held out, so nothing was measured.\n"
    assert describe_run(tmp_path / "nowhere", tmp_path) == ""


TEXTS = """
beginnings of documents of test, continued (temperature 0.7, top 50; not selected)

  > <i>
        x & y
    ```</pre>

answers: a prompt of test, answered (greedy; not selected)

  > Describe it.
  >
  > def g()
    It runs.

    reference: Run. Fast.
"""


def test_the_first_sample_and_the_first_answer_are_shown():
    assert show_texts(Metrics({}, DETAILS)) == TEXTS.split("\n")[1:]
    given = merged(DETAILS, {"evaluate": {"prompts_from": None}})
    assert show_texts(Metrics({}, given))[0].startswith("prompts of params.yaml, continued (")
    assert show_texts(Metrics({}, {"evaluate": {"samples": []}})) == []
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    details = {"finetune/a": {"answers": [EXAMPLE | {"messages": messages, "after": "\n"}]}}
    shown = ["  > system: Be brief.", "  > user: Why?", "    (nothing)"]
    assert show_texts(Metrics({}, details))[2:5] == shown


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
def test_commands_continue_a_prompt_and_ask_a_model_that_answers(tmp_path, messages, words):
    turns = [{"role": role, "content": content} for role, content in messages]
    details = {"finetune/my-task": {"answers": [EXAMPLE | {"messages": turns}]}}
    metrics, folder = Metrics(CONTENT, details), tmp_path / "finetuned/my-task"
    assert "There is no model" in show_commands(metrics, tmp_path)
    for path in (tmp_path / "pretrained/config.json", folder / "config.json"):
        path.parent.mkdir(parents=True)
        path.touch()
    assert f"--model {tmp_path}/pretrained" in show_commands(metrics, tmp_path)
    (tmp_path / "export/hf").mkdir(parents=True)
    (tmp_path / "export/hf/config.json").touch()
    first = show_commands(metrics, tmp_path)
    assert "chat" not in first
    assert shlex.split(first.splitlines()[-1])[-2:] == [f"{tmp_path}/export/hf", CONTENT["evaluate"]["example_prompt"]]
    (folder / "chat_template.jinja").touch()
    *_, command = show_commands(metrics, tmp_path).splitlines()
    assert shlex.split(command) == ["python", "-m", "llm", "chat", str(folder), *words]


@pytest.mark.parametrize(
    "text",
    [
        "今天天气很好，我们去公园散步。" * 90,
        "x" * 5000,
        "def f():\n\treturn [\n" + "        1,\n" * 50,
        "e\u0301" * 5000,
    ],
)
def test_a_long_text_fits_a_terminal_and_ends_with_an_ellipsis(text):
    lines = excerpt(text, "    ")
    assert len(lines) == summary.LINES
    assert max(Text(line).cell_len for line in lines) <= summary.WIDTH
    assert lines[-1].endswith(summary.ELLIPSIS)
    shown = "".join("".join(lines).removesuffix(summary.ELLIPSIS).split())
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
def test_a_short_text_keeps_everything_but_control_characters(text, ended, lines):
    assert excerpt(text, "> ", ended) == lines
