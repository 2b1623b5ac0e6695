"""Predict the bits per byte of a run before it is made, by a law over runs that were made.

    L = s · (E + A / N^α + B / D'^β)        D' = U · (1 + R · (1 - exp((1 - D / U) / R))) beyond one epoch

N counts the parameters of the blocks, D the training tokens, U the tokens of the text. A token that was seen before is
worth less than a new one: D' are the tokens in the worth of new ones (Muennighoff et al. 2023, arXiv:2305.16264,
section 3.1). The constants are common to all texts; s is a text's own, and a short pilot run measures it.

`planning_runs.tsv` has the runs. The interval is the scatter of the runs of a text around the law that was fitted to
the other texts, with s from that text's cheapest run: what a user's text is to the texts of the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

RUNS = Path(__file__).with_name("planning_runs.tsv")
CONFIDENCE = 0.95
HUBER_DELTA = 0.01  # of log loss: a run that is off by more counts linearly
# log of E, of the size term at N = 1e6 and of the data term at D = 1e6; α, β; log R
START = (0.0, -2.0, -0.5, 0.3, 0.4, 2.0)
BOUNDS = ((-4.0, -8.0, -6.0, 0.05, 0.05, 0.0), (2.0, 2.0, 2.0, 2.0, 2.0, 5.0))


class Run(NamedTuple):
    """A run: N, D, U, and the bits per byte of held-out text."""

    text: str
    parameters: float
    tokens: float
    unique_tokens: float
    bits_per_byte: float


@dataclass(frozen=True)
class PlanningLaw:
    """The constants, as logarithms where they are positive."""

    constants: tuple[float, ...]

    def relative_loss(self, parameters: Array | float, tokens: Array | float, unique_tokens: Array | float) -> Array:
        """Return L / s."""
        e, a, b, alpha, beta, r = self.constants
        effective = effective_tokens(np.asarray(tokens), np.asarray(unique_tokens), float(np.exp(r)))
        size, data = np.asarray(parameters) / 1e6, effective / 1e6
        found: Array = np.exp(e) + np.exp(a) * size**-alpha + np.exp(b) * data**-beta
        return found

    def scale(self, pilot: Run) -> float:
        """Return s of a pilot's text."""
        return pilot.bits_per_byte / float(self.relative_loss(*pilot[1:4]))


def effective_tokens(tokens: Array, unique_tokens: Array, worth: float) -> Array:
    """Return D': up to one epoch D, and at most U · (1 + worth).

    >>> effective_tokens(np.array([5.0, 10.0, 20.0, 1000.0]), np.array(10.0), worth=4.0).round(1).tolist()
    [5.0, 10.0, 18.8, 50.0]
    """
    repeated = np.maximum(tokens / unique_tokens - 1, 0)
    found: Array = np.minimum(tokens, unique_tokens * (1 + worth * (1 - np.exp(-repeated / worth))))
    return found


def fit(runs: Sequence[Run]) -> PlanningLaw:
    """Fit the law to runs; the texts' own factors are the geometric means of what is left."""
    from scipy.optimize import least_squares

    texts = np.unique([run.text for run in runs], return_inverse=True)[1]
    parameters, tokens, unique, losses = (np.array(column, dtype=float) for column in list(zip(*runs, strict=True))[1:])

    def residuals(constants: Array) -> Array:
        off = np.log(losses) - np.log(PlanningLaw(tuple(constants)).relative_loss(parameters, tokens, unique))
        means = np.bincount(texts, off) / np.bincount(texts)
        left: Array = off - means[texts]
        return left

    found = least_squares(residuals, START, loss="huber", f_scale=HUBER_DELTA, bounds=BOUNDS, x_scale="jac")
    return PlanningLaw(tuple(map(float, found.x)))


@dataclass(frozen=True)
class Predictor:
    """The law of runs, and how far it was off for texts that it had not seen."""

    runs: tuple[Run, ...]

    @classmethod
    def load(cls, path: Path = RUNS) -> "Predictor":
        """Read the runs of a table with the columns of `Run`."""
        table = pd.read_csv(path, sep="\t", comment="#")
        return cls(tuple(Run(*row) for row in table[list(Run._fields)].itertuples(index=False)))

    @cached_property
    def law(self) -> PlanningLaw:
        """The law of all runs."""
        return fit(self.runs)

    @cached_property
    def errors(self) -> Array:
        """The errors, in log bits per byte, for each text by a law of the others and its cheapest run as the pilot."""
        found: list[float] = []
        for text in sorted({run.text for run in self.runs}):
            own = sorted((run for run in self.runs if run.text == text), key=lambda run: run.parameters * run.tokens)
            law = fit([run for run in self.runs if run.text != text])
            scale = law.scale(own[0])
            found += [np.log(run.bits_per_byte / scale / float(law.relative_loss(*run[1:4]))) for run in own[1:]]
        return np.array(found)

    def predict(self, pilot: Run, parameters: float, tokens: float) -> tuple[float, float, float]:
        """Return the bits per byte of a run on the pilot's text, and a 95% interval."""
        from scipy.stats import t

        value = self.law.scale(pilot) * float(self.law.relative_loss(parameters, tokens, pilot.unique_tokens))
        half = float(t.ppf((1 + CONFIDENCE) / 2, len(self.errors))) * float(np.sqrt((self.errors**2).mean()))
        return value, value * float(np.exp(-half)), value * float(np.exp(half))

    def describe(self) -> str:
        """Return what the law was fitted on."""
        texts = sorted({run.text for run in self.runs})
        sizes, tokens = ([getattr(run, key) for run in self.runs] for key in ("parameters", "tokens"))
        return (
            f"law of {len(self.runs)} runs on {len(texts)} texts, {min(sizes) / 1e6:.1f} to {max(sizes) / 1e6:.1f} "
            f"million parameters in blocks and {min(tokens) / 1e6:.1f} to {max(tokens) / 1e6:.1f} million tokens"
        )
