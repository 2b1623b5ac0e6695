"""Each rung of the ladder is tied to the one below it, and the future is hidden where it has to be."""

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from llm.model.attention import (
    Attention,
    causal_attention,
    grouped_query_attention,
    merge_heads,
    multi_head_attention,
    self_attention,
    simplified_attention,
    split_heads,
)
from llm.model.kv_cache import LayerCache
from llm.model.positions import rope_table

# B sequences, T positions, K key/value heads, G query heads to each, C head width.
B, T, K, G, C = 2, 11, 3, 5, 7
CAUSAL = [causal_attention, multi_head_attention, grouped_query_attention]


def _randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def x():
    return _randn(B, T, C)


@pytest.fixture
def heads():
    """As many key heads as query heads: what every causal rung takes."""
    return [_randn(B, K, T, C, seed=seed) for seed in (1, 2, 3)]


@pytest.fixture
def grouped():
    return [_randn(B, n, T, C, seed=seed) for seed, n in enumerate((K * G, K, K))]


def test_simplified_attention_is_an_average_by_likeness(x):
    expected = torch.empty_like(x)
    for b in range(B):
        for t in range(T):
            likeness = [math.exp(float(x[b, t] @ x[b, s]) / math.sqrt(C)) for s in range(T)]
            expected[b, t] = sum(share / sum(likeness) * x[b, s] for s, share in enumerate(likeness))
    torch.testing.assert_close(simplified_attention(x), expected)


def test_trainable_attention_is_torchs_own_without_a_mask(heads):
    torch.testing.assert_close(self_attention(*heads), scaled_dot_product_attention(*heads))


def test_many_heads_are_causal_attention_on_slices():
    q, k, v = (_randn(B, T, K * C, seed=seed) for seed in (1, 2, 3))
    slices = [slice(head * C, (head + 1) * C) for head in range(K)]
    alone = torch.cat([causal_attention(q[..., s], k[..., s], v[..., s]) for s in slices], dim=-1)
    together = merge_heads(multi_head_attention(*(split_heads(part, K) for part in (q, k, v))))
    torch.testing.assert_close(together, alone)


def test_groups_are_many_heads_whose_keys_are_repeated(grouped):
    q, k, v = grouped
    repeated = (part.repeat_interleave(G, dim=1) for part in (k, v))
    torch.testing.assert_close(grouped_query_attention(q, k, v), multi_head_attention(q, *repeated))


@pytest.mark.parametrize("rung", CAUSAL)
def test_every_causal_rung_is_torchs_own(rung, heads):
    torch.testing.assert_close(rung(*heads), scaled_dot_product_attention(*heads, is_causal=True))


@pytest.mark.parametrize("rung", [self_attention, *CAUSAL])
def test_bfloat16_stays_bfloat16_and_close(rung, heads):
    low = rung(*(part.bfloat16() for part in heads))
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), rung(*heads), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("rung", CAUSAL)
def test_dropout_falls_on_attention_weights(rung):
    # With the unit vectors as values, what is gathered are the attention weights themselves.
    q, k = (_randn(B, K, T, T, seed=seed) for seed in (1, 2))
    v = torch.eye(T).expand(B, K, T, T)
    bits = (torch.rand(1000, generator=torch.Generator().manual_seed(4)) < 0.5).float()
    whole, dropped = rung(q, k, v), rung(q, k, v, 0.5, bits)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])
    assert 0.3 < kept.sum() / (whole != 0).sum() < 0.7
    assert torch.equal(rung(q, k, v, 0.5, None), whole)


@pytest.fixture
def make_layer(config):
    """A maker of a layer with drawn weights, at any rung."""

    def make(**change):
        layer = Attention(config.model_copy(update=change))
        generator = torch.Generator().manual_seed(6)
        for weight in layer.parameters():
            weight.data.normal_(0.5 if weight.ndim == 1 else 0, 0.2, generator=generator)
        return layer

    return make


def _table(layer):
    return rope_table(T, layer.head_dim, 1000.0)


@torch.no_grad()
@pytest.mark.parametrize("room", [0, T, 20])
@pytest.mark.parametrize("attention", ["causal", "multi_head", "grouped"])
def test_a_layer_read_in_pieces_is_the_layer_read_at_once(make_layer, config, attention, room):
    layer = make_layer(attention=attention)
    x = _randn(B, T, config.d_model)
    cos, sin = _table(layer)
    whole = layer(x, (cos, sin))
    assert whole.shape == x.shape
    cache = LayerCache(room)
    pieces = [layer(x[:, a:b], (cos[a:b], sin[a:b]), cache, a) for a, b in ((0, 5), (5, 6), (6, 7), (7, T))]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
    n_heads = {"causal": 1, "multi_head": 6, "grouped": 3}[attention]
    assert {tensor.shape for tensor in cache.tensors} == {(B, n_heads, room or T, layer.head_dim)}


@torch.no_grad()
@pytest.mark.parametrize("attention", ["trainable", "causal", "multi_head", "grouped"])
def test_a_layer_is_its_rung_between_its_maps(make_layer, config, attention):
    layer = make_layer(family="llama", attention=attention)
    x = _randn(B, T, config.d_model)
    q, k, v = (x @ part.weight.T for part in (layer.query, layer.key, layer.value))
    n_heads, n_kv_heads = {"multi_head": (6, 6), "grouped": (6, 3)}.get(attention, (1, 1))
    parts = [split_heads(q, n_heads)]
    parts += [split_heads(part, n_kv_heads).repeat_interleave(n_heads // n_kv_heads, dim=1) for part in (k, v)]
    gathered = scaled_dot_product_attention(*parts, is_causal=attention != "trainable")
    torch.testing.assert_close(layer(x), merge_heads(gathered) @ layer.out.weight.T)
