import copy
import math

import pytest
import torch
from torch import nn

from llm.train.checkpoint import Checkpoint
from llm.train.optimizers import Optimizer, orthogonalize
from llm.train.params import OptimizerParams

PARAMS = OptimizerParams(kind="muon", muon_lr=0.02, adamw_lr=0.003, weight_decay=0.0, max_grad_norm=1e9)


def _random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def matrices():
    return _random(3, 7, 23)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_end_near_one(matrices, dtype):
    values = torch.linalg.svdvals(orthogonalize(matrices, dtype))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_small_singular_values_are_raised_as_well():
    u, _, vt = torch.linalg.svd(_random(3, 7, 23), full_matrices=False)
    uneven = u @ torch.diag(torch.logspace(-2.5, 0, 7)) @ vt
    values = torch.linalg.svdvals(orthogonalize(uneven, torch.float32))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_the_direction_is_that_of_the_nearest_orthogonal_matrix(matrices):
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    result = orthogonalize(matrices, torch.float32)
    cosine = nn.functional.cosine_similarity(result.flatten(1), (u @ vt).flatten(1))
    assert (cosine > 0.97).all()
    # The singular vectors stay: in their basis the result is diagonal.
    inside = u.mT @ result @ vt.mT
    assert (inside - torch.diag_embed(inside.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-4


def test_neither_size_nor_neighbours_of_a_matrix_matter_and_its_sign_stays(matrices):
    together = orthogonalize(matrices, torch.float32)
    alone = orthogonalize(-1000 * matrices[1:2], torch.float32)
    torch.testing.assert_close(alone[0], -together[1], atol=1e-4, rtol=1e-4)


def test_a_gradient_of_zero_stays_zero():
    assert not orthogonalize(torch.zeros(3, 7, 23), torch.float32).any()


class _Model(nn.Module):
    """Two matrices in blocks, one tall and one wide, a norm there, and an embedding outside."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Parameter(_random(11, 7, seed=1))
        self.blocks = nn.ModuleList(nn.Module() for _ in range(2))
        self.blocks[0].tall = nn.Parameter(_random(28, 7, seed=2))
        self.blocks[1].wide = nn.Parameter(_random(7, 28, seed=3))
        self.blocks[1].norm = nn.Parameter(_random(7, seed=4))


def _set_gradients(model, seed=10):
    for place, weight in enumerate(model.parameters()):
        weight.grad = _random(*weight.shape, seed=seed + place)


def _changes(model, optimizer, factor=1.0, step=0):
    before = copy.deepcopy(list(model.parameters()))
    optimizer.step(step, factor)
    return {name: (after - old).detach() for (name, after), old in zip(model.named_parameters(), before, strict=True)}


def _optimizer(model, lr_multipliers=None, **change):
    return Optimizer(model, PARAMS.model_copy(update=change), torch.float32, "cpu", lr_multipliers or {})


def test_matrices_inside_the_blocks_move_alike_in_all_directions():
    model = _Model()
    _set_gradients(model)
    changes = _changes(model, _optimizer(model))
    for name, rate in (("blocks.1.wide", 0.02), ("blocks.0.tall", 0.02 * 2)):  # 28 / 7 is 4, its root 2
        values = torch.linalg.svdvals(changes[name]) / rate
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_all_other_weights_first_move_by_the_rate_against_the_gradients_sign():
    model = _Model()
    _set_gradients(model)
    signs = {name: weight.grad.sign() for name, weight in model.named_parameters()}
    changes = _changes(model, _optimizer(model), factor=0.5)
    for name in ("embedding", "blocks.1.norm"):
        torch.testing.assert_close(changes[name], -0.0015 * signs[name], atol=1e-5, rtol=1e-3)


def test_a_tall_matrix_moves_like_a_wide_one_lying_down():
    model = _Model()
    _set_gradients(model)
    model.blocks[0].tall.grad = model.blocks[1].wide.grad.T.clone()
    changes = _changes(model, _optimizer(model))
    torch.testing.assert_close(changes["blocks.0.tall"], 2 * changes["blocks.1.wide"].T, atol=1e-5, rtol=1e-3)


def test_a_matrix_follows_an_average_of_its_gradients_whose_memory_grows_over_300_steps():
    model = _Model()
    optimizer = _optimizer(model)
    average = torch.zeros(7, 28)
    for step, memory in ((0, 0.85), (150, 0.9), (300, 0.95), (900, 0.95)):
        _set_gradients(model, seed=step)
        gradient = model.blocks[1].wide.grad.clone()
        average = memory * average + (1 - memory) * gradient
        ahead = memory * average + (1 - memory) * gradient
        change = _changes(model, optimizer, step=step)["blocks.1.wide"]
        expected = -0.02 * orthogonalize(ahead[None], torch.float32)[0]
        torch.testing.assert_close(change, expected, atol=1e-5, rtol=1e-3)


def test_at_a_rate_of_zero_nothing_moves():
    model = _Model()
    _set_gradients(model)
    changes = _changes(model, _optimizer(model, weight_decay=0.5), factor=0.0)
    assert not any(change.any() for change in changes.values())


def test_weight_decay_shrinks_the_matrices_of_the_blocks_alone():
    model = _Model()
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    before = model.blocks[1].wide.detach().clone()
    changes = _changes(model, _optimizer(model, weight_decay=0.5))
    torch.testing.assert_close(changes["blocks.1.wide"], -0.02 * 0.5 * before)
    assert not changes["embedding"].any()
    assert not changes["blocks.1.norm"].any()


def test_adamw_moves_all_weights_alike_and_shrinks_the_matrices_of_the_blocks():
    model, reference = _Model(), _Model()
    optimizer = _optimizer(model, kind="adamw", muon_lr=1e9, weight_decay=0.5)
    embedding, tall, wide, norm = reference.parameters()
    groups = [{"params": [tall, wide], "weight_decay": 0.5}, {"params": [embedding, norm], "weight_decay": 0.0}]
    expected = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    for step, factor in enumerate((0.5, 1.0, 0.1)):
        for each in (model, reference):
            _set_gradients(each, seed=100 * step)
        optimizer.step(step, factor)
        for group in expected.param_groups:
            group["lr"] = 0.003 * factor
        expected.step()
    for weight, wanted in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(weight, wanted)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_changes_no_weight(kind, bad):
    model = _Model()
    optimizer = _optimizer(model, kind=kind, weight_decay=0.5)
    _set_gradients(model)
    model.blocks[1].wide.grad[3, 5] = bad
    before = copy.deepcopy(list(model.parameters()))
    assert not math.isfinite(optimizer.step(0, 1.0))
    assert all(map(torch.equal, model.parameters(), before))


def test_a_step_tells_the_gradients_norm_before_it_is_clipped_and_forgets_the_gradients():
    model = _Model()
    _set_gradients(model)
    norm = torch.cat([weight.grad.flatten() for weight in model.parameters()]).norm().item()
    assert _optimizer(model, max_grad_norm=0.1).step(0, 1.0) == pytest.approx(norm, rel=1e-5)
    assert all(weight.grad is None for weight in model.parameters())


def test_one_huge_gradient_counts_no_more_than_the_clip_allows():
    def weight_after(size, max_grad_norm):
        model = _Model()
        optimizer = _optimizer(model, max_grad_norm=max_grad_norm)
        _set_gradients(model, seed=10)
        for weight in model.parameters():
            weight.grad *= size
        optimizer.step(0, 1.0)
        _set_gradients(model, seed=20)
        optimizer.step(1, 1.0)
        return model.embedding.detach()

    torch.testing.assert_close(weight_after(1e3, 1.0), weight_after(1e6, 1.0), atol=1e-6, rtol=1e-5)
    assert (weight_after(1e3, 1.0) - weight_after(1e3, 1e9)).abs().max() > 1e-4


def test_frozen_weights_stay():
    model = _Model()
    model.embedding.requires_grad_(False)
    model.blocks[0].tall.requires_grad_(False)
    optimizer = _optimizer(model)
    (model.blocks[1].wide.square().sum() + model.blocks[1].norm.sum()).backward()
    moved = {name for name, change in _changes(model, optimizer).items() if change.any()}
    assert moved == {"blocks.1.wide", "blocks.1.norm"}


def test_a_matrix_without_a_gradient_stays_until_it_has_one():
    model = _Model()
    optimizer = _optimizer(model)
    model.blocks[0].tall.square().sum().backward()
    assert not _changes(model, optimizer)["blocks.1.wide"].any()
    _set_gradients(model)
    assert _changes(model, optimizer, step=1)["blocks.1.wide"].any()


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_weight_moves_and_shrinks_by_its_share_of_the_rate(kind):
    shares = {"embedding": 0.5, "blocks.0.tall": 0.25, "blocks.1.norm": 0.0}
    models = _Model(), _Model()
    optimizers = [
        _optimizer(model, given, kind=kind, weight_decay=0.5) for model, given in zip(models, ({}, shares), strict=True)
    ]
    for step in range(2):
        changes = []
        for model, optimizer in zip(models, optimizers, strict=True):
            with torch.no_grad():
                for weight, first in zip(model.parameters(), _Model().parameters(), strict=True):
                    weight.copy_(first)  # so that decay takes from the same
            _set_gradients(model, seed=100 * step)
            changes.append(_changes(model, optimizer, factor=0.5, step=step))
        for name, change in changes[0].items():
            torch.testing.assert_close(changes[1][name], shares.get(name, 1.0) * change, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("only", ["matrices", "others"])
def test_a_model_of_one_kind_of_weights_learns_too(kind, only):
    model = _Model()
    for weight in model.parameters():
        weight.requires_grad_((weight.ndim == 2 and weight is not model.embedding) == (only == "matrices"))
    optimizer = _optimizer(model, kind=kind)
    _set_gradients(model)
    optimizer.load_state_dict(optimizer.state_dict())
    assert sum(change.any().item() for change in _changes(model, optimizer).values()) == 2


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_an_optimizer_that_took_its_state_back_goes_on_to_the_same_bytes(tmp_path, kind):
    def run(model, optimizer, steps):
        for step in steps:
            _set_gradients(model, seed=100 * step)
            optimizer.step(step, 1.0)

    shares = {"embedding": 0.5, "blocks.0.tall": 0.25}
    model = _Model()
    optimizer = _optimizer(model, shares, kind=kind)
    run(model, optimizer, range(3))
    Checkpoint(tmp_path).save({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    run(model, optimizer, range(3, 6))

    again = _Model()
    fresh = _optimizer(again, shares, kind=kind)
    kept = Checkpoint(tmp_path).load()
    again.load_state_dict(kept["model"])
    fresh.load_state_dict(kept["optimizer"])
    run(again, fresh, range(3, 6))
    assert all(map(torch.equal, again.parameters(), model.parameters()))
