"""Metrics as scores, and the one renderer of tables."""

import subprocess

import pytest

from llm.core.errors import UserError
from llm.report.metrics import Metrics, Score, read_json, read_metrics
from llm.report.tables import Code, Table, Title, fence, shell_string
from tests.report.samples import CONTENT, DETAILS

TABLE = Table(
    ["name", "a|b", "text"],
    [
        [Title("this <model>", "A note."), Score(0.5, 0.25, 0.75), Code("x`|`\n<y>")],
        ["other", 12345, True],
        ["third", None, "a\nb"],
    ],
    own="other",
    digits=2,
)
TEXTS = ["plain", "it's", 'say "it"', "def f(x)\n\n", "a\\nb\n", "$HOME `ls` !\n", "день\u3000\u2028", "\x1b[2J", ""]


def test_a_table_in_markdown():
    assert str(TABLE).split("\n") == [
        "| name | a\\|b | text |",
        "| --- | ---: | --- |",
        "| this <model> | 0.50 [0.25, 0.75] | `` x`\\|` <y> `` |",
        "| other | 12,345 | yes |",
        "| third | – | a b |",
    ]


def test_html_is_escaped_and_a_fence_is_longer_than_the_texts():
    html = TABLE.__html__()
    assert fence("a ``` b", "text") == "````text\na ``` b\n````"
    assert '<th scope="row">this &lt;model&gt;<small>A note.</small></th>' in html
    assert '<td class="n">0.50<small>[0.25, 0.75]</small></td><td><code>x`|`\n&lt;y&gt;</code></td>' in html
    assert '<tr class="own"><th scope="row">other</th>' in html


@pytest.mark.parametrize("text", [*TEXTS, "\U0001f600\x85"])
def test_bash_reads_the_text_that_was_written(text):
    command = f"printf %s {shell_string(text)}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert done.stdout.decode() == text
    assert len(shell_string(text).splitlines()) == 1


def test_scores_are_read_from_every_file(tmp_path):
    for name in ("evaluate", "finetune/topics", "details/evaluate", "runtime/evaluate"):
        path = tmp_path / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"test": {"model": {"a": 1.5, "a_low": 1.0, "a_high": 2.0}}, "other": {"b": 1}}')
    metrics = read_metrics(tmp_path)
    assert metrics.content.keys() == {"evaluate", "finetune/topics"}
    assert metrics.systems("evaluate", "test") == {"model": {"a": Score(1.5, 1.0, 2.0)}}
    assert metrics.systems("evaluate", "val") == metrics.systems("other", "test") == {}
    assert metrics.details["evaluate"]["other"] == {"b": 1}
    with pytest.raises(UserError, match=r"^pretrain\.json: expected a metrics file, it is missing"):
        metrics.content["pretrain"]


@pytest.mark.parametrize("content", [None, "{"])
def test_a_file_without_json_is_refused_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "prepare.json").write_text(content)
    with pytest.raises(UserError, match=r"prepare\.json: expected a JSON file of a run, got \w+; run dvc repro$"):
        read_json(tmp_path / "prepare.json")


def test_only_the_tasks_of_the_params_are_shown():
    found = Metrics(CONTENT, DETAILS).of_tasks({"topics": {}})
    assert list(found.tasks()) == ["topics"]
    assert {name for name in found.details if "/" in name} == {"finetune/topics"}
    with pytest.raises(UserError, match=r"finetune/topics\.json: expected a metrics file"):
        Metrics({}).of_tasks({"topics": {}})
