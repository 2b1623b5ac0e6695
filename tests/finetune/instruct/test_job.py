"""An instruction task from files to files: figures before and after, over seeds, by every method and kind of row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from llm.core.errors import UserError
from llm.export.hf.folder import read_folder
from llm.finetune.instruct.instruct import job as instruct_job
from llm.finetune.instruct.job import by_figure, over_seeds, run_instruct
from llm.finetune.shared.answers import answer, score_answers
from llm.finetune.shared.jobs import Job
from llm.tokens.tokenizer import Tokenizer

SPLITS = ["train", "train", "train", "val", "test"]
TEST = [number for number in range(30) if SPLITS[number % 5] == "test"]
ASKED = [f"name {number}" for number in range(30)]
ANSWERED = ["rain falls" if number % 2 else "the river" for number in range(30)]
WHEN = {"before", "after"}


def _prompt_rows(folder: Path) -> Path:
    rows = {"prompt": ASKED, "completion": ANSWERED, "split": [SPLITS[number % 5] for number in range(30)]}
    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def _message_rows(folder: Path) -> Path:
    with (folder / "rows.jsonl").open("w") as file:
        for number, (asked, answered) in enumerate(zip(ASKED, ANSWERED, strict=True)):
            said = [("system", "Go."), ("user", asked), ("assistant", answered)]
            messages = [{"role": role, "content": content} for role, content in said]
            file.write(json.dumps({"messages": messages, "split": SPLITS[number % 5]}) + "\n")
    return folder / "rows.jsonl"


@pytest.fixture
def run(tmp_path, exported_folder, plain_cpu, make_task, write_corpus) -> Callable[..., tuple[dict[str, Any], Path]]:
    """Runs a task with changes; the metrics, and the folder of what it wrote."""

    def run_one(
        changes: dict | None = None,
        write: Callable[[Path], Path] = _prompt_rows,
        n_seeds: int = 1,
        text: str = "The river runs, the rain falls.",
        name: str = "out",
    ) -> tuple[dict[str, Any], Path]:
        out = tmp_path / name
        for folder in ("scratch", "model", "plots"):
            (out / folder).mkdir(parents=True)
        write_corpus(out, {"test": {"a.txt": text}} if text else {})
        job = Job(
            data=write(out),
            base=exported_folder,
            held_out=out / "test.parquet",
            model=out / "model",
            plots=out / "plots",
            report=out / "report.md",
            answers=out / "answers.json",
            seed=1,
            n_seeds=n_seeds,
            machine=plain_cpu,
            scratch=out / "scratch",
        )
        return run_instruct(job, make_task("instruct", {"training.epochs": 6.0} | (changes or {}))), out

    return run_one


def test_every_figure_is_told_before_and_after(run):
    metrics, out = run()
    assert metrics["rows"] == {"train": 18, "val": 6, "test": 6}
    test = metrics["test"]
    assert test.pop("answers_scored") == 6
    assert test.keys() == {
        *("answer_bits_per_byte", "answer_bits_per_byte_low", "answer_bits_per_byte_high", "answer_nats_per_token"),
        *("base_bits_per_byte", "token_f1", "exact_match", "chrf"),
    }
    assert all(of.keys() == WHEN for of in test.values())
    assert test["answer_bits_per_byte"]["after"] < test["answer_bits_per_byte"]["before"]
    assert test["base_bits_per_byte"]["after"] != test["base_bits_per_byte"]["before"]
    assert metrics["settings"]["pretrained"].keys() >= {"method", "trained_weights", "rate", "steps"}
    assert "seeds" not in metrics
    # What the figures and the page say of answers is what the written model says.
    model, tokenizer = read_folder(out / "model"), Tokenizer.load(out / "model/tokenizer.json")
    answers = [answer(model, ASKED[number], tokenizer, 64) for number in TEST]
    scores = score_answers(answers, [ANSWERED[number] for number in TEST])
    assert {name: test[name]["after"] for name in scores} == scores
    page = (out / "report.md").read_text()
    assert page.count("## Prompt") == 6
    assert "````text\nname 4\n````\n\n**before**\n" in page
    assert f"**after**\n\n````text\n{answers[0]}\n````\n\n**reference**\n\n````text\n{ANSWERED[4]}\n````" in page
    # The same rows for programs, in an order that the seed draws.
    examples = json.loads((out / "answers.json").read_text())["answers"]
    asked = [example["messages"] for example in examples]
    assert sorted(asked, key=str) == sorted(([{"role": "user", "content": ASKED[n]}] for n in TEST), key=str)
    assert asked != [[{"role": "user", "content": ASKED[number]}] for number in TEST]
    said = dict(zip((ASKED[number] for number in TEST), answers, strict=True))
    assert all(example["after"] == said[example["messages"][0]["content"]] for example in examples)
    assert examples[0].keys() == {"messages", "before", "after", "reference"}


def test_more_rows_than_are_scored_are_spread_evenly(run, monkeypatch):
    monkeypatch.setattr(instruct_job, "ANSWERS_SCORED", 4)
    monkeypatch.setattr(instruct_job, "ANSWERS_SHOWN", 2)
    metrics, out = run()
    assert metrics["test"]["answers_scored"] == 4
    assert [line for line in (out / "report.md").read_text().splitlines() if line.startswith("name ")] == [
        "name 4",
        "name 19",
    ]


def test_without_held_out_text_nothing_is_said_of_forgetting(run):
    metrics, _ = run(text="")
    assert "base_bits_per_byte" not in metrics["test"]


def test_conversations_with_a_system_message_are_learned_packed(run):
    changes = {"rows": {"kind": "messages", "messages": "messages"}, "packing": True, "max_tokens": 48}
    metrics, out = run(changes, _message_rows)
    bits = metrics["test"]["answer_bits_per_byte"]
    assert bits["after"] < bits["before"]
    page = (out / "report.md").read_text()
    assert "system:\n\n````text\nGo.\n````\n\nuser:\n\n````text\nname 4\n````" in page


@pytest.mark.parametrize("kind", ["lora", "last_k_blocks"])
def test_a_method_leaves_a_plain_model_of_which_a_part_has_learned(run, exported_folder, kind):
    metrics, out = run({"method.kind": kind, "method.targets": ["query"]})
    setting, bits = metrics["settings"]["pretrained"], metrics["test"]["answer_bits_per_byte"]
    assert setting["method"] == kind
    assert 0 < setting["trained_weights"] < setting["weights"]
    assert bits["after"] < bits["before"]
    before, after = (dict(read_folder(folder).named_parameters()) for folder in (exported_folder, out / "model"))
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    if kind == "lora":
        assert changed == {f"blocks.{layer}.attention.query.weight" for layer in range(2)}
    else:
        assert not any(name.startswith("blocks.0") for name in changed)


def test_several_seeds_tell_mean_and_spread_and_the_first_ones_model_stays(run):
    alone, first = run(name="one")
    several, out = run(name="three", n_seeds=3)
    assert several["test"] == alone["test"]
    for name in ("model.safetensors", "config.json"):
        assert (out / "model" / name).read_bytes() == (first / "model" / name).read_bytes()
    spread = several["seeds"]["after"]
    assert spread.keys() == {"answer_bits_per_byte", "answer_nats_per_token", "base_bits_per_byte"}
    assert spread["answer_bits_per_byte"]["std"] > 0
    assert spread["answer_bits_per_byte"]["mean"] < alone["test"]["answer_bits_per_byte"]["before"]


def test_rows_with_a_problem_are_named_or_counted(run):
    def write(folder: Path) -> Path:
        path = _message_rows(folder)
        lines = path.read_text().splitlines()
        lines[6] = json.dumps({"messages": [{"role": "user", "content": "x"}], "split": "train"})
        path.write_text("\n".join(lines) + "\n")
        return path

    changes = {"rows": {"kind": "messages", "messages": "messages"}, "max_tokens": 48}
    with pytest.raises(UserError, match="row 7: messages: wanted a last message of the assistant's"):
        run(changes, write)
    metrics, _ = run(changes | {"on_error": "skip"}, write, name="skip")
    assert metrics["skipped"]["no_answer"] == 1
    assert metrics["rows"]["train"] == 17


def test_figures_are_turned_and_summed_up_by_hand():
    runs = [{"a": 1.0, "b": 5.0}, {"a": 3.0, "b": 5.0}]
    assert by_figure({"before": runs[0], "after": runs[1]}) == {
        "a": {"before": 1.0, "after": 3.0},
        "b": {"before": 5.0, "after": 5.0},
    }
    assert over_seeds(runs, ["a", "c"]) == {"a": {"mean": 2.0, "std": 1.41421}}
