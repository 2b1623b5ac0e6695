"""A scaling ladder as a page and a picture: the prediction beside the outcome, repeated text marked."""

from typing import Any

import pytest

from llm.report.scaling import markdown, pictures


@pytest.fixture
def details() -> dict[str, Any]:
    """Two runs, a law with exact losses, and a prediction of 2 nats that was not trained."""
    runs = [
        {"name": "small", "parameters": 10_000, "tokens": 200_000, "loss": 4.0, "epochs": 0.5, "law": 4.02},
        {"name": "large", "parameters": 40_000, "tokens": 400_000, "loss": 3.0, "epochs": 1.0, "law": 3.0},
    ]
    return {
        "setting": "tiny",
        "runs": runs,
        "law": {"E": 1.0, "A": 100.0, "alpha": 0.4, "B": 1000.0, "beta": 0.55},
        "intervals": {name: [0.1, 0.9] for name in ("E", "alpha", "beta")},
        "undetermined": [],
        "prediction": {"parameters": 80_000, "tokens": 400_000, "value": 2.0, "low": 1.9, "high": 2.1},
        "outcome": None,
    }


def outcome(loss: float, epochs: float = 1.0) -> dict[str, Any]:
    return {"name": "largest", "parameters": 80_000, "tokens": 400_000, "loss": loss, "epochs": epochs}


@pytest.mark.parametrize(("loss", "said"), [(2.05, "+0.050 (+2.5%), within"), (2.2, "+0.200 (+10.0%), outside")])
def test_the_page_compares_the_outcome_with_the_prediction(details, loss, said):
    assert f"measured **{loss:.3f}**: {said} the interval." in markdown(details | {"outcome": outcome(loss)})
    assert "predicted **2.000** [1.900, 2.100] nats per token; it was not trained." in markdown(details)


def test_every_run_is_a_row_with_the_error_of_the_law(details):
    page = markdown(details)
    assert page.count("\n| ") == 2 + len(details["runs"])
    assert "| small | 10,000 | 200,000 | 0.50 | 20 | 4.000 | 4.020 | +0.5% |" in page


def test_runs_over_an_epoch_are_marked_and_explained(details):
    assert "more than one epoch" not in markdown(details) + pictures(details)["scaling"]
    details["runs"][0]["epochs"] = 2.0
    assert "| 2.00\\* |" in markdown(details)
    assert "\\* more than one epoch" in markdown(details)
    assert ">more than one epoch<" in pictures(details)["scaling"]


def test_the_law_gives_the_compute_rule_or_says_what_is_open(details):
    # β / (α + β) = 0.55 / 0.95
    rule = "C^0.58: ten times the compute needs 3.8 times the parameters and 2.6 times the tokens"
    assert rule in markdown(details)
    open_ = markdown(details | {"undetermined": ["alpha"]})
    assert rule not in open_
    assert "These 2 runs do not determine α" in open_


def test_the_picture_has_every_budget_and_is_reproducible(details):
    picture = pictures(details | {"outcome": outcome(2.05)})["scaling"]
    assert picture == pictures(details | {"outcome": outcome(2.05)})["scaling"]
    assert [
        label for label in ("0.2M tokens", "0.4M tokens", "predicted", "measured") if f">{label}<" not in picture
    ] == []
    assert ">measured<" not in pictures(details)["scaling"]
