"""The report of a finetuning task."""

import pytest

from llm.report.finetune import describe_difference, markdown, pictures
from tests.report.samples import DETAILS, merged, rows_of

TOPICS, ANSWERS = DETAILS["finetune/topics"], DETAILS["finetune/answers"]
ROC = {"roc": [[0, 0], [1, 1]], "precision_recall": [[1, 0.5], [0, 1]], "positive_fraction": 0.5}


def test_a_classifier_is_shown_beside_other_systems_and_by_label():
    test = {"tfidf": {"log_loss": 0.5, "log_loss_at_temperature": 0.25}}
    text = markdown(merged(TOPICS, {"test": test}))
    rows = rows_of(text)
    assert rows["TF-IDF"] == ["0.6345", "0.5456", "0.5000 → 0.2500", "–", "–", "–"]
    assert rows["this model, finetuned"][0] == "0.8123 [0.7011, 0.9022]"
    assert rows["a\\|b"] == ["0.5000", "0.2500", "0.3333", "7"]
    assert "are divided by 1.25, the temperature" in text
    assert "- TF-IDF: C 19.0" in text and "- dropped: 3 without a text" in text


def test_answers_are_in_fences_with_the_roles_of_messages():
    turns = [{"role": "system", "content": "```"}, {"role": "user", "content": "Why?"}]
    text = markdown(merged(ANSWERS, {"answers": [*ANSWERS["answers"], ANSWERS["answers"][0] | {"messages": turns}]}))
    assert "## Answers to 3 held-out prompts\n\n### Prompt 1\n\n```text\nDescribe it.\n\ndef g()\n```\n" in text
    assert "\n**after**\n\n```text\nIt runs.\n```\n" in text
    assert "system:\n\n````text\n```\n````\n\nuser:\n" in text
    assert markdown(DETAILS["finetune/none"]) == "Skipped: no function of the corpus is left in test.\n"


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((0.02, 0.08), "above 0: this model is better."),
        ((-0.08, -0.02), "below 0: TF-IDF is better."),
        ((-0.02, 0.08), "contains 0: these rows do not show which is better."),
        ((), "a single row has no interval."),
    ],
)
def test_a_difference_has_a_verdict(ends, verdict):
    keys = ("accuracy_difference_low", "accuracy_difference_high")
    text = describe_difference("tfidf", {"accuracy_difference": 0.05} | dict(zip(keys, ends, strict=False)))
    assert text.endswith(verdict)


@pytest.mark.parametrize(
    ("details", "names"),
    [
        (TOPICS, {"curve", "systems", "reliability", "confusion"}),
        (TOPICS | ROC, {"curve", "systems", "reliability", "confusion", "roc"}),
        (
            {name: of for name, of in TOPICS.items() if name != "confusion"},
            {"curve", "systems", "reliability", "labels"},
        ),
        (ANSWERS, {"curve"}),
        (DETAILS["finetune/none"], set()),
    ],
)
def test_pictures_are_those_of_the_kind_of_task(details, names):
    assert pictures(details).keys() == names
