import random

import pytest

from llm.evaluate.baselines import bits_per_byte, bzip2_size, uniform_bits, xz_size, zstd_size

GIVEN_TRAIN = [xz_size, zstd_size]
COMPRESSORS = [*GIVEN_TRAIN, bzip2_size]


def test_three_bytes_for_twelve_are_two_bits_each():
    assert bits_per_byte(8 * 3, 12) == 2


def test_each_token_costs_the_logarithm_of_the_vocabulary():
    assert uniform_bits(7, 2) == 7
    assert uniform_bits(5, 2048) == 55


@pytest.fixture
def text():
    return "".join(random.Random(1).choices("abcdefghij klmnop", k=40_000)).encode()


@pytest.mark.parametrize("size", GIVEN_TRAIN)
def test_given_the_text_itself_a_text_costs_almost_nothing(size, text):
    alone = size(text)
    assert 0.4 * len(text) < alone < 0.7 * len(text)  # log2(17) / 8 is 0.51
    assert 0 < size(text + text) - alone < 0.02 * alone


@pytest.mark.parametrize("size", GIVEN_TRAIN)
def test_given_another_text_a_text_costs_what_it_costs_alone(size, text):
    half = len(text) // 2
    assert size(text) - size(text[:half]) == pytest.approx(size(text[half:]), rel=0.05)


def test_bzip2_finds_the_text_again_within_its_block_alone(text):
    assert 0.4 * len(text) < bzip2_size(text) < 0.7 * len(text)
    between = random.Random(2).randbytes(900_000)
    assert bzip2_size(text + text) < 1.5 * bzip2_size(text)
    assert bzip2_size(text + between + text) > len(between) + 1.9 * bzip2_size(text)


@pytest.mark.parametrize("size", COMPRESSORS)
def test_even_nothing_takes_a_few_bytes(size):
    assert 0 < size(b"") < 64
