"""Muon's parts: the momentum, the nearest orthogonal matrix, the step; with the kernels and without."""

import math

import pytest
import torch
from torch import nn

from llm.model import kernels
from llm.train.muon import apply, nesterov, orthogonalize


def _random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _uneven():
    u, _, vt = torch.linalg.svd(_random(3, 7, 23), full_matrices=False)
    return u @ torch.diag(torch.logspace(-2.2, 0, 7)) @ vt


def _of_norm_1(matrices):
    return matrices / matrices.norm(dim=(-2, -1), keepdim=True)


@pytest.fixture(params=[True, False], ids=["kernel", "torch"])
def _both(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(kernels, "library", lambda: None)


def test_singular_values_from_0_003_end_within_a_fifth_of_1():
    values = torch.logspace(math.log10(0.0031), 0, 200, dtype=torch.float64)
    ends = orthogonalize(torch.diag(values)[None])[0].diagonal()
    assert 0.8 < ends.min() < 0.85
    assert 1.15 < ends.max() < 1.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("matrices", [_random(3, 7, 23), _random(3, 23, 7), _uneven()], ids=["wide", "tall", "uneven"])
def test_singular_values_end_near_one(matrices, dtype):
    singular_values = torch.linalg.svdvals(orthogonalize(_of_norm_1(matrices).to(dtype)).float())
    assert singular_values.min() > 0.6
    assert singular_values.max() < 1.3


def test_the_result_is_near_the_nearest_orthogonal_matrix():
    matrices = _of_norm_1(_random(3, 7, 23))
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    result = orthogonalize(matrices)
    assert (nn.functional.cosine_similarity(result.flatten(1), (u @ vt).flatten(1)) > 0.97).all()
    # The singular vectors stay: in their basis the result is diagonal.
    inside = u.mT @ result @ vt.mT
    assert (inside - torch.diag_embed(inside.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-4
    torch.testing.assert_close(orthogonalize(matrices.mT), result.mT, atol=1e-4, rtol=1e-4)
    assert not orthogonalize(torch.zeros(3, 7, 23)).any()


@pytest.mark.usefixtures("_both")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nesterov_is_the_next_average_of_norm_1(dtype):
    average = _random(3, 5, 11, seed=2)
    gradients = [gradient.T for gradient in _random(3, 11, 5, seed=3)]  # not in the order of memory
    before, clipped = average.clone(), torch.stack(gradients) * 0.5
    update = nesterov(gradients, average, 0.9, 0.5, dtype)
    expected = 0.9 * before + 0.1 * clipped
    torch.testing.assert_close(average, expected)
    assert update.dtype == dtype
    torch.testing.assert_close(update.float(), _of_norm_1(0.9 * expected + 0.1 * clipped), atol=5e-3, rtol=1e-2)
    assert not nesterov([torch.zeros(5, 11)], torch.zeros(1, 5, 11), 0.9, 1.0, dtype).any()


@pytest.mark.usefixtures("_both")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_weight_has_a_rate_of_its_own(dtype):
    weights, updates = list(_random(2, 5, 11)), _random(2, 5, 11, seed=2).to(dtype)
    expected = [weights[0] * 0.5 - updates[0].float() * 0.25, weights[1] - updates[1].float() * 2]
    apply(weights, updates, torch.tensor([0.5, 1.0]), torch.tensor([0.25, 2.0]))
    torch.testing.assert_close(weights, expected)
