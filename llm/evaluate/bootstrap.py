"""How far a figure of held-out text may be trusted: a bootstrap interval over documents.

    documents       nats 10 30 20, bytes 5 10 10
    one resample    the 1st, the 3rd and the 3rd again: (10 + 20 + 20) / (5 + 10 + 10) = 2.0
    95%             between the 2.5% and the 97.5% quantile of thousands of them

It says what other documents of the same kind would have given, the model as it is: another seed of the training is no
part of it. Tokens of one document are alike, so documents are drawn and not tokens, which would make it too narrow.
"""

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 2000
LEVEL = 0.95
MOST_DRAWS = 1 << 22  # of documents at a time, 32 MiB


def ratio_interval(
    numerators: NDArray[np.number], denominators: NDArray[np.number], rng: np.random.Generator
) -> tuple[float, float] | None:
    """The 95% interval of sum(numerators) / sum(denominators), both (D,), a pair a document; None for fewer than two.

    The percentile bootstrap of Efron and Tibshirani 1993, chapter 13: pairs are drawn with replacement, as many as
    there are. Denominators are above 0. The same state of `rng` gives the same interval.

    >>> ratio_interval(np.array([10, 30, 20]), np.array([5, 10, 10]), np.random.default_rng(1))
    (2.0, 3.0)
    """
    n = len(numerators)
    if n < 2:
        return None
    assert (denominators > 0).all(), "a resample could divide by zero"
    rows = max(MOST_DRAWS // n, 1)
    ratios = []
    for at in range(0, N_RESAMPLES, rows):
        drawn = rng.integers(n, size=(min(rows, N_RESAMPLES - at), n))
        ratios.append(numerators[drawn].sum(axis=1) / denominators[drawn].sum(axis=1))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return float(low), float(high)
