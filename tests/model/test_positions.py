import math

import pytest
import torch

from llm.model.positions import rope_table, rotate, sinusoidal_table

B, T, K = 2, 11, 3


def _rotated(x, position, theta=1000.0):
    cos, sin = rope_table(position + 1, x.shape[-1], theta)
    return rotate(x, cos[position], sin[position])


def test_pairs_of_halves_turn_like_complex_numbers():
    x = torch.randn(5, 1, 10, generator=torch.Generator().manual_seed(3))
    position, theta = 13, 1000.0
    angle = position * theta ** (-2 * torch.arange(5) / 10)
    expected = torch.complex(x[..., :5], x[..., 5:]) * torch.polar(torch.ones(5), angle)
    torch.testing.assert_close(_rotated(x, position), torch.cat([expected.real, expected.imag], dim=-1))


@pytest.mark.parametrize("distance", [0, 1, 7])
def test_a_score_depends_on_the_distance_alone(distance):
    q, k = torch.randn(2, 1, 10, generator=torch.Generator().manual_seed(5))
    scores = [(_rotated(q, start + distance) * _rotated(k, start)).sum() for start in (0, 3, 101)]
    torch.testing.assert_close(torch.stack(scores), scores[0].expand(3), atol=1e-4, rtol=1e-4)
    farther = (_rotated(q, distance + 1) * _rotated(k, 0)).sum()
    assert abs(farther - scores[0]) > 0.01


def test_waves_are_the_papers_formula():
    table = sinusoidal_table(T, 10)
    assert table.shape == (T, 10)
    for position in range(T):
        for i in range(5):
            angle = position / 10000 ** (2 * i / 10)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)
