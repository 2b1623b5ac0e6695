"""What each method trains, that adapters change nothing at first, and that merged they compute the same."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn.functional import linear

from llm.core.errors import UserError
from llm.export.hf.folder import write_folder
from llm.finetune.params import MethodParams
from llm.finetune.shared.adapters import (
    apply_method,
    count_trained,
    dora,
    dora_weight,
    lora,
    lora_weight,
    lr_multipliers,
    merge,
)
from llm.model.classifier import Classifier
from llm.model.gpt import GPT

ALL = ["query", "key", "value", "output", "gate", "up", "down"]
SHAPES = {
    "qwen3": {},
    "qwen2 untied": {"family": "qwen2", "tie_embeddings": False},
    "gpt2": {"family": "gpt2", "n_kv_heads": 2},
    "gru": {"family": "gru"},
}
IDS = torch.tensor([[5, 17, 300, 2, 9], [88, 1, 1, 40, 200]])


def _method(kind, targets=ALL, rank=3, alpha=6.0, k=1):
    return MethodParams(kind=kind, rank=rank, alpha=alpha, targets=targets, k=k)


def _limit(trunk, kind, seed=1, **change):
    apply_method(trunk, _method(kind, **change), torch.Generator().manual_seed(seed))
    return trunk


def _trained(model):
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def _learn_something(model):
    """Move every weight that learns by something drawn."""
    drawn = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.3 * torch.randn(weight.shape, generator=drawn))


def _drawn(*shapes):
    drawn = torch.Generator().manual_seed(3)
    return [torch.randn(*shape, generator=drawn) for shape in shapes]


@pytest.mark.parametrize("tied", [True, False])
def test_whole_methods_train_from_the_top_down(draw_gpt, tied):
    names = {name for name, _ in draw_gpt(tie_embeddings=tied).named_parameters()}
    above = {"norm.weight"} if tied else {"norm.weight", "head.weight"}
    top = {name for name in names if name.startswith("blocks.1.")}
    expected = {"full": names, "head": above, "last_k_blocks": above | top}
    for kind, trained in expected.items():
        assert _trained(_limit(draw_gpt(tie_embeddings=tied), kind)) == trained
    everything_but_tables = _trained(_limit(draw_gpt(tie_embeddings=tied), "last_k_blocks", k=2))
    assert names - everything_but_tables == {"embedding.weight"}


@pytest.mark.parametrize(("kind", "own"), [("lora", {"a", "b"}), ("dora", {"a", "b", "length"})])
def test_adapters_stand_beside_the_targets_and_nothing_else_learns(draw_gpt, kind, own):
    trunk = _limit(draw_gpt(), kind, targets=["query", "down"])
    places = [f"blocks.{block}.{place}" for block in (0, 1) for place in ("attention.query", "feed_forward.down")]
    assert _trained(trunk) == {f"{place}.{weight}" for place in places for weight in own}
    # Query is 24 x 24, down 24 x 40.
    assert count_trained(trunk) == 2 * (3 * (24 + 24) + 3 * (40 + 24) + (2 * 24 if kind == "dora" else 0))


@pytest.mark.parametrize(
    ("shape", "adapted"),
    [
        ("qwen3", {"query", "key", "value", "out", "gate", "up", "down"}),
        ("gpt2", {"query", "key", "value", "out", "up", "down"}),
        ("gru", {"out", "gate", "up", "down"}),
    ],
)
def test_targets_that_a_family_lacks_are_passed_over(draw_gpt, shape, adapted):
    trained = _trained(_limit(draw_gpt(**SHAPES[shape]), "lora"))
    assert {name.split(".")[3] for name in trained} == adapted


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_at_first_an_adapter_changes_nothing(draw_gpt, shape, kind):
    plain, trunk = draw_gpt(**SHAPES[shape]), _limit(draw_gpt(**SHAPES[shape]), kind)
    torch.testing.assert_close(trunk(IDS), plain(IDS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_merged_trunk_is_a_plain_gpt_with_the_same_logits(draw_gpt, shape, kind):
    plain, trunk = draw_gpt(**SHAPES[shape]), _limit(draw_gpt(**SHAPES[shape]), kind)
    _learn_something(trunk)
    with torch.no_grad():
        learned = trunk(IDS)
        merge(trunk)
        assert (learned - plain(IDS)).abs().max() > 0.05
        torch.testing.assert_close(trunk(IDS), learned, atol=1e-5, rtol=1e-5)
    assert [name for name, _ in trunk.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert {type(module) for module in trunk.modules()} == {type(module) for module in plain.modules()}
    assert count_trained(trunk) == trunk.n_parameters()


def test_a_merged_trunk_is_exported_like_any_other(draw_gpt, small_tokenizer_file, tmp_path):
    trunk = _limit(draw_gpt(), "lora", targets=["gate"])
    _learn_something(trunk)
    merge(trunk)
    write_folder(tmp_path / "merged", trunk, small_tokenizer_file)
    write_folder(tmp_path / "plain", draw_gpt(), small_tokenizer_file)
    merged, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "plain"))
    assert merged.keys() == plain.keys()
    assert {name for name in plain if not torch.equal(merged[name], plain[name])} == {
        f"model.layers.{layer}.mlp.gate_proj.weight" for layer in (0, 1)
    }


@pytest.mark.parametrize("kind", ["full", "head", "last_k_blocks"])
def test_where_there_is_no_adapter_merging_leaves_the_weights(draw_gpt, kind):
    trunk = _limit(draw_gpt(), kind)
    merge(trunk)
    assert all(map(torch.equal, trunk.parameters(), draw_gpt().parameters()))
    assert count_trained(trunk) == trunk.n_parameters()


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.booleans())
def test_the_narrow_products_are_those_of_the_whole_matrix(rank, d_in, d_out, has_bias):
    x, weight, a, b, length, bias = _drawn((2, 3, d_in), (d_out, d_in), (rank, d_in), (d_out, rank), (d_out,), (d_out,))
    bias = bias if has_bias else None
    slow = linear(x, lora_weight(weight, a, b, 0.7), bias)
    torch.testing.assert_close(lora(x, weight, bias, a, b, 0.7), slow, atol=1e-4, rtol=1e-4)
    slow = linear(x, dora_weight(weight, a, b, 0.7, length), bias)
    torch.testing.assert_close(dora(x, weight, bias, a, b, 0.7, length), slow, atol=1e-4, rtol=1e-3)


def test_the_rows_of_dora_have_the_lengths_that_are_given():
    weight, a, b, length = _drawn((5, 7), (2, 7), (5, 2), (5,))
    torch.testing.assert_close(dora_weight(weight, a, b, 2.0, length).norm(dim=1), length.abs())


def test_a_row_of_zeros_stays_one_and_its_gradients_are_numbers(draw_gpt):
    trunk = draw_gpt()
    with torch.no_grad():
        trunk.blocks[0].feed_forward.down.weight[3] = 0
    _limit(trunk, "dora")
    trunk(IDS).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in trunk.parameters() if weight.requires_grad)
    merge(trunk)
    assert not trunk.blocks[0].feed_forward.down.weight[3].any()


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_in_bfloat16_an_adapter_keeps_the_precision_of_what_it_stands_in_for(draw_gpt, kind):
    plain, trunk = draw_gpt(), _limit(draw_gpt(), kind)
    x = _drawn((2, 5, 24))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = (model.blocks[0].attention.query(x) for model in (plain, trunk))
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)


def test_a_is_drawn_and_b_is_zero_and_the_targets_order_does_not_matter(draw_gpt):
    first = _limit(draw_gpt(), "lora", targets=["up", "query"])
    second = _limit(draw_gpt(), "lora", targets=["query", "up"])
    other = _limit(draw_gpt(), "lora", targets=["query", "up"], seed=2)
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    maps = [(model.blocks[1].feed_forward.up.a, model.blocks[1].feed_forward.up.b) for model in (first, other)]
    assert not torch.equal(maps[0][0], maps[1][0])
    assert not maps[0][1].any()
    wide = _limit(draw_gpt(d_model=96), "lora", rank=96).blocks[0].attention.query.a
    assert wide.shape == (96, 96)
    assert wide.std().item() == pytest.approx(96**-0.5, rel=0.05)


def test_a_rank_that_no_target_has_room_for_is_refused(draw_gpt):
    with pytest.raises(UserError, match=r"^method\.rank: expected at most 24, the width of the targets, got 100000$"):
        _limit(draw_gpt(), "lora", targets=["query", "up"], rank=100_000)


def test_what_is_added_is_alpha_over_rank_times_the_product(draw_gpt):
    plain, trunk = draw_gpt(), _limit(draw_gpt(), "lora", rank=3, alpha=12.0)
    with torch.no_grad():
        adapter = trunk.blocks[0].attention.value
        adapter.a.fill_(1.0)
        adapter.b.fill_(0.5)
    merge(trunk)
    difference = trunk.blocks[0].attention.value.weight - plain.blocks[0].attention.value.weight
    torch.testing.assert_close(difference, torch.full_like(difference, 12 / 3 * 3 * 0.5))


@pytest.mark.parametrize(("kind", "k", "lowest"), [("head", 1, 3), ("last_k_blocks", 1, 2), ("last_k_blocks", 2, 1)])
def test_below_the_lowest_weight_that_learns_autograd_has_nothing_to_keep(draw_gpt, kind, k, lowest):
    classifier = Classifier(_limit(draw_gpt(n_layers=3), kind, k=k), 4)
    entered = []
    for block in [*classifier.trunk.blocks, classifier.trunk.norm]:
        block.register_forward_pre_hook(lambda _, given: entered.append(given[0].requires_grad))
    classifier(IDS, torch.tensor([5, 3])).sum().backward()
    assert entered == [place > lowest for place in range(4)]


def test_more_blocks_than_there_are_get_refused_and_nothing_is_frozen(draw_gpt):
    trunk = draw_gpt()
    with pytest.raises(UserError, match=r"^method\.k: wanted at most the base's 2 blocks, given 3$"):
        _limit(trunk, "last_k_blocks", k=3)
    assert count_trained(trunk) == trunk.n_parameters()


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_targets_none_of_which_is_there_get_refused(draw_gpt, kind):
    told = r"^method\.targets: wanted one or more of the base's output, gate, up, down, given query, key$"
    with pytest.raises(UserError, match=told):
        _limit(draw_gpt(family="gru"), kind, targets=["query", "key"])
    with pytest.raises(UserError, match=r"the base's query, key, value, output, up, down, given gate$"):
        _limit(draw_gpt(**SHAPES["gpt2"]), kind, targets=["gate"])


def test_a_block_has_the_rate_of_the_one_above_it_times_the_decay(draw_gpt):
    shares = lr_multipliers(Classifier(draw_gpt(n_layers=3, family="gpt2", n_kv_heads=2), 4), 0.5)
    assert shares["score.weight"] == shares["trunk.norm.weight"] == shares["trunk.norm.bias"] == 1
    assert shares["trunk.embedding.weight"] == shares["trunk.positions.weight"] == 0.125
    blocks = {name.split(".")[2]: share for name, share in shares.items() if "blocks" in name}
    assert blocks == {"0": 0.25, "1": 0.5, "2": 1.0}


def test_adapters_and_an_untied_head_have_shares_too_and_without_a_decay_all_have_the_whole_rate(draw_gpt):
    trunk = _limit(draw_gpt(tie_embeddings=False), "lora")
    shares = lr_multipliers(trunk, 0.1)
    assert shares.keys() == {name for name, _ in trunk.named_parameters()}
    assert shares["head.weight"] == shares["blocks.1.attention.query.a"] == 1
    assert shares["blocks.0.feed_forward.down.b"] == 0.1
    assert shares["embedding.weight"] == pytest.approx(0.01)
    assert set(lr_multipliers(trunk, 1.0).values()) == {1.0}
    assert set(lr_multipliers(torch.nn.Linear(2, 3), 0.1).values()) == {1.0}


def test_fresh_weights_can_be_adapted(config):
    trunk = _limit(GPT(config, torch.Generator().manual_seed(1)), "dora")
    trunk(torch.tensor([[3, 1, 4]])).square().mean().backward()
    assert all(weight.grad.isfinite().all() for weight in trunk.parameters() if weight.requires_grad)
