"""Muon against the textbook, AdamW against torch's, and the state of both."""

import copy
import math

import pytest
import torch
from torch import nn

from llm.train.checkpoint import Checkpoint
from llm.train.muon import orthogonalize
from llm.train.optimizers import Optimizer
from llm.train.params import OptimizerParams

PARAMS = OptimizerParams(kind="muon", muon_lr=0.02, adamw_lr=0.003, weight_decay=0.0, max_grad_norm=1e9)
KINDS = pytest.mark.parametrize("kind", ["muon", "adamw"])


def _random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _assert_near_one(singular_values):
    assert singular_values.min() > 0.6
    assert singular_values.max() < 1.3


class _Model(nn.Module):
    """A tall and a wide matrix and a norm in blocks, and an embedding outside."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Parameter(_random(11, 7, seed=1))
        self.blocks = nn.ModuleList(nn.Module() for _ in range(2))
        self.blocks[0].tall = nn.Parameter(_random(28, 7, seed=2))
        self.blocks[1].wide = nn.Parameter(_random(7, 28, seed=3))
        self.blocks[1].norm = nn.Parameter(_random(7, seed=4))


def _set_gradients(model, seed=10):
    for number, weight in enumerate(model.parameters()):
        weight.grad = _random(*weight.shape, seed=seed + number)


def _changes(model, optimizer, lr_factor=1.0, step=0):
    before = copy.deepcopy(list(model.parameters()))
    optimizer.step(step, lr_factor)
    return {name: (after - old).detach() for (name, after), old in zip(model.named_parameters(), before, strict=True)}


def _optimizer(model, lr_multipliers=None, **change):
    return Optimizer(model, PARAMS.model_copy(update=change), torch.float32, "cpu", lr_multipliers or {})


def test_the_first_step_is_orthogonal_in_the_blocks_and_a_sign_outside():
    model = _Model()
    _set_gradients(model)
    model.blocks[0].tall.grad = model.blocks[1].wide.grad.T.clone()
    signs = {name: weight.grad.sign() for name, weight in model.named_parameters()}
    changes = _changes(model, _optimizer(model), lr_factor=0.5)
    _assert_near_one(torch.linalg.svdvals(changes["blocks.1.wide"]) / 0.01)
    # 28 / 7 is 4, its root 2.
    torch.testing.assert_close(changes["blocks.0.tall"], 2 * changes["blocks.1.wide"].T, atol=1e-5, rtol=1e-3)
    for name in ("embedding", "blocks.1.norm"):
        torch.testing.assert_close(changes[name], -0.0015 * signs[name], atol=1e-5, rtol=1e-3)


def test_momentum_is_nesterov_and_grows_over_300_steps():
    model = _Model()
    optimizer = _optimizer(model)
    average = torch.zeros(7, 28)
    for step, momentum in ((0, 0.85), (150, 0.9), (300, 0.95), (900, 0.95)):
        _set_gradients(model, seed=step)
        gradient = model.blocks[1].wide.grad.clone()
        average = momentum * average + (1 - momentum) * gradient
        ahead = momentum * average + (1 - momentum) * gradient
        change = _changes(model, optimizer, step=step)["blocks.1.wide"]
        expected = -0.02 * orthogonalize(ahead[None] / ahead.norm())[0]
        torch.testing.assert_close(change, expected, atol=1e-5, rtol=1e-3)


def test_weight_decay_shrinks_the_matrices_of_the_blocks_alone():
    model = _Model()
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    before = model.blocks[1].wide.detach().clone()
    changes = _changes(model, _optimizer(model, weight_decay=0.5))
    torch.testing.assert_close(changes["blocks.1.wide"], -0.02 * 0.5 * before)
    assert not changes["embedding"].any()
    assert not changes["blocks.1.norm"].any()


def test_adamw_is_torch_s_with_decay_in_the_blocks():
    model, reference = _Model(), _Model()
    optimizer = _optimizer(model, kind="adamw", muon_lr=1e9, weight_decay=0.5)
    embedding, tall, wide, norm = reference.parameters()
    groups = [{"params": [tall, wide], "weight_decay": 0.5}, {"params": [embedding, norm], "weight_decay": 0.0}]
    expected = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    for step, factor in enumerate((0.5, 1.0, 0.1)):
        for each in (model, reference):
            _set_gradients(each, seed=100 * step)
        optimizer.step(step, factor)
        for group in expected.param_groups:
            group["lr"] = 0.003 * factor
        expected.step()
    torch.testing.assert_close(list(model.parameters()), list(reference.parameters()))


@KINDS
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_a_bad_gradient_or_a_learning_rate_of_zero_changes_nothing(kind, bad):
    model = _Model()
    optimizer = _optimizer(model, kind=kind, weight_decay=0.5)
    _set_gradients(model)
    if bad is not None:
        model.blocks[1].wide.grad[3, 5] = bad
    before = copy.deepcopy(list(model.parameters()))
    assert math.isfinite(optimizer.step(0, 0.0 if bad is None else 1.0)) == (bad is None)
    assert all(map(torch.equal, model.parameters(), before))


def test_a_step_returns_the_norm_and_frees_the_gradients():
    model = _Model()
    _set_gradients(model)
    norm = torch.cat([weight.grad.flatten() for weight in model.parameters()]).norm().item()
    assert _optimizer(model, max_grad_norm=0.1).step(0, 1.0) == pytest.approx(norm, rel=1e-5)
    assert all(weight.grad is None for weight in model.parameters())


def test_a_huge_gradient_counts_no_more_than_the_clip_allows():
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


def test_frozen_weights_and_those_without_a_gradient_stay():
    model = _Model()
    model.embedding.requires_grad_(False)
    optimizer = _optimizer(model)
    (model.blocks[1].wide.square().sum() + model.blocks[1].norm.sum()).backward()
    moved = {name for name, change in _changes(model, optimizer).items() if change.any()}
    assert moved == {"blocks.1.wide", "blocks.1.norm"}
    _set_gradients(model)
    assert _changes(model, optimizer, step=1)["blocks.0.tall"].any()


@KINDS
def test_a_multiplier_scales_step_and_decay(kind):
    multipliers = {"embedding": 0.5, "blocks.0.tall": 0.25, "blocks.1.norm": 0.0}
    models = _Model(), _Model()
    optimizers = [
        _optimizer(model, given, kind=kind, weight_decay=0.5)
        for model, given in zip(models, ({}, multipliers), strict=True)
    ]
    for step in range(2):
        changes = []
        for model, optimizer in zip(models, optimizers, strict=True):
            model.load_state_dict(_Model().state_dict())  # so that decay applies to the same weights
            _set_gradients(model, seed=100 * step)
            changes.append(_changes(model, optimizer, lr_factor=0.5, step=step))
        for name, change in changes[0].items():
            torch.testing.assert_close(changes[1][name], multipliers.get(name, 1.0) * change, atol=1e-6, rtol=1e-4)


@KINDS
def test_a_restored_optimizer_continues_to_the_same_bytes(tmp_path, kind):
    def run(model, optimizer, steps):
        for step in steps:
            _set_gradients(model, seed=100 * step)
            optimizer.step(step, 1.0)

    model, again = _Model(), _Model()
    multipliers = {"embedding": 0.5, "blocks.0.tall": 0.25}
    optimizer, restored = (_optimizer(each, multipliers, kind=kind) for each in (model, again))
    run(model, optimizer, range(3))
    Checkpoint(tmp_path).save({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    run(model, optimizer, range(3, 6))
    state = Checkpoint(tmp_path).load()
    again.load_state_dict(state["model"])
    restored.load_state_dict(state["optimizer"])
    run(again, restored, range(3, 6))
    assert all(map(torch.equal, again.parameters(), model.parameters()))
