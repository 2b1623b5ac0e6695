import json

import pytest
from ruamel.yaml import YAML

from llm.evaluate.gaps import TASKS
from llm.evaluate.params import ClozeParams
from llm.model.weights import save_model
from stages import cloze

MODULE = '''"""It opens the river{s}. Then it closes the garden. All of the window."""


def join(path{n}, name, limit):
    found = [{{path{n}: name[limit]}}]
    return found or path{n} or name
'''
MODULES = {f"module{n}.py": MODULE.format(n=n, s="s" * (n % 2)) for n in range(8)}
PROSE = {f"{word}.txt": f"The {word} runs. It may fall\n\nand end there." for word in ("river", "rain", "wind")}


@pytest.fixture
def run(tmp_path, write_corpus, small_tokenizer_file, draw_gpt, plain_cpu):
    """Runs the stage on documents of test; returns its folder of tasks and its metrics."""

    def run(documents, items=6, **shape):
        folder = tmp_path / "run"
        save_model(folder / "weights", draw_gpt(context_length=128, **shape))
        corpus, params = (
            write_corpus(folder / "corpus", {"test": documents}),
            ClozeParams(items=items, context_tokens=90),
        )
        outputs = [folder / "tasks", folder / "cloze.json"]
        cloze.main(params, 1, folder / "weights", corpus, small_tokenizer_file, "data/cloze", *outputs)
        return outputs[0], json.loads(outputs[1].read_text(encoding="utf-8"))

    return run


def test_each_task_is_written_and_scored(run):
    tasks, metrics = run(MODULES | PROSE)
    assert metrics.keys() == {"test"}
    model, chance = metrics["test"]["model"], metrics["test"]["chance"]
    assert chance.keys() == {f"{task}_accuracy" for task in TASKS}
    assert {path.name for path in tasks.iterdir()} == {f"{task}{end}" for task in TASKS for end in (".jsonl", ".yaml")}
    for task in TASKS:
        items = [json.loads(line) for line in (tasks / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert len(items) == model[f"{task}_items"] == 6
        assert {item["document"] for item in items} <= (PROSE if task == "last_word" else MODULES).keys()
        assert f"{task}_documents" in model
        for name in (f"{task}_accuracy", f"{task}_accuracy_norm"):
            assert 0 <= model[f"{name}_low"] <= model[name] <= model[f"{name}_high"] <= 1
        config = YAML(typ="safe").load(tasks / f"{task}.yaml")
        assert config["task"] == f"groundup_{task}"
        assert config["dataset_kwargs"]["data_files"] == {"test": f"data/cloze/{task}.jsonl"}


@pytest.mark.parametrize(
    ("documents", "items", "shape", "skipped"),
    [
        (PROSE, 6, {"family": "gru"}, {}),
        (PROSE, 500, {}, {"last_word": "9 items, expected at least 20"}),
        (PROSE, 6, {"attention": "trainable"}, {"last_word": "model.attention trainable is not causal"}),
        (PROSE | {"m.py": MODULES["module0.py"]}, 6, {}, dict.fromkeys(TASKS[:3])),
        ({}, 6, {}, {}),
    ],
    ids=["gru", "few", "future", "few of code", "none"],
)
def test_tasks_that_the_text_has_are_scored_or_skipped(run, documents, items, shape, skipped):
    tasks, metrics = run(documents, items=items, **shape)
    is_scored = bool(documents) and "last_word" not in skipped
    assert metrics.keys() == skipped.keys() | ({"test"} if is_scored else set())
    assert all(metrics[task]["skipped"].startswith(reason or "") for task, reason in skipped.items())
    assert (tasks / "last_word.jsonl").exists() == (is_scored or "attention" in shape)
