"""How the loss falls with size and data: runs of a ladder in; the fitted law, a prediction, a page and a picture out.

    L(N, D) = E + A / N^α + B / D^β        Hoffmann et al. 2022, arXiv:2203.15556, equation 2

N are parameters, D tokens seen in training, L nats a token of held-out text. E is what no model of the family learns,
the second term what the size costs, the third what the data cost. N leaves the embedding out, as Kaplan et al. 2020
(arXiv:2001.08361) count: in models as small as these it holds most of the weights and only looks rows up, so that
the total would hardly tell their sizes apart. Hoffmann et al. count all; at their sizes it makes little difference
(Pearce and Song 2024, arXiv:2406.12907), but our α is not to be compared with theirs.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from llm.core.errors import UserError
from llm.report.plots import svg

# Up to this much of the log loss, 1%, a residual counts as its square, beyond only as its size. Hoffmann et al. take
# 0.001 with 400 runs; with few runs that is a fit of absolute values, which goes through as many runs as it has
# constants, and leaving one out then says nothing.
HUBER = 0.01
N_CONSTANTS = 5
LEAST_RUNS, LEAST_VALUES = N_CONSTANTS + 2, 3  # runs in all; sizes, and budgets of tokens
LEVEL = 0.95
MOST_EXPONENT = 3.0
# Where fits start: exponents, and the shares of the typical loss that E, the size's and the data's term have.
EXPONENTS = (0.3, 1.0)
SHARES = ((0.6, 0.2, 0.2), (0.2, 0.4, 0.4), (0.2, 0.1, 0.7), (0.2, 0.7, 0.1), (0.9, 0.05, 0.05))


@dataclass(frozen=True)
class Run:
    """One trained model: N, D, its validation loss in nats a token, and how often it saw the corpus."""

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
        """L in nats a token.

        >>> Law(E=1.0, A=10.0, alpha=0.5, B=20.0, beta=0.5).loss(100, 400)
        3.0
        """
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta


class Interval(NamedTuple):
    """A value and between what it lies, 95%."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """A law; E, α and β with intervals; which of them the runs leave open; the loss it predicts for one more run."""

    law: Law
    constants: dict[str, Interval]
    open: list[str]
    prediction: Interval


def fit_law(runs: Sequence[Run]) -> Law:
    """The law that comes nearest to the runs: approach 3 of Hoffmann et al., section 3.3 and appendix D.2.

    Least Huber loss of log L̂ - log L, where log L̂ is the logsumexp of the terms' logarithms: (log E, log A - α log N,
    log B - β log D). Of the fits from a grid of starts the best is taken.

    Raises UserError where there are too few runs, sizes or budgets for five constants and a notion of their error.
    """
    counts = {
        f"{LEAST_RUNS} runs": (len(runs), LEAST_RUNS),
        f"{LEAST_VALUES} sizes": (len({run.parameters for run in runs}), LEAST_VALUES),
        f"{LEAST_VALUES} budgets of tokens": (len({run.tokens for run in runs}), LEAST_VALUES),
    }
    if any(given < least for given, least in counts.values()):
        given = ", ".join(str(given) for given, _ in counts.values())
        raise UserError(f"scaling: wanted at least {', '.join(counts)}, given {given}")
    sizes, tokens, losses = _logarithms(runs)
    typical = float(np.median(losses))
    starts = [
        [*(typical + np.log(shares)), alpha, beta] for shares in SHARES for alpha in EXPONENTS for beta in EXPONENTS
    ]
    centre = float(sizes.mean()), float(tokens.mean())
    fits = [_descend(np.array(start), sizes - centre[0], tokens - centre[1], losses) for start in starts]
    return _law(min(fits, key=lambda fit: fit[1])[0], centre)


def refit(law: Law, runs: Sequence[Run]) -> Law:
    """The best law for other runs that lies next to a given one."""
    sizes, tokens, losses = _logarithms(runs)
    centre = float(sizes.mean()), float(tokens.mean())
    size_term, token_term = np.log(law.A) - law.alpha * centre[0], np.log(law.B) - law.beta * centre[1]
    start = np.array([np.log(law.E), size_term, token_term, law.alpha, law.beta])
    return _law(_descend(start, sizes - centre[0], tokens - centre[1], losses)[0], centre)


def _logarithms(runs: Sequence[Run]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    table = np.log([[run.parameters, run.tokens, run.loss] for run in runs])
    return table[:, 0], table[:, 1], table[:, 2]


def _law(found: NDArray[np.float64], centre: tuple[float, float]) -> Law:
    e, a, b, alpha, beta = map(float, found)
    return Law(float(np.exp(e)), float(np.exp(a + alpha * centre[0])), alpha, float(np.exp(b + beta * centre[1])), beta)


def _descend(
    start: NDArray[np.float64], sizes: NDArray[np.float64], tokens: NDArray[np.float64], losses: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """From a start (log E, log size term, log data term, α, β), all logarithms (R,): the best point near it, its cost.

    The terms are those at the runs' centre, where sizes and tokens are 0: far from it, at N = D = 1, A and α would be
    nearly one constant.
    """
    from scipy.optimize import least_squares

    def logs(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([np.full_like(sizes, x[0]), x[1] - x[3] * sizes, x[2] - x[4] * tokens])

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.logaddexp.reduce(logs(x), axis=0) - losses

    def slopes(x: NDArray[np.float64]) -> NDArray[np.float64]:
        terms = logs(x)
        shares = np.exp(terms - np.logaddexp.reduce(terms, axis=0))
        return np.stack([*shares, -shares[1] * sizes, -shares[2] * tokens], axis=1)

    # A term below a thousandth of the loss is none; no bound is a place where the derivatives end.
    least, most = losses.min() - 7.0, losses.max() + 1.0
    low, high = np.array([least] * 3 + [0.0] * 2), np.array([most] * 3 + [MOST_EXPONENT] * 2)
    found = least_squares(
        residuals,
        np.clip(start, low + 1e-6, high - 1e-6),
        slopes,
        bounds=(low, high),
        loss="huber",
        f_scale=HUBER,
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
        max_nfev=300,
    )
    return found.x, float(found.cost)


def fit_and_predict(runs: Sequence[Run], parameters: int, tokens: int) -> Fit:
    """The law of the runs, and what it predicts for a model of N parameters after D tokens.

    Errors are the jackknife's (Efron and Tibshirani 1993, chapter 11): the law is fitted anew without each run. Where
    several constants do the same work a new fit stays where it starts, so a constant's error is that of least squares
    if that is larger; a prediction, of their sum, knows no such doubt. It has the runs' own scatter around the law in
    its interval too, since its outcome will have it. That the form may not hold so far out is in no interval.

    Raises UserError as `fit_law`.
    """
    from scipy.stats import t

    law = fit_law(runs)
    flat = linear_errors(law, runs)
    without = [refit(law, [*runs[:at], *runs[at + 1 :]]) for at in range(len(runs))]
    n_free = len(runs) - N_CONSTANTS
    reach = float(t.ppf((1 + LEVEL) / 2, n_free))
    constants = {}
    for name in ("E", "alpha", "beta"):
        value, others = getattr(law, name), [getattr(other, name) for other in without]
        half = reach * max(jackknife_error(others), flat[name])
        constants[name] = Interval(value, max(value - half, 0.0), value + half)
    bounds = _bounds(runs)
    open_ = [name for name, (_, low, high) in constants.items() if low <= bounds[name][0] or high >= bounds[name][1]]
    residuals = np.array([np.log(law.loss(run.parameters, run.tokens) / run.loss) for run in runs])
    error = jackknife_error([float(np.log(other.loss(parameters, tokens))) for other in without])
    half = reach * float(np.sqrt(error**2 + (residuals**2).sum() / n_free))
    loss = law.loss(parameters, tokens)
    return Fit(law, constants, open_, Interval(loss, loss * float(np.exp(-half)), loss * float(np.exp(half))))


def _bounds(runs: Sequence[Run]) -> dict[str, tuple[float, float]]:
    """Between what a constant says something: E is more than nothing and less than what was reached.

    An exponent at the fit's upper bound is one that nothing held; below 0.02 its term is as good as a part of E.
    """
    least = min(run.loss for run in runs)
    return {"E": (0.01 * least, least), "alpha": (0.02, MOST_EXPONENT), "beta": (0.02, MOST_EXPONENT)}


def linear_errors(law: Law, runs: Sequence[Run]) -> dict[str, float]:
    """The standard errors of E, α and β if log L̂ were linear in the constants: of σ² (JᵀJ)⁻¹, its diagonal's roots."""
    sizes, tokens, losses = _logarithms(runs)
    sizes, tokens = sizes - sizes.mean(), tokens - tokens.mean()
    at = np.array([[law.E, law.A / run.parameters**law.alpha, law.B / run.tokens**law.beta] for run in runs]).T
    shares = at / at.sum(axis=0)
    slopes = np.stack([*shares, -shares[1] * sizes, -shares[2] * tokens])
    variance = float(((np.log(at.sum(axis=0)) - losses) ** 2).sum()) / (len(runs) - N_CONSTANTS)
    errors = np.sqrt(variance * np.diag(np.linalg.inv(slopes @ slopes.T + 1e-12 * np.eye(N_CONSTANTS))))
    return {"E": law.E * float(errors[0]), "alpha": float(errors[3]), "beta": float(errors[4])}


def jackknife_error(without: Sequence[float]) -> float:
    """The standard error of an estimate from its values without each of the n data in turn.

    Of a mean it is the usual one: the mean of 1, 2, 6 without each is 4, 3.5, 1.5, and the error √(7/3).

    >>> round(jackknife_error([4.0, 3.5, 1.5]) ** 2 * 3, 6)
    7.0
    """
    values = np.asarray(without)
    return float(np.sqrt((len(values) - 1) * np.mean((values - values.mean()) ** 2)))


def summarise(
    setting: str, runs: Sequence[Run], fit: Fit, target: tuple[int, int], outcome: Run | None
) -> dict[str, Any]:
    """All of it as plain values, for metrics. `target` is the predicted run's N and D."""
    return {
        "setting": setting,
        "runs": [asdict(run) for run in runs],
        "law": fit.law._asdict(),
        "intervals": {name: [found.low, found.high] for name, found in fit.constants.items()},
        "undetermined": fit.open,
        "prediction": {"parameters": target[0], "tokens": target[1], **fit.prediction._asdict()},
        "outcome": asdict(outcome) if outcome else None,
    }


def write_page(setting: str, runs: Sequence[Run], fit: Fit, target: tuple[int, int], outcome: Run | None) -> str:
    """The report in Markdown: the runs, the law and what it leaves open, the prediction beside what came."""
    law, symbols = fit.law, {"E": "E", "alpha": "α", "beta": "β"}
    lines = [
        f"# Scaling: the ladder `{setting}`",
        "",
        "L(N, D) = E + A / N^α + B / D^β: N parameters without the embedding, D tokens seen, L nats a token of val.",
        "Every run's learning rate ends at zero. The last column is how far the law lies from the run.",
        "",
        "| run | N | D | epochs | D / N | loss | law | off |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_row(run, law) for run in sorted(runs, key=lambda run: (run.tokens, run.parameters))),
    ]
    if any(run.epochs > 1 for run in [*runs, *([outcome] if outcome else [])]):
        lines += [
            "",
            "\\* saw text more than once: D counts it each time, though it teaches less then (Muennighoff et al. 2023, "
            "arXiv:2305.16264).",
        ]
    constants = [
        f"{symbols[name]} = {found.value:.3g} [{found.low:.3g}, {found.high:.3g}]"
        for name, found in fit.constants.items()
    ]
    lines += ["", "## The law", "", f"{', '.join(constants)}; A = {law.A:.3g}, B = {law.B:.3g}", ""]
    if fit.open:
        names = ", ".join(symbols[name] for name in fit.open)
        lines.append(
            f"These {len(runs)} runs do not determine {names}: the 95% interval holds values that mean nothing. "
            "The law is a curve through the runs, and its constants are no findings."
        )
    else:
        share = law.beta / (law.alpha + law.beta)
        lines.append(
            f"The best N for a compute C ∝ N · D grows as C^(β / (α + β)) = C^{share:.2f}: ten times the compute want "
            f"{10**share:.1f} times the parameters and {10 ** (1 - share):.1f} times the tokens."
        )
    predicted = fit.prediction
    lines += [
        "",
        "## The prediction",
        "",
        f"A model of N = {target[0]:,} after D = {target[1]:,} tokens, which is in no fit: "
        f"**{predicted.value:.3f}** [{predicted.low:.3f}, {predicted.high:.3f}] nats a token.",
    ]
    if outcome is None:
        lines.append("It was not trained.")
    else:
        where = "within" if predicted.low <= outcome.loss <= predicted.high else "outside of"
        off = outcome.loss - predicted.value
        lines.append(
            f"Trained{_mark(outcome)}, it has **{outcome.loss:.3f}**: {off:+.3f} ({off / predicted.value:+.1%}), "
            f"{where} the interval."
        )
    lines += [
        "",
        "Intervals are 95%, of a jackknife over the runs with their scatter, one seed each. That the form may fail "
        "further out is in none of them.",
    ]
    return "\n".join(lines) + "\n"


def _row(run: Run, law: Law) -> str:
    fitted = law.loss(run.parameters, run.tokens)
    return (
        f"| {run.name} | {run.parameters:,} | {run.tokens:,} | {run.epochs:.2f}{_mark(run)} | "
        f"{run.tokens / run.parameters:.2g} | {run.loss:.3f} | {fitted:.3f} | {fitted / run.loss - 1:+.1%} |"
    )


def _mark(run: Run) -> str:
    return "\\*" if run.epochs > 1 else ""


def draw(runs: Sequence[Run], fit: Fit, target: tuple[int, int], outcome: Run | None, path: Path) -> None:
    """Loss against N, a colour for each D: runs as points, the law as lines, the prediction with its interval.

    What saw text more than once is drawn hollow.
    """
    budgets = sorted({run.tokens for run in runs} | {target[1]})
    sizes = np.geomspace(min(run.parameters for run in runs), max(target[0], *(run.parameters for run in runs)), 60)
    predicted = fit.prediction

    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        for number, tokens in enumerate(budgets):
            color = f"C{number % 10}"
            axes.plot(sizes, [fit.law.loss(size, tokens) for size in sizes], color=color, linewidth=1)
            axes.plot([], [], "o", color=color, label=f"{tokens / 1e6:.2g}M tokens")
            for run in runs:
                if run.tokens == tokens:
                    fill = "white" if run.epochs > 1 else color
                    axes.plot([run.parameters], [run.loss], "o", color=color, markerfacecolor=fill)
        if any(run.epochs > 1 for run in runs):
            axes.plot([], [], "o", color="gray", markerfacecolor="white", label="over one epoch")
        error = [[predicted.value - predicted.low], [predicted.high - predicted.value]]
        axes.errorbar([target[0]], [predicted.value], error, fmt="_", color="black", capsize=4, label="predicted")
        if outcome is not None:
            axes.plot([outcome.parameters], [outcome.loss], "*", color="crimson", markersize=11, label="trained")
        axes.set_xscale("log")
        axes.set(xlabel="parameters without the embedding", ylabel="validation loss (nats a token)")
        axes.set_title("runs as points, the fitted law as lines")
        axes.legend()

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg(fill, 7.5, 5), encoding="utf-8")
