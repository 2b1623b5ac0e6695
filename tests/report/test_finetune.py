"""The report of a task shows every system, label, answer and setting."""

import copy
import re

import pytest

from llm.report.finetune import describe_difference, markdown, pictures

BINS = [{"from": 0.0, "to": 1.0, "count": 4, "confidence": 0.5, "accuracy": 0.5}]
PRETRAINED = {"accuracy": 0.875, "accuracy_low": 0.75, "accuracy_high": 0.9375, "macro_f1": 0.75, "log_loss": 0.25}
PRETRAINED |= {"log_loss_at_temperature": 0.125, "temperature": 1.5}
CLASSIFY = {
    "kind": "classify",
    "test": {
        "tfidf": {"accuracy": 0.5, "accuracy_difference": 0.375},
        "pretrained": PRETRAINED,
    },
    "settings": {
        "tfidf": {"C": 10.0, "val_loss_by_C": {"1.0": 0.75, "10.0": 0.5}},
        "pretrained": {"template": "a\n| b", "learning_rate": 0.016},
    },
    "row_notes": ["rows: 6 train"],
    "labels": ["x | y", "two\nlines"],
    "by_label": [
        {"label": "x | y", "precision": 1.0, "recall": 0.5, "f1": 0.6667, "rows": 2},
        {"label": "two\nlines", "precision": 0.25, "recall": 0.5, "f1": 0.3333, "rows": 2},
    ],
    "curve": [{"step": 1, "train_loss": 1.0, "val_loss": 2.0, "lr_factor": 0.5}],
    "calibration": {"uncalibrated": BINS, "temperature 1.50": BINS},
    "confusion": [[1, 1], [1, 1]],
}
EXAMPLE = {
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "```\n````\n```"}],
    "before": "hm",
    "after": "went",
    "reference": "gone",
}
ANSWERS = {
    "kind": "instruct",
    "test": {"before": {"chrf": 10.0}, "after": {"chrf": 20.0, "chrf_mean": 21.5}},
    "settings": {"after": {"method": "full"}},
    "row_notes": ["rows: 6 train"],
    "curve": CLASSIFY["curve"],
    "answers": [EXAMPLE, EXAMPLE | {"messages": EXAMPLE["messages"][1:]}],
}


def test_a_classifier_is_shown_beside_other_systems():
    page = markdown(CLASSIFY)
    assert page.index("| this model, finetuned | 0.8750 [0.7500, 0.9375]") < page.index("| TF-IDF | 0.5000")
    assert "0.2500 → 0.1250" in page
    assert "divided by 1.5, the temperature" in page
    assert "TF-IDF: C 10.0, val loss by C (1.0: 0.75, 10.0: 0.5)" in page
    assert "template a | b, learning rate 0.016" in page
    assert "| x \\| y |" in page
    assert "| two lines |" in page
    tables = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    assert [len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) for table in tables] == [1, 1]


def test_prompts_and_answers_are_fenced():
    page = markdown(ANSWERS)
    assert "system:\n\n```text\nBe brief.\n```\n\nuser:\n\n`````text\n```\n````\n```\n`````\n" in page
    assert "### Prompt 2\n\n`````text\n" in page
    assert page.count("**after**\n\n```text\nwent\n```") == 2
    assert page.index("**before**") < page.index("**after**") < page.index("**reference**")
    assert "chrF" in page
    assert page.endswith("## Rows\n\n- rows: 6 train\n")


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((0.01, 0.2), "this model is better"),
        ((-0.2, -0.01), "TF-IDF is better"),
        ((0.0, 0.1), "do not show"),
        (None, "no interval"),
    ],
)
def test_a_difference_is_explained(ends, verdict):
    of = {"accuracy_difference": 0.05}
    of |= dict(zip(("accuracy_difference_low", "accuracy_difference_high"), ends, strict=True)) if ends else {}
    assert verdict in describe_difference("tfidf", of)


def test_every_kind_of_labels_has_its_pictures():
    assert pictures(CLASSIFY).keys() == {"curve", "systems", "reliability", "confusion"}
    assert ">0.875<" in pictures(CLASSIFY)["systems"]
    assert ">temperature 1.50<" in pictures(CLASSIFY)["reliability"]
    two = CLASSIFY | {"roc": [[0, 0], [1, 1]], "precision_recall": [[1, 0.5], [0, 1]], "positive_fraction": 0.5}
    assert ">finding two lines in test<" in pictures(two)["roc"]
    several = copy.deepcopy(CLASSIFY)
    del several["confusion"]
    assert pictures(several).keys() == {"curve", "systems", "reliability", "labels"}
    assert pictures(ANSWERS).keys() == {"curve"}


def test_a_task_that_was_skipped_has_its_reason():
    details = {"skipped": "the corpus has no docstrings"}
    assert markdown(details) == "Skipped: the corpus has no docstrings.\n"
    assert "the corpus has no docstrings" in pictures(details)["curve"]
