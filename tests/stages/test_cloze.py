import json

import pytest
from ruamel.yaml import YAML

from llm.core.errors import UserError
from llm.evaluate.params import ClozeParams
from llm.model.weights import save_model
from stages import cloze

PARAMS = ClozeParams(items=6, context_tokens=90)
SHARES = {"acc", "acc_norm"}


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
    assert metrics["left_out"] == {}
    names = {"docstring_word", "closing_bracket", "argument_name", "last_word"}
    assert metrics.keys() == names | {"left_out"}
    assert {path.name for path in tasks.iterdir()} == {f"{name}{end}" for name in names for end in (".jsonl", ".yaml")}
    for name in names:
        items = [json.loads(line) for line in (tasks / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert len(items) == metrics[name]["items"] == 6
        assert all(item.keys() == {"document", "context", "choices", "answer"} for item in items)
        assert {item["document"] for item in items} <= (PROSE if name == "last_word" else MODULES).keys()
        assert metrics[name].keys() >= SHARES | {"chance", "documents", "acc_low", "acc_high"}
        assert all(0 <= metrics[name][share] <= 1 for share in SHARES)
        config = YAML(typ="safe").load(tasks / f"{name}.yaml")
        assert config["task"] == f"groundup_{name}"
        assert config["dataset_kwargs"]["data_files"] == {"test": f"data/cloze/{name}.jsonl"}


def test_a_task_of_another_kind_of_text_is_not_named(run):
    tasks, metrics = run(PROSE)
    assert metrics.keys() == {"last_word", "left_out"}
    assert metrics["left_out"] == {}
    assert {path.stem for path in tasks.iterdir()} == {"last_word"}


def test_a_task_without_enough_items_is_left_out_and_named(run):
    _, metrics = run(PROSE | dict([*MODULES.items()][:1]))
    assert metrics["left_out"]["docstring_word"] == "3 items, wanted 6"
    _, metrics = run(PROSE, name="many", params=PARAMS.model_copy(update={"items": 500}))
    assert metrics["left_out"]["last_word"] == "9 items, wanted 20"


def test_without_test_there_is_nothing_to_ask(run):
    tasks, metrics = run({})
    assert list(tasks.iterdir()) == []
    assert metrics["left_out"] == {}


def test_two_runs_write_the_same_and_another_seed_draws_other_items(run):
    first, again, other = (run(MODULES, name=name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    contents = [
        {path.name: path.read_bytes() for path in sorted(tasks.iterdir())} for tasks, _ in (first, again, other)
    ]
    assert contents[0] == contents[1] != contents[2]
    assert first[1] == again[1]


def test_a_model_that_sees_the_future_is_not_asked(run):
    tasks, metrics = run(PROSE, attention="trainable")
    assert (tasks / "last_word.jsonl").exists()
    assert metrics["left_out"]["last_word"] == "trainable attention sees what it predicts"
    assert metrics.keys() == {"left_out"}


def test_a_recurrent_model_is_asked_too(run):
    assert run(PROSE, family="gru")[1]["last_word"]["items"] == 6


def test_a_corpus_without_its_table_is_refused(tmp_path, draw_gpt, small_tokenizer_file, plain_cpu):
    save_model(tmp_path / "weights", draw_gpt())
    outputs = [tmp_path / "tasks", tmp_path / "cloze.json"]
    with pytest.raises(UserError, match=r"test\.parquet: expected a Parquet table"):
        cloze.main(PARAMS, 1, tmp_path / "weights", tmp_path, small_tokenizer_file, "data/cloze", *outputs)
