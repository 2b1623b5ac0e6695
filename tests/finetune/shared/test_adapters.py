"""What each method trains; adapters change nothing at first and are merged exactly."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import linear

from llm.core.errors import UserError
from llm.finetune.params import MethodParams
from llm.finetune.shared.adapters import (
    adapted_weight,
    apply_adapted,
    apply_method,
    count_trained,
    lr_multipliers,
    merge,
)
from llm.model.classifier import Classifier

ALL = ["query", "key", "value", "output", "gate", "up", "down"]
SHAPES = {
    "qwen3": {},
    "qwen2 untied": {"family": "qwen2", "tie_embeddings": False},
    "gpt2": {"family": "gpt2", "n_kv_heads": 2},
    "gru": {"family": "gru"},
}
IDS = torch.tensor([[5, 17, 300, 2, 9], [88, 1, 1, 40, 200]])


def adapt(trunk, kind, seed=1, targets=ALL, rank=3, k=1):
    method = MethodParams(kind=kind, rank=rank, alpha=6.0, targets=targets, k=k)
    apply_method(trunk, method, torch.Generator().manual_seed(seed))
    return trunk


def trained(model):
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def drawn(*shapes):
    rng = torch.Generator().manual_seed(3)
    return [torch.randn(*shape, generator=rng) for shape in shapes]


@pytest.mark.parametrize("tied", [True, False])
def test_methods_without_adapters_train_the_top(draw_gpt, tied):
    names = {name for name, _ in draw_gpt(tie_embeddings=tied).named_parameters()}
    above = {"norm.weight"} if tied else {"norm.weight", "head.weight"}
    top = {name for name in names if name.startswith("blocks.1.")}
    for kind, expected in {"full": names, "head": above, "last_k_blocks": above | top}.items():
        trunk = adapt(draw_gpt(tie_embeddings=tied), kind)
        assert trained(trunk) == expected
        merge(trunk)
        assert all(map(torch.equal, trunk.parameters(), draw_gpt(tie_embeddings=tied).parameters()))
        assert count_trained(trunk) == trunk.n_parameters()
    assert names - trained(adapt(draw_gpt(tie_embeddings=tied), "last_k_blocks", k=2)) == {"embedding.weight"}


@pytest.mark.parametrize(("kind", "own"), [("lora", {"a", "b"}), ("dora", {"a", "b", "magnitude"})])
def test_adapters_are_the_only_trained_weights(draw_gpt, kind, own):
    trunk = adapt(draw_gpt(), kind, targets=["query", "down"])
    maps = [f"blocks.{block}.{name}" for block in (0, 1) for name in ("attention.query", "feed_forward.down")]
    assert trained(trunk) == {f"{name}.{weight}" for name in maps for weight in own}
    # Query is 24 x 24, down 24 x 40.
    assert count_trained(trunk) == 2 * (3 * (24 + 24) + 3 * (40 + 24) + (2 * 24 if kind == "dora" else 0))


@pytest.mark.parametrize(
    ("shape", "lacking"), [("qwen3", set()), ("gpt2", {"gate"}), ("gru", {"query", "key", "value"})]
)
def test_targets_that_a_family_lacks_are_ignored(draw_gpt, shape, lacking):
    adapted = {name.split(".")[3] for name in trained(adapt(draw_gpt(**SHAPES[shape]), "lora"))}
    assert adapted == {*ALL, "out"} - {"output"} - lacking


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_fresh_adapter_changes_nothing_and_merging_is_exact(draw_gpt, shape, kind):
    plain, trunk = draw_gpt(**SHAPES[shape]), adapt(draw_gpt(**SHAPES[shape]), kind)
    torch.testing.assert_close(trunk(IDS), plain(IDS), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for weight in filter(lambda weight: weight.requires_grad, trunk.parameters()):
            weight.add_(0.3 * drawn(weight.shape)[0])
        adapted = trunk(IDS)
        merge(trunk)
        assert (adapted - plain(IDS)).abs().max() > 0.05
        torch.testing.assert_close(trunk(IDS), adapted, atol=1e-5, rtol=1e-5)
    assert [name for name, _ in trunk.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert {type(module) for module in trunk.modules()} == {type(module) for module in plain.modules()}


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.booleans())
def test_narrow_products_equal_the_whole_matrix(rank, d_in, d_out, has_bias):
    shapes = (2, 3, d_in), (d_out, d_in), (rank, d_in), (d_out, rank), (d_out,), (d_out,)
    x, weight, a, b, norms, bias = drawn(*shapes)
    bias = bias if has_bias else None
    for magnitude in (None, norms):
        slow = linear(x, adapted_weight(weight, a, b, 0.7, magnitude), bias)
        fast = apply_adapted(x, weight, bias, a, b, 0.7, magnitude)
        torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(adapted_weight(weight, a, b, 2.0, norms).norm(dim=1), norms.abs())


def test_a_row_of_zeros_stays_zero_in_dora(draw_gpt):
    trunk = draw_gpt()
    with torch.no_grad():
        trunk.blocks[0].feed_forward.down.weight[3] = 0
    adapt(trunk, "dora")
    trunk(IDS).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in trunk.parameters() if weight.requires_grad)
    merge(trunk)
    assert not trunk.blocks[0].feed_forward.down.weight[3].any()


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_in_bfloat16_an_adapter_is_as_precise_as_its_map(draw_gpt, kind):
    plain, trunk = draw_gpt(), adapt(draw_gpt(), kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = (model.blocks[0].attention.query(drawn((2, 5, 24))[0]) for model in (plain, trunk))
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)


def test_a_is_drawn_by_the_seed_and_b_is_zero(draw_gpt):
    first, second = (adapt(draw_gpt(), "lora", targets=targets) for targets in (["up", "query"], ["query", "up"]))
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    other = adapt(draw_gpt(), "lora", targets=["query", "up"], seed=2)
    assert not torch.equal(first.blocks[1].feed_forward.up.a, other.blocks[1].feed_forward.up.a)
    assert not first.blocks[1].feed_forward.up.b.any()
    wide = adapt(draw_gpt(d_model=96), "lora", rank=96).blocks[0].attention.query.a
    assert wide.std().item() == pytest.approx(96**-0.5, rel=0.05)


@pytest.mark.parametrize(("kind", "k", "lowest"), [("head", 1, 3), ("last_k_blocks", 1, 2), ("last_k_blocks", 2, 1)])
def test_the_backward_pass_ends_at_the_lowest_trained_weight(draw_gpt, kind, k, lowest):
    classifier = Classifier(adapt(draw_gpt(n_layers=3), kind, k=k), 4)
    entered = []
    for block in [*classifier.trunk.blocks, classifier.trunk.norm]:
        block.register_forward_pre_hook(lambda _, given: entered.append(given[0].requires_grad))
    classifier(IDS, torch.tensor([5, 3])).sum().backward()
    assert entered == [place > lowest for place in range(4)]


@pytest.mark.parametrize(
    ("kind", "changes", "shape", "line"),
    [
        ("lora", {"targets": ["query"], "rank": 99}, "qwen3", "rank: expected at most 24, the width of the targets"),
        ("last_k_blocks", {"k": 3}, "qwen3", "k: expected at most the base's 2 blocks, got 3"),
        ("lora", {"targets": ["key"]}, "gru", "targets: expected some of the base's output, gate, up, down, got key"),
        ("dora", {"targets": ["gate"]}, "gpt2", "targets: expected some of the base's query, key, value, output, up,"),
    ],
)
def test_an_impossible_method_is_refused(draw_gpt, kind, changes, shape, line):
    with pytest.raises(UserError, match=f"^method.{line}"):
        adapt(draw_gpt(**SHAPES[shape]), kind, **changes)


def test_learning_rates_decay_from_the_top(draw_gpt):
    found = lr_multipliers(Classifier(draw_gpt(n_layers=3, family="gpt2", n_kv_heads=2), 4), 0.5)
    assert found["score.weight"] == found["trunk.norm.weight"] == found["trunk.norm.bias"] == 1
    assert found["trunk.embedding.weight"] == found["trunk.positions.weight"] == 0.125
    assert {name.split(".")[2]: of for name, of in found.items() if "blocks" in name} == {"0": 0.25, "1": 0.5, "2": 1.0}
    found = lr_multipliers(adapt(draw_gpt(tie_embeddings=False), "lora"), 0.1)
    assert found["head.weight"] == found["blocks.1.attention.query.a"] == 1
    assert found["blocks.0.feed_forward.down.b"] == 0.1
    assert found["embedding.weight"] == pytest.approx(0.01)
