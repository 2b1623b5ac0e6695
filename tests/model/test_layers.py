import pytest
import torch
from torch import nn
from torch.nn import functional

from llm.model.layers import GELU, LayerNorm, Linear, RMSNorm, SwiGLU


@pytest.fixture
def x():
    return torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(1))


def _fill(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(2)
    for weight in module.parameters():
        weight.data.normal_(generator=generator)
    return module


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_map_is_a_product_and_a_bias(x, bias):
    layer = _fill(Linear(7, 5, bias))
    torch.testing.assert_close(layer(x), x @ layer.weight.T + (layer.bias if bias else 0))


def test_norms_are_torchs_own_in_float32(x):
    rms, layer = _fill(RMSNorm(7, 1e-6)), _fill(LayerNorm(7, 1e-5))
    torch.testing.assert_close(rms(x), functional.rms_norm(x, (7,), rms.weight, 1e-6))
    torch.testing.assert_close(layer(x), functional.layer_norm(x, (7,), layer.weight, layer.bias, 1e-5))
    low = x.bfloat16()
    for norm in (rms, layer):
        assert torch.equal(norm(low), norm(low.float()).bfloat16())
    assert rms((x * 1e4).half()).isfinite().all()


def test_the_feed_forward_is_the_formula(x):
    layer = _fill(SwiGLU(7, 5))
    gate, up, down = layer.gate.weight, layer.up.weight, layer.down.weight
    opened = x @ gate.T * torch.sigmoid(x @ gate.T)
    torch.testing.assert_close(layer(x), (opened * (x @ up.T)) @ down.T)


def test_gpt2s_feed_forward_is_the_formula(x):
    layer = _fill(GELU(7, 5))
    inside = x @ layer.up.weight.T + layer.up.bias
    gelu = 0.5 * inside * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inside + 0.044715 * inside**3)))
    torch.testing.assert_close(layer(x), gelu @ layer.down.weight.T + layer.down.bias)


@pytest.mark.parametrize("layer", [SwiGLU(7, 5), GELU(7, 5)], ids=["swiglu", "gelu"])
def test_positions_do_not_see_each_other(x, layer):
    layer = nn.Sequential(_fill(layer), RMSNorm(7, 1e-6))
    alone = torch.stack([layer(x[:, place]) for place in range(3)], dim=1)
    torch.testing.assert_close(layer(x), alone)
