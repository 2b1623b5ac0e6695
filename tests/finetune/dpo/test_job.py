"""A preference task from files to files: the chosen answers become likelier than the rejected ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from llm.export.hf.folder import read_folder
from llm.finetune.dpo import job as prefer_job
from llm.finetune.dpo.dpo import preference_figures, score_pairs
from llm.finetune.dpo.job import run_dpo
from llm.finetune.shared.chat import TEMPLATE
from llm.finetune.shared.jobs import Job

SPLITS = ["train", "train", "train", "val", "test"]
ROWS = pd.DataFrame(
    [(f"name {number}", "the rain falls", "a river", SPLITS[number % 5]) for number in range(30)],
    columns=["prompt", "chosen", "rejected", "split"],
)


@pytest.fixture
def run(tmp_path, exported_folder, plain_cpu, make_task, write_corpus) -> Callable[..., tuple[dict[str, Any], Path]]:
    """Runs a task with changes; the metrics, and the folder of what it wrote."""

    def run_one(changes: dict | None = None, n_seeds: int = 1, name: str = "out") -> tuple[dict[str, Any], Path]:
        out = tmp_path / name
        for folder in ("scratch", "model", "plots"):
            (out / folder).mkdir(parents=True)
        write_corpus(out, {"test": {"a.txt": "The river runs, the rain falls."}})
        ROWS.to_csv(out / "rows.csv", index=False)
        job = Job(
            data=out / "rows.csv",
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
        return run_dpo(job, make_task("dpo", {"training.epochs": 6.0} | (changes or {}))), out

    return run_one


def test_the_chosen_answers_become_likelier_and_the_model_is_one_that_answers(run):
    metrics, out = run()
    test = metrics["test"]
    assert test["chosen_is_likelier"] == {"before": 0.0, "after": 1.0}
    assert test["reward_margin"]["before"] == test["chosen_log_ratio"]["before"] == 0.0
    assert test["reward_margin"]["after"] > 0.5
    assert metrics["val"]["loss"]["before"] == pytest.approx(0.69315, abs=1e-5)
    assert metrics["val"]["loss"]["after"] < 0.5
    assert test["answer_bits_per_byte"].keys() == test["base_bits_per_byte"].keys() == {"before", "after"}
    assert metrics["settings"]["pretrained"]["beta"] == 0.1
    assert (out / "model/chat_template.jinja").read_text() == TEMPLATE
    assert read_folder(out / "model").config.vocab_size == 320
    page = (out / "report.md").read_text()
    assert "**chosen**\n\n````text\nthe rain falls\n````\n\n**rejected**\n\n````text\na river\n````" in page


def test_the_base_is_asked_once_before_the_training(run, monkeypatch):
    asked = []

    def score(model, pairs, *given):
        asked.append((id(model), id(pairs)))
        return score_pairs(model, pairs, *given)

    def train(load_base, pairs, reference, *given):
        before = [part for _, part in asked]
        assert before == [id(pairs[split]) for split in ("train", "val", "test")]
        assert len({model for model, _ in asked}) == 1
        assert {split: len(scores) for split, scores in reference.items()} == {"train": 18, "val": 6, "test": 6}
        return prefer_job_train(load_base, pairs, reference, *given)

    prefer_job_train = prefer_job.train_preferences
    monkeypatch.setattr(prefer_job, "score_pairs", score)
    monkeypatch.setattr(prefer_job, "train_preferences", train)
    run({"training.epochs": 1.0})
    assert len(asked) > 3


def test_lora_on_several_seeds_writes_the_same_bytes_twice(run):
    changes = {"method.kind": "lora", "training.epochs": 2.0, "training.learning_rates": [0.01, 0.05]}
    first, second = run(changes, 2, "first"), run(changes, 2, "second")
    assert first[0] == second[0]
    assert first[0]["seeds"]["after"].keys() >= {"chosen_is_likelier", "reward_margin", "answer_bits_per_byte"}
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (first[1] / "model" / name).read_bytes() == (second[1] / "model" / name).read_bytes()
    assert (first[1] / "report.md").read_text() == (second[1] / "report.md").read_text()


def test_figures_of_one_pair_have_no_interval():
    import torch

    scores = torch.tensor([[-1.0, -2.0]])
    assert preference_figures(scores, scores, 0.1, 1).keys() == {
        "chosen_is_likelier",
        "reward_margin",
        "chosen_log_ratio",
    }
