"""The fused attention computes what the steps of the ladder compute, with the same gradients."""

import pytest
import torch

from llm.model import fused_attention, kernels
from llm.model.positions import segment_positions

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="no C compiler with OpenMP")

SHAPES = {
    "qwen3": {"n_heads": 4, "n_kv_heads": 2},
    "as many keys": {"n_heads": 3, "n_kv_heads": 3},
    "one key head": {"n_heads": 3, "n_kv_heads": 1},
    "one head": {"attention": "causal"},
    "llama": {"family": "llama"},
    "gpt2": {"family": "gpt2", "positions": "learned"},
    "wide heads": {"head_width": 20},
}
SEGMENTS = torch.tensor([[0] * 9 + [1] * 4 + [2] * 6, [7] * 19])


def _run(model, monkeypatch, fused, dtype, segments):
    """Output and gradients of the first layer's attention."""
    with monkeypatch.context() as patch:
        if not fused:
            patch.setattr(kernels, "library", lambda: None)
        attention = model.blocks[0].attention
        model.zero_grad()
        x = torch.randn(2, 19, model.config.d_model, generator=torch.Generator().manual_seed(1)).to(dtype)
        x.requires_grad_()
        rotation, mask = None, None
        if model.config.position_scheme == "rope":
            where = slice(19) if segments is None else segment_positions(segments)[:, None]
            rotation = model.cos[where], model.sin[where]
        if segments is not None:
            mask = (segments[:, :, None] != segments[:, None])[:, None]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = attention(x, rotation, segment_mask=mask)
        y.float().square().sum().backward()
        return [y, x.grad, *(weight.grad for weight in attention.parameters() if weight.grad is not None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("at_once", [256, 7], ids=["whole", "blocks"])
@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["one text", "texts"])
@pytest.mark.parametrize("name", SHAPES)
def test_it_is_the_attention_of_the_ladder(draw_gpt, monkeypatch, name, segments, at_once, dtype):
    monkeypatch.setattr(fused_attention, "POSITIONS_AT_ONCE", at_once)
    model = draw_gpt(**({"d_model": 48} | SHAPES[name]))
    fused = _run(model, monkeypatch, True, dtype, segments)
    steps = _run(model, monkeypatch, False, dtype, segments)
    exact = _run(model, monkeypatch, False, torch.float32, segments)
    largest = max(truth.detach().abs().max() for truth in exact)
    for got, other, truth in zip(fused, steps, exact, strict=True):
        size = torch.maximum(truth.detach().abs().max(), 0.1 * largest)  # the gradient of a key's bias is zero
        rounding = (other.float() - truth).abs().max() / size
        error = (got.float() - truth).abs().max() / size
        assert error <= (1e-5 if dtype == torch.float32 else max(0.02, 1.5 * rounding))


def test_a_cache_and_dropout_take_the_steps(draw_gpt, monkeypatch):
    monkeypatch.setattr(fused_attention.FusedAttention, "forward", None)
    model = draw_gpt(dropout=0.5)
    x = torch.randn(2, 5, model.config.d_model)
    model.run_blocks(x, dropout_keys=model.dropout_keys(1, 2))
    with pytest.raises(TypeError):
        model.run_blocks(x)
