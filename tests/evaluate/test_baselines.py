import lzma
import random

import numpy as np
import pytest

from llm.evaluate.baselines import xz_bits, zstd_bits

BITS = pytest.mark.parametrize("bits", [xz_bits, zstd_bits])
RANDOM = random.Random(1)


def _letters(seed, n):
    return "".join(random.Random(seed).choices("abcdefghij klmnop", k=n)).encode()  # log2(17) is 4.1 bits a byte


TEXT = _letters(1, 40_000)


@BITS
@pytest.mark.parametrize(
    ("train", "document", "least", "most"),
    [
        (b"", TEXT, 4.0, 5.2),
        (TEXT, TEXT[10_000:20_000], 0.0, 0.05),
        (TEXT, _letters(2, 20_000), 4.0, 5.2),
        (TEXT, RANDOM.randbytes(10_000), 7.99, 8.15),
        (b"", b"a" * 20_000, 0.0, 0.05),
    ],
    ids=["alone", "a part of the training text", "other text", "noise", "one letter"],
)
def test_a_document_costs_what_is_new_in_it(bits, train, document, least, most):
    (own,) = bits(train, {"test": [document]})["test"]
    assert least <= own / len(document) <= most


@BITS
def test_each_document_has_its_own_cost_in_order(bits):
    documents = [TEXT[:9_000], RANDOM.randbytes(5_000), b"", _letters(3, 3_000), b"", TEXT[9_000:30_000]]
    known, noise, nothing, new, also_nothing, known_too = own = bits(TEXT, {"test": documents})["test"]
    assert noise == pytest.approx(8 * 5_000, rel=0.06)
    assert new == pytest.approx(4.5 * 3_000, rel=0.15)
    assert (nothing, also_nothing) == (0, 0)
    assert max(known, known_too) < 1_000
    assert own.sum() == pytest.approx(bits(TEXT, {"test": [b"".join(documents)]})["test"].sum(), rel=1e-9)
    assert bits(TEXT, {"val": [], "test": [b"", b""]})["test"].tolist() == [0, 0]


def test_xz_is_divided_among_documents_to_the_byte():
    words = [bytes(f"{word:x} ", "ascii") for word in random.Random(4).choices(range(2000), k=2000)]
    drawn = random.Random(5)
    documents = [b"".join(drawn.choices(words, k=drawn.choice([1, 5, 30, 200, 900]))) for _ in range(5)]
    train = b"".join(words)
    sizes = [len(lzma.compress(b"".join([train, *documents[:n]]), preset=9 | lzma.PRESET_EXTREME)) for n in range(6)]
    bits = xz_bits(train, {"test": documents})["test"]
    # Each size is rounded up to 4 bytes, and has an end of its own.
    assert np.cumsum(bits) == pytest.approx(8 * (np.array(sizes[1:]) - sizes[0]), abs=8 * 8)
