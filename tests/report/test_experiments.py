"""A scaling ladder as a page and a picture: the prediction beside the outcome, repeated text marked."""

import copy
from typing import Any

import pytest

from llm.report.experiments import draw_scaling, scaling_page

# Two runs, a law with exact losses, and a prediction of 2 nats that was not trained.
DETAILS: dict[str, Any] = {
    "setting": "tiny",
    "runs": [
        {"name": "small", "parameters": 10_000, "tokens": 200_000, "loss": 4.0, "epochs": 0.5, "law": 4.02},
        {"name": "large", "parameters": 40_000, "tokens": 400_000, "loss": 3.0, "epochs": 1.0, "law": 3.0},
    ],
    "law": {"E": 1.0, "A": 100.0, "alpha": 0.4, "B": 1000.0, "beta": 0.55},
    "intervals": {name: [0.1, 0.9] for name in ("E", "alpha", "beta")},
    "undetermined": [],
    "prediction": {"parameters": 80_000, "tokens": 400_000, "value": 2.0, "low": 1.9, "high": 2.1},
    "outcome": None,
}
OUTCOME = {"name": "largest", "parameters": 80_000, "tokens": 400_000, "loss": 2.05, "epochs": 1.0}
REPEATED = copy.deepcopy(DETAILS)
REPEATED["runs"][0]["epochs"] = 2.0


@pytest.mark.parametrize(
    ("details", "shown"),
    [
        (DETAILS | {"outcome": OUTCOME}, "measured **2.050**: +0.050 (+2.5%), within the interval."),
        (DETAILS | {"outcome": OUTCOME | {"loss": 2.2}}, "measured **2.200**: +0.200 (+10.0%), outside the interval."),
        (DETAILS, "predicted **2.000** [1.900, 2.100] nats per token; it was not trained."),
        (DETAILS, "| small | 10,000 | 200,000 | 0.50 | 20 | 4.000 | 4.020 | +0.5% |"),
        (DETAILS, "E = 1 [0.1, 0.9], α = 0.4 [0.1, 0.9], β = 0.55 [0.1, 0.9]; A = 100, B = 1e+03\n"),
        # β / (α + β) = 0.55 / 0.95
        (DETAILS, "C^0.58: ten times the compute needs 3.8 times the parameters and 2.6 times the tokens"),
        (DETAILS | {"undetermined": ["alpha"]}, "These 2 runs do not determine α"),
        (REPEATED, "| 2.00\\* |"),
        (REPEATED, "\\* more than one epoch"),
        (DETAILS | {"outcome": OUTCOME | {"epochs": 2.0}}, "measured\\* **2.050**"),
    ],
)
def test_the_page_states_the_law_and_the_outcome(details, shown):
    assert shown in scaling_page(details)
    assert ("more than one epoch" in scaling_page(details)) == ("\\*" in shown)
    assert ("C^0.58" in scaling_page(details)) == (not details["undetermined"])


def test_the_picture_has_every_budget_and_is_reproducible():
    picture = draw_scaling(DETAILS | {"outcome": OUTCOME})
    assert picture == draw_scaling(DETAILS | {"outcome": OUTCOME})
    labels = ("0.2M tokens", "0.4M tokens", "predicted", "measured")
    assert [label for label in labels if f">{label}<" not in picture] == []
    assert ">measured<" not in draw_scaling(DETAILS)
    assert [">more than one epoch<" in draw_scaling(details) for details in (DETAILS, REPEATED)] == [False, True]
