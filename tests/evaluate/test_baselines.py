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
        (TEXT, TEXT, 0.0, 0.02),
        (TEXT, TEXT[10_000:20_000], 0.0, 0.05),
        (TEXT, _letters(2, 40_000), 4.0, 5.2),
        (TEXT, RANDOM.randbytes(20_000), 7.99, 8.15),
        (b"", RANDOM.randbytes(20_000), 7.99, 8.05),
        (b"", b"a" * 20_000, 0.0, 0.05),
    ],
    ids=["alone", "the training text", "a part of it", "other text", "noise", "noise alone", "one letter"],
)
def test_a_document_costs_what_is_new_in_it(bits, train, document, least, most):
    (own,) = bits(train, {"test": [document]})["test"]
    assert least <= own / len(document) <= most


@BITS
def test_each_document_has_its_own_cost_in_order(bits):
    documents = [TEXT[:9_000], RANDOM.randbytes(5_000), b"", _letters(3, 3_000), b"", TEXT[9_000:30_000]]
    known, noise, nothing, new, also_nothing, known_too = bits(TEXT, {"test": documents})["test"]
    assert noise == pytest.approx(8 * 5_000, rel=0.02)
    assert new == pytest.approx(4.5 * 3_000, rel=0.15)
    assert (nothing, also_nothing) == (0, 0)
    assert max(known, known_too) < 1_000


def test_xz_is_divided_among_documents_to_the_byte():
    words = [bytes(f"{word:x} ", "ascii") for word in random.Random(4).choices(range(2000), k=2000)]
    drawn = random.Random(5)
    documents = [b"".join(drawn.choices(words, k=drawn.choice([1, 5, 30, 200, 900]))) for _ in range(9)]
    train = b"".join(words)
    sizes = [len(lzma.compress(b"".join([train, *documents[:n]]), preset=9 | lzma.PRESET_EXTREME)) for n in range(10)]
    bits = xz_bits(train, {"test": documents})["test"]
    # Each size is rounded up to 4 bytes, and has an end of its own.
    assert np.cumsum(bits) == pytest.approx(8 * (np.array(sizes[1:]) - sizes[0]), abs=8 * 8)


@BITS
def test_documents_add_up_to_the_text_as_a_whole(bits):
    cuts = sorted(random.Random(6).choices(range(20_000), k=40))
    parts = [TEXT[start:end] for start, end in zip([0, *cuts], [*cuts, 20_000], strict=True)]
    together, whole = (bits(TEXT[15_000:], {"test": own})["test"].sum() for own in (parts, [TEXT[:20_000]]))
    assert together == pytest.approx(whole, rel=1e-9)


@BITS
@pytest.mark.parametrize("documents", [[], [b""], [b"", b""]])
def test_nothing_costs_nothing(bits, documents):
    assert bits(TEXT[:100], {"test": documents})["test"].tolist() == [0.0] * len(documents)
