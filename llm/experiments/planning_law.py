"""Predict the bits per byte of a run before it is made, by a law over runs that were made.

    L = s · ((N_c / N)^γ + D_c / D')^κ · e^O          D' = U · (1 + R · (1 - e^((1 - D / U) / R))) beyond one epoch
                                                      O = o · max(0, ln(D / U · N^a) - e)²

N counts the parameters of the blocks, D the training tokens, U the tokens of the text. The form is that of Kaplan et
al. 2020 (arXiv:2001.08361, equation 1.5). A token that was seen before is worth less than a new one: D' are the tokens
in the worth of new ones (Muennighoff et al. 2023, arXiv:2305.16264, section 3.1); O is what is lost to memorization,
the sooner the larger the model. N_c, R, o, a and e are common to all texts. s and κ, how predictable a text is and how
fast it is learned, are a text's own, and follow from two short pilot runs on it.

`planning_runs.tsv` has the runs: of several texts, each with its pilot runs. The interval of a prediction is the
scatter of the runs with about as many epochs, each predicted by the law of the other texts.
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
GAMMA = 1.5  # between 1 and 2 the runs are held equally well
MIN_EXPONENT = 0.02  # where the longer pilot run is hardly better than the shorter one
N_NEAREST = 20  # runs, for an interval
HUBER_DELTA = 0.03  # of log loss: a run that is off by more counts linearly
START = (-2.0, 0.9, 0.08, 0.4, 2.7)  # ln N_c^γ in millions, ln R, o, a, e
BOUNDS = ((-12.0, -1.0, 0.0, 0.0, -1.0), (4.0, 6.0, 0.5, 1.5, 5.0))


class Run(NamedTuple):
    """A run, or arrays of runs: N, D, U, and the bits per byte of held-out text."""

    parameters: Array | float
    tokens: Array | float
    unique_tokens: Array | float
    bits_per_byte: Array | float

    @property
    def epochs(self) -> Array | float:
        """How often the text was read."""
        return self.tokens / self.unique_tokens


class Pilots(NamedTuple):
    """A short and a longer run of one model on a text, or arrays of them."""

    short: Run
    long: Run


@dataclass(frozen=True)
class PlanningLaw:
    """The constants that all texts share."""

    constants: tuple[float, ...]

    def predict(self, run: Run, pilots: Pilots) -> Array:
        """Return the log bits per byte of a run on the text of pilot runs."""
        (x, lost), (x_short, lost_short), (x_long, lost_long) = map(self._terms, (run, *pilots))
        y_short, y_long = (np.log(of.bits_per_byte) for of in pilots)
        exponent = np.maximum(((y_long - lost_long) - (y_short - lost_short)) / (x_long - x_short), MIN_EXPONENT)
        found: Array = y_long - lost_long + exponent * (x - x_long) + lost
        return found

    def _terms(self, run: Run) -> tuple[Array, Array]:
        """Return ln((N_c / N)^γ + D_c / D'), with D_c of a million, and O."""
        size, worth, lost, with_size, epochs = self.constants
        millions, tokens = np.log(np.asarray(run.parameters) / 1e6), np.asarray(run.tokens)
        effective = effective_tokens(tokens, np.asarray(run.unique_tokens), float(np.exp(worth)))
        excess = np.maximum(0, np.log(tokens / run.unique_tokens) + with_size * millions - epochs)
        return np.logaddexp(size - GAMMA * millions, -np.log(effective / 1e6)), lost * excess**2


def effective_tokens(tokens: Array, unique_tokens: Array, worth: float) -> Array:
    """Return D': up to one epoch D, and at most U · (1 + worth).

    >>> effective_tokens(np.array([5.0, 10.0, 20.0, 1000.0]), np.array(10.0), worth=4.0).round(1).tolist()
    [5.0, 10.0, 18.8, 50.0]
    """
    repeated = np.maximum(tokens / unique_tokens - 1, 0)
    found: Array = np.minimum(tokens, unique_tokens * (1 + worth * (1 - np.exp(-repeated / worth))))
    return found


def fit(runs: Run, pilots: Pilots) -> PlanningLaw:
    """Fit the constants to arrays of runs, each with the pilot runs on its text."""
    from scipy.optimize import least_squares

    def residuals(constants: Array) -> Array:
        return PlanningLaw(tuple(constants)).predict(runs, pilots) - np.log(runs.bits_per_byte)

    found = least_squares(residuals, START, loss="huber", f_scale=HUBER_DELTA, bounds=BOUNDS, x_scale="jac")
    return PlanningLaw(tuple(map(float, found.x)))


@dataclass(frozen=True)
class Predictor:
    """The law of runs, and how far it was off for texts that it had not seen.

    `texts` name the text of each run of `runs`; an excerpt of a text has pilot runs of its own, and its name.
    """

    texts: Sequence[str]
    runs: Run
    pilots: Pilots

    @classmethod
    def load(cls, path: Path = RUNS) -> "Predictor":
        """Read a table with the columns `text`, `unique_tokens`, `kind` (run, or a pilot's) and those of `Run`."""
        table = pd.read_csv(path, sep="\t")
        kinds = {kind: of.drop(columns="kind") for kind, of in table.groupby("kind")}
        runs = kinds["run"]
        of_pilots = [
            runs[["text", "unique_tokens"]].merge(kinds[kind], on=["text", "unique_tokens"], validate="many_to_one")
            for kind in Pilots._fields
        ]
        return cls(runs["text"].tolist(), _as_run(runs), Pilots(*map(_as_run, of_pilots)))

    @cached_property
    def law(self) -> PlanningLaw:
        """The law of all runs."""
        return fit(self.runs, self.pilots)

    @cached_property
    def errors(self) -> Array:
        """The errors in log bits per byte, each run by the law of the runs on other texts."""
        found = np.zeros(len(self.texts))
        for text in set(self.texts):
            own = np.array([of == text for of in self.texts])
            seen, pilots = _select(self.runs, ~own), Pilots(*(_select(of, ~own) for of in self.pilots))
            law = fit(seen, pilots)
            found[own] = law.predict(_select(self.runs, own), Pilots(*(_select(of, own) for of in self.pilots)))
        return found - np.log(self.runs.bits_per_byte)

    def predict(self, parameters: float, tokens: float, pilots: Pilots) -> tuple[float, float, float]:
        """Return the bits per byte of a run on the pilots' text, and a 95% interval."""
        from scipy.stats import t

        run = Run(parameters, tokens, pilots.long.unique_tokens, np.nan)
        value = float(np.exp(self.law.predict(run, pilots)))
        distance = np.abs(np.log(np.asarray(self.runs.epochs)) - np.log(run.epochs))
        errors = self.errors[np.argsort(distance, kind="stable")[:N_NEAREST]]
        half = float(t.ppf((1 + CONFIDENCE) / 2, len(errors))) * float(np.sqrt((errors**2).mean()))
        return value, value * float(np.exp(-half)), value * float(np.exp(half))

    def describe(self) -> str:
        """Return what the law was fitted on."""
        sizes, tokens = (np.asarray(of) / 1e6 for of in (self.runs.parameters, self.runs.tokens))
        runs = f"{len(self.texts)} runs on {len(set(self.texts))} other texts"
        ranges = [f"{of.min():.1f} to {of.max():.1f} million" for of in (sizes, tokens)]
        return f"{runs}, {ranges[0]} parameters in blocks, {ranges[1]} tokens"


def _as_run(table: pd.DataFrame) -> Run:
    return Run(*(table[column].to_numpy(dtype=float) for column in Run._fields))


def _select(runs: Run, chosen: NDArray[np.bool_]) -> Run:
    return Run(*(np.asarray(of)[chosen] for of in runs))
