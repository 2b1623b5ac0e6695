"""What a model has by heart: is what it writes new, or does it stand in the training text word for word?

    draw_places → prefixes of train and of test → continued greedily → verbatim_lengths against how they really go on
    what the model wrote freely → longest_runs in train

Test is the measure for train: what a model reproduces of a text that it never saw is boilerplate, and easy to guess.
As in Carlini et al. 2022 (arXiv:2202.07646), a text is learnt by heart if its own prefix and greedy choice bring it
back. Free of torch: `llm.evaluate.samples` does the writing.
"""

from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from llm.core.params import Section

Stream = NDArray[np.integer]
Ints = NDArray[np.int64]

Count = Annotated[int, Field(ge=1)]

SHORT, LONG = 25, 50  # tokens in a row: so many don't come by chance, and 50 are Carlini et al.'s measure


class MemoriseParams(Section):
    """How much of train and test the model is asked to continue."""

    prefixes: Count
    prefix_tokens: Count


class Run(NamedTuple):
    """Tokens in a row that a text and the training stream have in common: how many, and where in each they begin."""

    length: int
    start: int
    place: int


class Continued(NamedTuple):
    """Places in a stream, how many tokens were given from each, and how many behind those came back verbatim (B,)."""

    places: Ints
    prefix_tokens: int
    lengths: Ints

    def hits(self, n_tokens: int) -> int:
        """After how many prefixes at least so many tokens came back."""
        return int((self.lengths >= n_tokens).sum())

    def figures(self) -> dict[str, float]:
        """The same as shares, for metrics; without prefixes there are none."""
        if not len(self.lengths):
            return {"prefixes": 0}
        shares = {f"verbatim_{n}": round(self.hits(n) / len(self.lengths), 5) for n in (SHORT, LONG)}
        return {"prefixes": len(self.lengths), **shares, "mean_verbatim_tokens": round(float(self.lengths.mean()), 3)}


def copies(train: Continued, test: Continued) -> bool | None:
    """Whether more of train comes back than of test, beyond chance; None where one of them gave no prefixes.

    Beyond chance is by two standard errors, with a hit and a miss added to either side, which keeps small numbers
    honest (Agresti and Caffo 2000).
    """
    if not len(train.lengths) or not len(test.lengths):
        return None
    (share, n), (other, other_n) = (
        ((of.hits(SHORT) + 1) / (len(of.lengths) + 2), len(of.lengths) + 2) for of in (train, test)
    )
    return bool(share - other > 2 * (share * (1 - share) / n + other * (1 - other) / other_n) ** 0.5)


def verdict(train: Continued, test: Continued) -> str:
    """The same in a sentence."""
    n, needed = len(train.lengths), train.prefix_tokens + LONG
    if not n:
        return f"No document of train has {needed} tokens; with a smaller memorise.prefix_tokens there may be some."
    of_train = f"{train.hits(SHORT)} of {n} prefixes of train go on word for word for {SHORT} tokens or more"
    if not len(test.lengths):
        return f"{of_train}. No document of test has {needed} tokens, so what is easy to guess can't be told from it."
    of_test = f"{test.hits(SHORT)} of {len(test.lengths)} of test"
    if copies(train, test):
        return f"**The model copies**: {of_train}, and {of_test}. What it never saw it can't have by heart."
    return f"**No sign that the model copies**: {of_train}, and {of_test}. Chance alone may bring as much."


def document_ends(stream: Stream, end_of_text: int) -> Ints:
    """Where <|endoftext|> stands: before the first document and after each. Document i lies behind the i-th."""
    return np.flatnonzero(stream == end_of_text)


def draw_places(stream: Stream, end_of_text: int, length: int, n: int, rng: np.random.Generator) -> Ints:
    """Up to n different places, in order, each the start of `length` tokens that lie within one document.

    Every such place is as likely as any other; where there are fewer than n, these are all of them.

    >>> draw_places(np.array([0, 5, 6, 7, 0, 8, 0]), 0, length=2, n=9, rng=np.random.default_rng(1))
    array([1, 2])
    """
    ends = document_ends(stream, end_of_text)
    of_document = np.maximum(np.diff(ends) - length, 0)  # places: from end to end is a token more than the document has
    drawn = np.sort(rng.choice(total := int(of_document.sum()), min(n, total), replace=False))
    behind = np.cumsum(of_document)
    document = np.searchsorted(behind, drawn, side="right")
    return np.asarray(ends[document] + 1 + drawn - (behind - of_document)[document], dtype=np.int64)


def verbatim_lengths(written: Stream, truth: Stream) -> Ints:
    """How many tokens (B,) of each row of `written` (B, T) are those of `truth` (B, T), up to the first other one.

    >>> verbatim_lengths(np.array([[1, 2, 3], [9, 2, 3]]), np.array([[1, 2, 4], [1, 2, 3]]))
    array([2, 0])
    """
    return np.cumprod(written == truth, axis=1, dtype=np.int64).sum(axis=1)


def longest_runs(texts: list[Stream], train: Stream, chunk_tokens: int = 1 << 22) -> list[Run | None]:
    """For each text, its longest run of tokens that stands in the training stream; None where no token does.

    Exact. Of runs of one length, it is the first of the stream, and then of the text. The stream is read in chunks.

    >>> longest_runs([np.array([7, 1, 2, 9]), np.array([8])], np.array([0, 1, 2, 3, 0, 7, 0]))
    [Run(length=2, start=1, place=1), None]
    """
    runs: list[Run | None] = [None] * len(texts)
    longest = max(map(len, texts), default=0)
    for begin in range(0, len(train) if longest else 0, chunk_tokens):
        chunk = np.asarray(train[begin : begin + chunk_tokens + longest - 1], dtype=np.int64)
        for number, run in _runs_of_chunk(texts, chunk).items():
            best = runs[number]
            if best is None or run.length > best.length:
                runs[number] = run._replace(place=begin + run.place)
    return runs


def _runs_of_chunk(texts: list[Stream], chunk: Ints) -> dict[int, Run]:
    """The longest run of each text, by its number, in one piece of the stream.

    Runs grow by a token a round. What is followed are the starts in texts and chunk whose n tokens stand in both,
    each with the number of its n-gram; with every token fewer are left.
    """
    joined = np.concatenate([np.asarray(text, dtype=np.int64) for text in texts])
    lengths = np.array([len(text) for text in texts])
    owner, begins = np.repeat(np.arange(len(texts)), lengths), np.cumsum(lengths) - lengths
    text_ends = np.repeat(begins + lengths, lengths)
    base = 1 + int(max(joined.max(), chunk.max()))
    starts, grams = np.arange(len(joined)), np.zeros(len(joined), dtype=np.int64)
    places, place_grams = np.arange(len(chunk)), np.zeros(len(chunk), dtype=np.int64)
    runs: dict[int, Run] = {}
    for n in range(1, int(lengths.max()) + 1):
        goes_on = starts + n <= text_ends[starts]
        starts = starts[goes_on]
        keys, grams = np.unique(grams[goes_on] * base + joined[starts + n - 1], return_inverse=True)
        if not len(keys):
            break
        goes_on = places + n <= len(chunk)
        places = places[goes_on]
        wanted = place_grams[goes_on] * base + chunk[places + n - 1]
        found = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        common = keys[found] == wanted
        places, place_grams = places[common], found[common]
        first = np.full(len(keys), len(chunk))
        np.minimum.at(first, place_grams, places)
        in_chunk = first[grams] < len(chunk)
        starts, grams = starts[in_chunk], grams[in_chunk]
        order = np.lexsort((starts, first[grams], owner[starts]))
        numbers, at = np.unique(owner[starts][order], return_index=True)
        for number, chosen in zip(numbers.tolist(), order[at], strict=True):
            runs[number] = Run(n, int(starts[chosen] - begins[number]), int(first[grams[chosen]]))
    return runs
