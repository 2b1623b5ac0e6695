"""Gopher's rules against slow definitions of them, and against examples counted by hand."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.corpus.repetition import RepetitionParams, repetition

WORDS = st.sampled_from(["a", "bc", "def", "d", "é", "x.", "X."])
SPACES = st.sampled_from([" ", " ", " ", "\n", "\n", "\n\n", " \n\t\n  ", "\n\n\n", "  "])
TEXTS = st.lists(st.tuples(WORDS, SPACES), max_size=60).map(lambda pairs: "".join(w + s for w, s in pairs))
TOP, DUPLICATE = (1, 2, 3, 4), (1, 5, 6, 10)
# In the order in which they are applied.
RULES = ["duplicate_lines", "duplicate_line_chars", "duplicate_paragraphs", "duplicate_paragraph_chars"]
for n in range(1, 11):
    RULES += [f"top_ngram_chars_{n}"] * (n in TOP) + [f"duplicate_ngram_chars_{n}"] * (n in DUPLICATE)


def limits(values: dict[str, float]) -> RepetitionParams:
    """The limits of rules by their names; no fraction is above the 1.0 of the others."""
    values = dict.fromkeys(RULES, 1.0) | values
    ngrams = {
        field: {str(n): values[f"{field}_{n}"] for n in lengths}
        for field, lengths in [("top_ngram_chars", TOP), ("duplicate_ngram_chars", DUPLICATE)]
    }
    return RepetitionParams(**{rule: values[rule] for rule in RULES[:4]}, **ngrams)


def n_chars(text: str) -> int:
    return sum(not char.isspace() for char in text)


def paragraphs(text: str) -> list[str]:
    found = [""]
    for line in text.split("\n"):
        found = [*found[:-1], found[-1] + line + "\n"] if line.strip() else [*found, ""]
    return found


def fractions(text: str) -> dict[str, float]:
    """What each rule measures, by its definition."""
    found, total = {}, max(n_chars(text), 1)
    for name, pieces in [("line", text.split("\n")), ("paragraph", paragraphs(text))]:
        parts = [piece.strip() for piece in pieces if piece.strip()]
        again = [part for place, part in enumerate(parts) if part in parts[:place]]
        found[f"duplicate_{name}s"] = len(again) / max(len(parts), 1)
        found[f"duplicate_{name}_chars"] = sum(map(n_chars, again)) / total
    words = text.split()
    for n in range(1, 11):
        ngrams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
        times = Counter(ngrams)
        top = max(ngrams, key=lambda ngram: (times[ngram], len("".join(ngram))), default=())  # the first of the largest
        starts = {
            f"top_ngram_chars_{n}": [start for start, ngram in enumerate(ngrams) if ngram == top and times[top] > 1],
            f"duplicate_ngram_chars_{n}": [start for start, ngram in enumerate(ngrams) if ngram in ngrams[:start]],
        }
        for rule, places in starts.items():
            held = {place for start in places for place in range(start, start + n)}
            found[rule] = sum(len(words[place]) for place in held) / total
    return {rule: found[rule] for rule in RULES}


@settings(max_examples=50, deadline=None)
@given(TEXTS, st.fixed_dictionaries(dict.fromkeys(RULES, st.floats(0, 1))))
def test_rules_are_applied_as_defined(text: str, values: dict[str, float]) -> None:
    measured = fractions(text)
    for rule, fraction in measured.items():
        assert 0 <= fraction <= 1
        assert repetition(text, limits({rule: fraction})) is None
        if fraction:
            assert repetition(text, limits({rule: fraction - 1e-9})) == rule
    broken = [rule for rule, fraction in measured.items() if fraction > values[rule]]
    assert repetition(text, limits(values)) == (broken[0] if broken else None)


@pytest.mark.parametrize(
    ("rule", "text", "fraction"),
    [
        ("duplicate_paragraphs", "a\nb\n\na\nb\n \t\na", 1 / 3),
        ("top_ngram_chars_2", "ha ha ha ha cry", 8 / 11),  # three times, yet no character counts twice
        ("top_ngram_chars_2", "a b xx yy a b xx zz", 6 / 12),  # a b, b xx: equally often; b xx has more characters
        ("duplicate_ngram_chars_5", "a b c d e f a b c d e f", 6 / 12),  # a…e and b…f overlap
        ("duplicate_line_chars", "else\nElse\nelse.", 0),
        ("duplicate_ngram_chars_5", "a b c d e x A b c d e", 0),  # case makes a difference
    ],
)
def test_fractions_counted_by_hand(rule: str, text: str, fraction: float) -> None:
    assert repetition(text, limits({rule: fraction})) is None
    assert not fraction or repetition(text, limits({rule: fraction - 1e-9})) == rule
