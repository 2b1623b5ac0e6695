"""Fit how the loss falls with size and data, and predict the loss of one more run.

    L(N, D) = E + A / N^α + B / D^β        Hoffmann et al. 2022, arXiv:2203.15556, equation 2

N counts parameters, D training tokens, L is in nats per token of held-out text. E is the irreducible loss, the other
terms are the cost of finite size and of finite data. N leaves the embedding out, as Kaplan et al. 2020
(arXiv:2001.08361) do: in models as small as these it holds most of the weights. Hoffmann et al. count all, so our α
does not compare with theirs (Pearce and Song 2024, arXiv:2406.12907).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.core.errors import UserError

Array = NDArray[np.float64]

# Below 1% of log loss a residual counts squared, above it linearly. Hoffmann et al. take 0.001 with 400 runs; with few
# runs that is a fit of absolute values, which passes through as many runs as it has constants: a jackknife then says
# nothing.
HUBER_DELTA = 0.01
N_CONSTANTS = 5
MIN_RUNS, MIN_VALUES = N_CONSTANTS + 2, 3  # runs in all; sizes, and token budgets
CONFIDENCE = 0.95
MAX_EXPONENT = 3.0
# Starts of the fit: exponents, and the fractions of the typical loss in E, the size term and the data term.
EXPONENTS = (0.3, 1.0)
FRACTIONS = ((0.6, 0.2, 0.2), (0.2, 0.4, 0.4), (0.2, 0.1, 0.7), (0.2, 0.7, 0.1), (0.9, 0.05, 0.05))


@dataclass(frozen=True)
class Run:
    """One trained model: N, D, its validation loss in nats per token, and its epochs over the corpus."""

    name: str
    parameters: int
    tokens: int
    loss: float
    epochs: float


class Law(NamedTuple):
    """The constants of L(N, D) = E + A / N^α + B / D^β."""

    E: float
    A: float
    alpha: float
    B: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """Return L in nats per token.

        >>> Law(E=1.0, A=10.0, alpha=0.5, B=20.0, beta=0.5).loss(100, 400)
        3.0
        """
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta


class _Logs:
    """Logarithms (R,) of the runs' N, D and loss; N and D relative to their means.

    Fitted are x = (log E, log of the size term at the means, log of the data term there, α, β): far from the runs, at
    N = D = 1, A and α would be nearly one constant.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        table = np.log([[run.parameters, run.tokens, run.loss] for run in runs])
        self.center, self.losses = table[:, :2].mean(axis=0), table[:, 2]
        self.sizes, self.tokens = (table[:, :2] - self.center).T

    def terms(self, x: Array) -> Array:
        """Return the logarithms of the law's three terms, (3, R)."""
        return np.stack([np.full_like(self.sizes, x[0]), x[1] - x[3] * self.sizes, x[2] - x[4] * self.tokens])

    def residuals(self, x: Array) -> Array:
        return np.logaddexp.reduce(self.terms(x), axis=0) - self.losses

    def jacobian(self, x: Array) -> Array:
        """Return the derivatives of the residuals by x, (R, 5)."""
        terms = self.terms(x)
        fractions = np.exp(terms - np.logaddexp.reduce(terms, axis=0))
        return np.stack([*fractions, -fractions[1] * self.sizes, -fractions[2] * self.tokens], axis=1)

    def to_law(self, x: Array) -> Law:
        e, a, b, alpha, beta = map(float, x)
        sizes, tokens = self.center
        return Law(float(np.exp(e)), float(np.exp(a + alpha * sizes)), alpha, float(np.exp(b + beta * tokens)), beta)

    def of_law(self, law: Law) -> Array:
        with np.errstate(divide="ignore"):
            e, a, b = np.log([law.E, law.A, law.B])
        return np.array([e, a - law.alpha * self.center[0], b - law.beta * self.center[1], law.alpha, law.beta])


def fit_law(runs: Sequence[Run], near: Law | None = None) -> Law:
    """Fit the law to the runs: approach 3 of Hoffmann et al., section 3.3 and appendix D.2.

    Minimizes the Huber loss of log L̂ - log L, where log L̂ is the logsumexp of the logarithms of the terms, from a grid
    of starts, or from the constants of a law that is near.
    """
    from scipy.optimize import least_squares

    logs = _Logs(runs)
    typical = float(np.median(logs.losses))
    grid = product(FRACTIONS, EXPONENTS, EXPONENTS)
    starts = [np.array([*(typical + np.log(of)), *exponents]) for of, *exponents in grid]
    # A term below a thousandth of the loss is negligible; the bounds keep the derivatives finite.
    low = np.array([logs.losses.min() - 7.0] * 3 + [0.0] * 2)
    high = np.array([logs.losses.max() + 1.0] * 3 + [MAX_EXPONENT] * 2)
    options = {"loss": "huber", "f_scale": HUBER_DELTA, "max_nfev": 300, "bounds": (low, high)}
    options |= dict.fromkeys(("xtol", "ftol", "gtol"), 1e-12)
    minima = [
        least_squares(logs.residuals, np.clip(start, low + 1e-6, high - 1e-6), logs.jacobian, **options)
        for start in ([logs.of_law(near)] if near else starts)
    ]
    return logs.to_law(min(minima, key=lambda found: float(found.cost)).x)


def _check_enough(runs: Sequence[Run]) -> None:
    counts = len(runs), len({run.parameters for run in runs}), len({run.tokens for run in runs})
    if any(found < least for found, least in zip(counts, (MIN_RUNS, MIN_VALUES, MIN_VALUES), strict=True)):
        expected = f"{MIN_RUNS} runs, {MIN_VALUES} sizes, {MIN_VALUES} token budgets"
        raise UserError(f"scaling: expected at least {expected}, got {', '.join(map(str, counts))}")


def analyze(runs: Sequence[Run], parameters: int, tokens: int) -> dict[str, Any]:
    """Fit the law and predict the loss of a model of N parameters after D tokens; return it with 95% intervals.

    Errors are the jackknife's (Efron and Tibshirani 1993, chapter 11): the law is fitted again without each run. Where
    constants trade off against each other such a fit stays at its start, so a constant's error is at least that of
    least squares; their sum, the prediction, does not need this. Its interval includes the runs' scatter around the
    law, but not that the form may fail so far out. Raises UserError for too few runs, sizes or budgets.
    """
    from scipy.stats import t

    _check_enough(runs)
    law = fit_law(runs)
    without = [fit_law([*runs[:at], *runs[at + 1 :]], near=law) for at in range(len(runs))]
    n_free = len(runs) - N_CONSTANTS
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, n_free))
    intervals = {}
    for name, least in linear_errors(law, runs).items():
        half = quantile * max(jackknife_error([getattr(other, name) for other in without]), least)
        intervals[name] = [max(getattr(law, name) - half, 0.0), getattr(law, name) + half]
    # E is positive and below the best loss; an exponent below 0.02 makes its term a part of E, and the fit's bound says
    # nothing of one above.
    best = min(run.loss for run in runs)
    meaningful = {"E": (0.01 * best, best), "alpha": (0.02, MAX_EXPONENT), "beta": (0.02, MAX_EXPONENT)}
    undetermined = [
        of for of, (low, high) in meaningful.items() if not low < intervals[of][0] < intervals[of][1] < high
    ]
    residuals = np.array([np.log(law.loss(run.parameters, run.tokens) / run.loss) for run in runs])
    error = jackknife_error([float(np.log(other.loss(parameters, tokens))) for other in without])
    half = quantile * float(np.sqrt(error**2 + (residuals**2).sum() / n_free))
    loss = law.loss(parameters, tokens)
    ends = {"low": loss * float(np.exp(-half)), "high": loss * float(np.exp(half))}
    return {
        "runs": [asdict(run) | {"law": law.loss(run.parameters, run.tokens)} for run in runs],
        "law": law._asdict(),
        "intervals": intervals,
        "undetermined": undetermined,
        "prediction": {"parameters": parameters, "tokens": tokens, "value": loss, **ends},
    }


def linear_errors(law: Law, runs: Sequence[Run]) -> dict[str, float]:
    """Return the standard errors of E, α and β by linear least squares: the diagonal of σ² (JᵀJ)⁻¹, rooted."""
    logs = _Logs(runs)
    x = logs.of_law(law)
    jacobian = logs.jacobian(x)
    variance = float((logs.residuals(x) ** 2).sum()) / (len(runs) - N_CONSTANTS)
    errors = np.sqrt(variance * np.diag(np.linalg.inv(jacobian.T @ jacobian + 1e-12 * np.eye(N_CONSTANTS))))
    return {"E": law.E * float(errors[0]), "alpha": float(errors[3]), "beta": float(errors[4])}


def jackknife_error(without: Sequence[float]) -> float:
    """Return the standard error of an estimate from its n values without each of the n data in turn.

    For a mean it is the usual one: 1, 2, 6 have the means 4, 3.5, 1.5 without each, and the error √(7/3).

    >>> round(jackknife_error([4.0, 3.5, 1.5]) ** 2 * 3, 6)
    7.0
    """
    values = np.asarray(without)
    return float(np.sqrt((len(values) - 1) * np.mean((values - values.mean()) ** 2)))
