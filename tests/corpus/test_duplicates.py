"""Near duplicates: planted ones are found as often as the theory of banding says, and nothing else is."""

import random
from collections.abc import Iterator
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.corpus.duplicates import (
    _ANY_WORD,
    _NOT_PLAIN,
    _PLAIN_WORD,
    NearDuplicateParams,
    RepeatFilter,
    representatives,
    signature,
    words_of,
)

ACTIONS = st.sampled_from(["drop", "group"])


def params(**values: object) -> NearDuplicateParams:
    defaults = {"action": "drop", "threshold": 0.8, "ngram": 1, "permutations": 64, "bands": 16}
    return NearDuplicateParams(**(defaults | values))


def find(texts: list[str], near: NearDuplicateParams) -> list[int]:
    return representatives((signature(text, near) for text in texts), near).tolist()


def estimate(one: bytes, other: bytes, near: NearDuplicateParams) -> float:
    """The fraction of places in which two signatures agree."""
    return float(np.mean([a == b for a, b in zip(digest(one, near), digest(other, near), strict=True)]))


def digest(state: bytes, near: NearDuplicateParams) -> list[int]:
    from rensa import RMinHash

    sketch = RMinHash(near.permutations, 0)
    sketch.__setstate__(state)
    return sketch.digest()


def pair(name: str, n_common: int, n_own: int) -> tuple[str, str]:
    """Two texts of words that no other pair has; their similarity is n_common / (n_common + 2 * n_own)."""
    common = [f"{name}c{n}" for n in range(n_common)]
    one, other = ([f"{name}{side}{n}" for n in range(n_own)] for side in "ab")
    return " ".join(common + one), " ".join(common + other)


@pytest.mark.parametrize(("n_common", "n_own"), [(60, 20), (80, 10)])
def test_planted_pairs_are_found_by_the_s_curve(n_common: int, n_own: int) -> None:
    near = params(threshold=0.01, bands=8)  # so low a threshold leaves the decision to the bands
    similarity, places, n_pairs = n_common / (n_common + 2 * n_own), 64 // 8, 400
    expected = 1 - (1 - similarity**places) ** 8
    found = find([text for n in range(n_pairs) for text in pair(f"p{n}", n_common, n_own)], near)
    assert all(one in (n, n - n % 2) for n, one in enumerate(found))
    fraction = sum(found[2 * n + 1] == 2 * n for n in range(n_pairs)) / n_pairs
    assert fraction == pytest.approx(expected, abs=4 * sqrt(expected * (1 - expected) / n_pairs) + 0.01)


def by_all_pairs(signatures: list[bytes], near: NearDuplicateParams) -> Iterator[int]:
    """What `representatives` promises, by comparing every pair."""
    count = range(len(signatures))
    near_to = {n: {m for m in count if estimate(signatures[m], signatures[n], near) >= near.threshold} for n in count}
    stayed: list[int] = []
    for n in count:
        if near.action == "drop":
            first = next((m for m in stayed if m in near_to[n]), n)
            stayed += [n] * (first == n)
            yield first
        else:
            group = {n}
            while grown := set().union(*(near_to[m] for m in group)) - group:
                group |= grown
            yield min(group)


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=9), max_size=14), ACTIONS, st.floats(0.2, 1))
def test_a_comparison_of_every_pair_finds_the_same(documents: list[list[str]], action: str, threshold: float) -> None:
    near = params(action=action, threshold=threshold, permutations=16, bands=16)  # no near pair without a common band
    signatures = [signature(" ".join(words), near) for words in documents]
    assert representatives(iter(signatures), near).tolist() == list(by_all_pairs(signatures, near))


@pytest.mark.parametrize(
    ("one", "other", "ngram", "are_equal"),
    [
        ("The cat, the STRASSE.", "the CAT — the straße", 2, True),
        ("The cat, the STRASSE.", "cat the straße the", 2, False),
        ("a b a b", "a b a b a b a b", 2, True),  # how often an n-gram occurs makes no difference
        ("a b a b", "a b a b b", 2, False),
        ("A, B!", "a b", 5, True),  # fewer words than n are one n-gram
        ("a b", "b a", 5, False),
    ],
)
def test_a_signature_is_of_the_set_of_ngrams(one: str, other: str, ngram: int, are_equal: bool) -> None:
    assert (signature(one, params(ngram=ngram)) == signature(other, params(ngram=ngram))) == are_equal


# Sentences that differ in their marks alone, or of a script without spaces.
DIFFERENT = {
    "Hindi": ["लड़का बाज़ार गया और उसने सेब ख़रीदा", "लड़की बाज़ार गयी और उसने सेब ख़रीदी", "लड़के बाज़ार गये और उसने सेब ख़रीदे"],
    "Hebrew": ["שָׁלוֹם לַיֶּלֶד", "שִׁלּוּם לְיֶלֶד", "שֶׁלֹּם לִילָד"],
    "Chinese": ["今天早上我在图书馆里读了一本关于河流的书", "昨天晚上他在电影院里看了一部关于战争的片"],
    "Thai": ["เมื่อวานฉันอ่านหนังสือเกี่ยวกับแม่น้ำ", "พรุ่งนี้เขาจะดูภาพยนตร์สงครามกับเพื่อน"],
}


@pytest.mark.parametrize("script", DIFFERENT)
def test_duplicates_are_found_in_any_script(script: str) -> None:
    texts = DIFFERENT[script]
    for ngram in (1, 5):
        assert find(texts, params(ngram=ngram, permutations=128)) == list(range(len(texts)))
    rng, letters = random.Random(0), [*"".join(texts)]
    long = ["".join(rng.choices(letters, k=1500)) for _ in range(6)]
    copies = [f"{text}। {texts[0]}" for text in long]
    near = params(ngram=5, threshold=0.7, permutations=128, bands=32)
    assert find(long + copies, near) == [*range(6), *range(6)]


@given(st.text())
def test_plain_words_are_runs_of_letters(text: str) -> None:
    plain = _NOT_PLAIN.sub("", text.casefold())
    assert _ANY_WORD.findall(plain) == _PLAIN_WORD.findall(plain)
    assert words_of(plain) == _PLAIN_WORD.findall(plain.casefold())


LONG = " ".join(f"word{number}" for number in range(40))
REPEATS = {
    "the same": (LONG, LONG, True),
    "one word differs": (LONG, LONG.replace("word20", "another"), True),
    "more": (LONG, f"{LONG} {LONG[::-1]}", False),
    "short": ("Return the result.", "Return the result.", False),
    "a part": (f"{LONG} {LONG[::-1]}", LONG, True),
}


@pytest.mark.parametrize(("first", "second", "is_repeated"), REPEATS.values(), ids=REPEATS.keys())
def test_a_text_repeats_earlier_ones(first: str, second: str, is_repeated: bool) -> None:
    repeats = RepeatFilter()
    assert [repeats.is_repeated(text) for text in (first, second)] == [False, is_repeated]
