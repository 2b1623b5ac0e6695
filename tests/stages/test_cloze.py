import json

import pytest
from ruamel.yaml import YAML

from llm.core.errors import UserError
from llm.evaluate.gaps import TASKS
from llm.evaluate.params import ClozeParams
from llm.model.weights import save_model
from stages import cloze

PARAMS = ClozeParams(items=6, context_tokens=90)


def write_module(number):
    return f'''"""It opens the river{"s" * (number % 2)}. Then it closes the garden. All of the window."""


def join(path{number}, name, limit):
    found = [{{path{number}: name[limit]}}]
    return found or path{number} or name
'''


MODULES = {f"module{number}.py": write_module(number) for number in range(8)}
PROSE = {f"{word}.txt": f"The {word} runs. It may fall\n\nand end there." for word in ("river", "rain", "wind")}


@pytest.fixture
def run(tmp_path, write_corpus, small_tokenizer_file, draw_gpt, plain_cpu):
    """Runs the stage on documents of test; returns its folder of tasks and its metrics."""

    def run(documents, name="run", seed=1, params=PARAMS, **shape):
        folder = tmp_path / name
        save_model(folder / "weights", draw_gpt(context_length=128, **shape))
        corpus = write_corpus(folder / "corpus", {"train": PROSE, "test": documents})
        outputs = [folder / "tasks", folder / "cloze.json"]
        cloze.main(params, seed, folder / "weights", corpus, small_tokenizer_file, "data/cloze", *outputs)
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
        assert all(item.keys() == {"document", "context", "choices", "answer"} for item in items)
        assert {item["document"] for item in items} <= (PROSE if task == "last_word" else MODULES).keys()
        assert f"{task}_documents" in model
        for name in (f"{task}_accuracy", f"{task}_accuracy_norm"):
            assert 0 <= model[f"{name}_low"] <= model[name] <= model[f"{name}_high"] <= 1
        config = YAML(typ="safe").load(tasks / f"{task}.yaml")
        assert config["task"] == f"groundup_{task}"
        assert config["dataset_kwargs"]["data_files"] == {"test": f"data/cloze/{task}.jsonl"}


@pytest.mark.parametrize(
    ("documents", "items", "options", "skipped"),
    [
        (PROSE, 6, {}, {}),
        (PROSE, 6, {"family": "gru"}, {}),
        (PROSE, 500, {}, {"last_word": "9 items, expected at least 20"}),
        (PROSE, 6, {"attention": "trainable"}, {"last_word": "model.attention trainable is not causal"}),
        (PROSE | {"m.py": write_module(0)}, 6, {}, dict.fromkeys(TASKS[:3])),
        ({}, 6, {}, {}),
    ],
    ids=["prose", "gru", "few", "future", "few of code", "none"],
)
def test_tasks_that_the_text_has_are_scored_or_skipped(run, documents, items, options, skipped):
    tasks, metrics = run(documents, params=PARAMS.model_copy(update={"items": items}), **options)
    is_scored = bool(documents) and "last_word" not in skipped
    assert metrics.keys() == skipped.keys() | ({"test"} if is_scored else set())
    assert all(metrics[task]["skipped"].startswith(reason or "") for task, reason in skipped.items())
    assert (tasks / "last_word.jsonl").exists() == (is_scored or "attention" in options)


def test_the_seed_alone_decides_on_the_items(run):
    found = [run(MODULES, name=name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    contents = [{path.name: path.read_bytes() for path in sorted(tasks.iterdir())} for tasks, _ in found]
    assert contents[0] == contents[1] != contents[2]
    assert found[0][1] == found[1][1]


def test_a_corpus_without_its_table_is_refused(tmp_path, draw_gpt, small_tokenizer_file, plain_cpu):
    save_model(tmp_path / "weights", draw_gpt())
    outputs = [tmp_path / "tasks", tmp_path / "cloze.json"]
    with pytest.raises(UserError, match=r"test\.parquet: expected a Parquet table"):
        cloze.main(PARAMS, 1, tmp_path / "weights", tmp_path, small_tokenizer_file, "data/cloze", *outputs)
