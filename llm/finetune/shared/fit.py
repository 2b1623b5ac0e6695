"""The part that classifiers and instruction models share: try the rates, take the best on val, train.

Every run goes through the one training loop in `llm.train.loop`, with a state of its own in the scratch folder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor, nn

from llm.core.device import Machine
from llm.finetune.params import TrainingParams
from llm.finetune.shared.adapters import rate_shares
from llm.train.checkpoint import RunState
from llm.train.curve import Curve
from llm.train.loop import Plan, train
from llm.train.params import OptimizerParams, ScheduleParams

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Fitted(Generic[Model]):
    """A trained model, the rate that it was trained with, each tried rate's validation loss, its curve."""

    model: Model
    rate: float
    tried: dict[str, float]
    curve: Curve


def fit(
    make: Callable[[], Model],
    step_loss: Callable[[Model, int], Tensor],
    val_loss: Callable[[Model], float],
    n_steps: int,
    training: TrainingParams,
    machine: Machine,
    scratch: Path,
    label: str,
) -> Fitted[Model]:
    """Train a model that `make` gives anew each time, for `n_steps`, at the rate that does best on val.

    With several rates each first gets a run of `search_share` of the steps, with a whole schedule of its own. Only the
    weights that require a gradient learn, and a run that goes on after a kill has the others from `make`.
    """

    def run(rate: float, steps: int, name: str) -> tuple[Model, Curve]:
        model = make()
        plan = Plan(
            n_steps=steps,
            optimizer=OptimizerParams(
                # For adapters too, so that `rates` means one thing: AdamW was no better. On `library`, rank 24, two
                # seeds, it left 0.87 and 0.97 nats on test to Muon's 0.80 and 0.91; at rank 8 they were alike.
                kind="muon",
                muon_rate=rate,
                adamw_rate=rate * training.other_rate_ratio,
                weight_decay=training.weight_decay,
                clip_norm=training.clip_norm,
            ),
            schedule=ScheduleParams(
                kind="wsd",
                warmup_steps=round(steps * training.warmup_share),
                decay_share=training.decay_share,
                final_share=0.0,
            ),
            eval_every_steps=max(1, steps // training.evals),
            checkpoint_every_steps=50,
            keep="best",
            stop_after_evals=training.stop_after_evals,
            rate_shares=rate_shares(model, training.layer_rate_decay),
            advice="lower training.rates or a larger training.warmup_share",
            label=f"{label} {name}".strip(),
        )
        state = RunState(scratch / machine.key() / f"{label} {name}".replace(" ", "-"))
        curve = train(
            model,
            lambda step: [step_loss(model, step)],
            lambda: val_loss(model),
            plan,
            machine,
            state,
        )
        return model, curve

    tried = {}
    if len(training.rates) > 1:
        steps = max(1, round(n_steps * training.search_share))
        tried = {rate: run(rate, steps, f"rate {rate}")[1].best()["val_loss"] for rate in training.rates}
    rate = min(tried, key=lambda rate: tried[rate]) if tried else training.rates[0]
    model, curve = run(rate, n_steps, "")
    return Fitted(model, rate, {str(rate): loss for rate, loss in tried.items()}, curve)
