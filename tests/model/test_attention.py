import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from llm.model.attention import Attention, attend, rope_table, rotate

# B sequences, T positions, K key/value heads, G query heads to each, C head width.
B, T, K, G, C = 2, 11, 3, 5, 7


@pytest.fixture
def qkv():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(B, heads, T, C, generator=generator) for heads in (K * G, K, K)]


def _rotated(x, position, theta=1000.0):
    cos, sin = rope_table(position + 1, x.shape[-1], theta)
    return rotate(x, cos[position], sin[position])


def test_attention_is_torchs_own_causal_attention_with_key_heads_repeated(qkv):
    q, k, v = qkv
    expected = scaled_dot_product_attention(
        q, k.repeat_interleave(G, dim=1), v.repeat_interleave(G, dim=1), is_causal=True
    )
    torch.testing.assert_close(attend(q, k, v), expected)


def test_queries_at_the_end_of_longer_keys_gather_as_if_all_queries_were_there(qkv):
    q, k, v = qkv
    for n in (1, 4, T):
        torch.testing.assert_close(attend(q[:, :, -n:], k, v), attend(q, k, v)[:, :, -n:])


def test_what_is_gathered_does_not_change_with_the_future(qkv):
    q, k, v = qkv
    before = attend(q, k, v)
    for changed in (q, k, v):
        changed[:, :, 6:] += 3
    after = attend(q, k, v)
    assert torch.equal(after[:, :, :6], before[:, :, :6])
    assert (after[:, :, 6:] != before[:, :, 6:]).any(dim=-1).all()


def test_the_shares_of_a_position_sum_to_one(qkv):
    q, k, v = qkv
    torch.testing.assert_close(attend(q, k, torch.ones_like(v)), torch.ones_like(q))


def test_bfloat16_stays_bfloat16_and_close(qkv):
    low = attend(*(x.bfloat16() for x in qkv))
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), attend(*qkv), atol=0.05, rtol=0.05)


def test_the_first_position_is_not_turned():
    x = torch.randn(3, 1, 10, generator=torch.Generator().manual_seed(2))
    assert torch.equal(_rotated(x, 0), x)


def test_pairs_of_halves_turn_like_complex_numbers():
    x = torch.randn(5, 1, 10, generator=torch.Generator().manual_seed(3))
    position, theta = 13, 1000.0
    angle = position * theta ** (-2 * torch.arange(5) / 10)
    expected = torch.complex(x[..., :5], x[..., 5:]) * torch.polar(torch.ones(5), angle)
    torch.testing.assert_close(_rotated(x, position), torch.cat([expected.real, expected.imag], dim=-1))


def test_turning_keeps_the_length_of_every_pair():
    x = torch.randn(B, K, T, 10, generator=torch.Generator().manual_seed(4))
    turned = rotate(x, *rope_table(T, 10, 1000.0))
    lengths = [torch.hypot(*half.chunk(2, dim=-1)) for half in (turned, x)]
    torch.testing.assert_close(*lengths)


@pytest.mark.parametrize("distance", [0, 1, 7])
def test_a_score_depends_on_the_distance_alone(distance):
    q, k = torch.randn(2, 1, 10, generator=torch.Generator().manual_seed(5))
    scores = [(_rotated(q, start + distance) * _rotated(k, start)).sum() for start in (0, 3, 101)]
    torch.testing.assert_close(torch.stack(scores), scores[0].expand(3), atol=1e-4, rtol=1e-4)
    farther = (_rotated(q, distance + 1) * _rotated(k, 0)).sum()
    assert abs(farther - scores[0]) > 0.01


@pytest.fixture
def layer(config):
    layer = Attention(config)
    generator = torch.Generator().manual_seed(6)
    for weight in layer.parameters():
        weight.data.normal_(0.5 if weight.ndim == 1 else 0, 0.2, generator=generator)
    return layer


@torch.no_grad()
def test_a_layer_read_in_pieces_is_the_layer_read_at_once(layer, config):
    x = torch.randn(B, T, config.d_model, generator=torch.Generator().manual_seed(7))
    cos, sin = rope_table(T, config.head_dim, config.rope_theta)
    whole, (keys, values) = layer(x, cos, sin)
    assert whole.shape == x.shape
    past, pieces = None, []
    for a, b in ((0, 5), (5, 6), (6, T)):
        piece, past = layer(x[:, a:b], cos[a:b], sin[a:b], past)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
    torch.testing.assert_close(past, (keys, values))
    assert keys.shape == values.shape == (B, config.n_kv_heads, T, config.head_dim)


@torch.no_grad()
def test_a_layer_without_positions_cannot_tell_the_order_of_the_past_and_with_them_it_can(layer, config):
    x = torch.randn(1, T, config.d_model, generator=torch.Generator().manual_seed(8))
    swapped = x[:, [1, 0, *range(2, T)]]
    cos, sin = rope_table(T, config.head_dim, config.rope_theta)
    still = torch.ones_like(cos), torch.zeros_like(sin)
    torch.testing.assert_close(layer(swapped, *still)[0][:, 2:], layer(x, *still)[0][:, 2:])
    assert (layer(swapped, cos, sin)[0][:, 2:] - layer(x, cos, sin)[0][:, 2:]).abs().max() > 1e-3


@torch.no_grad()
def test_queries_and_keys_are_normalised_so_that_their_size_does_not_matter(layer, config):
    x = torch.randn(1, T, config.d_model, generator=torch.Generator().manual_seed(9))
    table = rope_table(T, config.head_dim, config.rope_theta)
    before = layer(x, *table)[0]
    layer.query.weight *= 10
    layer.key.weight *= 0.5
    torch.testing.assert_close(layer(x, *table)[0], before, atol=1e-3, rtol=1e-3)
