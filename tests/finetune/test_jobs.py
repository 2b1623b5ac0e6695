"""Jobs of every kind from files to files: metrics by system, details, a folder that is the measured model."""

import importlib

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import pipeline
from transformers.utils import logging

from llm.core.errors import UserError
from llm.export.hf.classifier import read_classifier
from llm.export.hf.folder import read_folder
from llm.finetune.classify.measures import Scored, log_loss
from llm.finetune.shared import language
from llm.finetune.shared.chat import TEMPLATE, conversation_ids
from llm.finetune.shared.language import answer, score_answers
from tests.finetune.conftest import TOPICS, rows_of

SYSTEMS = {"majority", "tfidf", "random_weights", "pretrained"}


def test_the_classifier_is_calibrated_in_transformers_as_measured(run_job):
    ran = run_job("classify", {"zero_shot": "{text} is {label}"})
    test = ran.metrics["test"]
    assert test.keys() == SYSTEMS | {"zero_shot"} == ran.details["settings"].keys() == ran.metrics["val"].keys()
    assert {name for name, of in test.items() if "accuracy_difference" in of} == {"tfidf", "random_weights"}
    assert ran.metrics["rows"] == {"train": 18, "val": 6, "test": 6}
    logging.disable_progress_bar()
    classify = pipeline("text-classification", model=str(ran.folder / "model"), dtype=torch.float32, top_k=None)
    rows = rows_of("classify")
    rows = rows[rows["split"] == "test"]
    scores = np.empty((len(rows), 3), dtype=np.float32)
    for row, found in enumerate(classify(rows["text"].tolist(), truncation=True)):
        scores[row, [TOPICS.index(of["label"]) for of in found]] = np.log([of["score"] for of in found])
    scored = Scored(np.array([TOPICS.index(label) for label in rows["label"]]), scores)
    measured = test["pretrained"]
    assert measured["temperature"] != 1
    assert log_loss(scored) == pytest.approx(measured["log_loss_at_temperature"], abs=2e-5)
    assert scored.is_right().mean() == pytest.approx(measured["accuracy"], abs=1e-4)
    confusion = pd.read_csv(ran.folder / "plots/confusion.csv")
    assert confusion["actual"].tolist() == rows["label"].tolist()
    assert confusion["predicted"].tolist() == [TOPICS[number] for number in scored.predict()]
    counts = pd.crosstab(confusion["actual"], confusion["predicted"]).reindex(TOPICS, columns=TOPICS, fill_value=0)
    assert ran.details["confusion"] == counts.to_numpy().tolist()


def test_two_texts_of_any_number_of_labels_are_truncated_as_by_clients(run_job):
    columns = {"label_column": "labels", "label_separator": "|", "text_columns": ["text", "other"]}
    ran = run_job("classify", columns | {"max_tokens": 8})
    assert ran.metrics["test"].keys() == SYSTEMS
    assert ran.metrics["truncated"] > 0
    assert ran.metrics["transformers"].items() >= {"rows": 6, "tokenization_mismatches": 0}.items()
    assert ran.metrics["transformers"]["max_probability_difference"] < 1e-6
    info = read_classifier(ran.folder / "model")[2]
    assert (info.labels, info.label_separator, info.text_columns) == (TOPICS, "|", ["text", "other"])
    assert "confusion" not in ran.details
    assert not (ran.folder / "plots/confusion.csv").exists()


def test_answers_before_and_after_are_those_of_the_models(run_job, exported_folder, tokenizer):
    ran = run_job("instruct")
    test = ran.metrics["test"]
    assert test["after"]["answer_bits_per_byte"] < test["before"]["answer_bits_per_byte"]
    assert test["after"]["base_bits_per_byte"] != test["before"]["base_bits_per_byte"]
    rows = rows_of("instruct")
    rows = rows[rows["split"] == "test"]
    prompts = [conversation_ids(tokenizer, [("user", text)]) for text in rows["prompt"]]
    for system, folder in (("before", exported_folder), ("after", ran.folder / "model")):
        answers = [answer(read_folder(folder), prompt, tokenizer) for prompt in prompts]
        assert score_answers(answers, rows["completion"].tolist()).items() <= test[system].items()
        shown = {of["messages"][0]["content"]: of[system] for of in ran.details["answers"]}
        assert shown == dict(zip(rows["prompt"], answers, strict=True))
    assert ran.details["answers"][0].keys() == {"messages", "before", "after", "reference"}
    # In drawn order.
    assert [of["messages"][0]["content"] for of in ran.details["answers"]] != rows["prompt"].tolist()


def test_fewer_rows_are_answered_and_shown(run_job, monkeypatch):
    monkeypatch.setattr(importlib.import_module("llm.finetune.instruct.job"), "ANSWERS_SCORED", 4)
    monkeypatch.setattr(language, "ANSWERS_SHOWN", 2)
    ran = run_job("instruct", {"training.epochs": 1.0}, held_out="")
    assert (ran.details["answers_scored"], len(ran.details["answers"])) == (4, 2)
    assert "base_bits_per_byte" not in ran.metrics["test"]["after"]


def test_chosen_answers_become_likelier(run_job):
    ran = run_job("dpo", {"training.epochs": 8.0})
    before, after = ran.metrics["test"]["before"], ran.metrics["test"]["after"]
    assert before["reward_margin"] == before["chosen_log_ratio"] == 0.0
    assert after["reward_margin"] > 0.1
    assert ran.metrics["val"]["before"]["loss"] == pytest.approx(0.69315, abs=1e-5)
    assert ran.metrics["val"]["after"]["loss"] < 0.69
    assert {"answer_bits_per_byte", "base_bits_per_byte"} <= after.keys()
    assert ran.details["settings"]["after"]["beta"] == 0.1
    assert (ran.folder / "model/chat_template.jinja").read_text() == TEMPLATE
    assert ran.details["answers"][0].keys() == {"messages", "before", "after", "reference", "rejected"}


@pytest.mark.parametrize(
    ("kind", "system", "summarized"),
    [
        ("classify", "pretrained", {"accuracy", "macro_f1"}),
        ("instruct", "after", {"answer_bits_per_byte", "answer_nats_per_token", "base_bits_per_byte"}),
        ("dpo", "after", {"chosen_is_likelier", "reward_margin", "chosen_log_ratio"}),
    ],
)
def test_seeds_have_a_mean_and_the_first_model_stays(run_job, capsys, kind, system, summarized):
    changes = {"training.learning_rates": [0.002, 0.02], "method.kind": "lora", "training.epochs": 2.0}
    one, two = run_job(kind, changes, name="one"), run_job(kind, changes, n_seeds=2, name="two")
    first, several = one.metrics["test"][system], two.metrics["test"][system]
    added = several.keys() - first.keys()
    assert first.items() <= several.items()
    assert added >= {f"{name}_{end}" for name in summarized for end in ("mean", "std")}
    assert all(key.endswith(("_mean", "_std")) for key in added)
    assert one.files() == two.files()
    assert str(one.folder).encode() not in b"".join(one.files().values())
    said = capsys.readouterr().err  # the first seed searches the learning rate for the others
    assert "seed 2:" in said
    assert "seed 2 rate" not in said
    if kind == "classify":  # random weights are trained as a whole
        tuned, drawn = two.details["settings"]["pretrained"], two.details["settings"]["random_weights"]
        assert (tuned["method"], drawn["method"]) == ("lora", "full")
        assert tuned["trained_weights"] < tuned["weights"] == drawn["trained_weights"] == drawn["weights"]


@pytest.mark.parametrize(
    ("kind", "changes", "line"),
    [
        ("classify", {"max_tokens": 4}, "truncated to max_tokens (4): 30 of 30 rows (100.0%)"),
        ("instruct", {"max_tokens": 29}, "dropped: 17 too_long"),
        ("dpo", {"on_error": "skip"}, "rows: 18 train, 6 val, 6 test"),
    ],
)
def test_what_was_read_is_printed_and_in_the_details(run_job, capsys, kind, changes, line):
    notes = run_job(kind, changes | {"training.epochs": 1.0}).details["row_notes"]
    assert notes[0].startswith("rows: ")
    assert "dialect: separated by commas, quotes enclose cells" in notes
    assert "\n".join(notes) in capsys.readouterr().out
    assert line in notes


@pytest.mark.parametrize(
    ("kind", "changes", "line"),
    [
        ("instruct", {"max_tokens": 49}, "max_tokens: expected at most the base's context of 48, got 49"),
        ("classify", {"max_tokens": 49}, "max_tokens: expected at most the base's context of 48, got 49"),
        ("instruct", {"packing": True}, "packing: expected false for a GRU, whose state"),
    ],
)
def test_what_the_base_cannot_do_is_refused(run_job, draw_gpt, small_tokenizer_file, monkeypatch, kind, changes, line):
    if "packing" in changes:
        opened = small_tokenizer_file, lambda: draw_gpt(family="gru")
        monkeypatch.setattr("llm.finetune.shared.job.hf.open_base", lambda *_: opened)
    with pytest.raises(UserError, match=f"^{line}"):
        run_job(kind, changes)
