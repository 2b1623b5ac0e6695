"""The decoder's steps are the model's forward pass, for every family, rung and position scheme."""

import pytest
import torch

from llm.model import kernels
from llm.model.decoder import Decoder, fits_kernel

IN_KERNEL = {
    "qwen3": {},
    "no shared keys": {"attention": "multi_head", "n_layers": 3},
    "groups of three": {"d_model": 36, "n_heads": 6, "n_kv_heads": 2, "norm_eps": 0.1},
    "one head": {"attention": "causal"},
    "qwen2": {"family": "qwen2"},
    "wide heads": {"head_width": 20},
    "llama": {"family": "llama", "tie_embeddings": False, "rope_theta": 100.0},
    "gpt2": {"family": "gpt2", "norm_eps": 0.1},
    "learned": {"positions": "learned"},
    "sinusoidal": {"positions": "sinusoidal"},
    "none": {"positions": "none", "dropout": 0.5},
}
SHAPES = IN_KERNEL | {"gru": {"family": "gru"}}


def _texts(n, length):
    return torch.randint(0, 320, (n, length), generator=torch.Generator().manual_seed(5)).tolist()


@torch.no_grad()
@pytest.mark.parametrize("compiled", [True, False], ids=["kernel", "torch"])
@pytest.mark.parametrize("name", SHAPES)
def test_steps_are_the_forward_pass(draw_gpt, name, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(kernels, "library", lambda: None)
    model = draw_gpt(**SHAPES[name]).eval()
    assert fits_kernel(model) == (name in IN_KERNEL and kernels.library() is not None)
    assert not fits_kernel(draw_gpt().double())
    decoder = Decoder(model)
    texts, n_read = _texts(3, 20), [3, 12, 7]
    expected = [model(torch.tensor([text]))[0] for text in texts]
    caches = [decoder.new_cache(48) for _ in texts]
    decoder.prefill(caches[0], [7, 8])
    caches[0].length = 0  # nothing stays of an earlier text
    for cache, text, n, logits in zip(caches, texts, n_read, expected, strict=False):
        every = decoder.prefill(cache, text[: n - 1], every=True)
        torch.testing.assert_close(every, logits[: n - 1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(decoder.prefill(cache, text[n - 1 : n])[0], logits[n - 1], atol=1e-4, rtol=1e-4)
    for turn in range(8):  # rows join and leave
        rows = [row for row in range(len(texts)) if (row + turn) % 4]
        tokens = [texts[row][caches[row].length] for row in rows]
        for row, logits in zip(rows, decoder.step([caches[row] for row in rows], tokens), strict=True):
            torch.testing.assert_close(logits, expected[row][caches[row].length - 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [{}, {"family": "gpt2"}, {"d_model": 96, "n_heads": 3, "n_kv_heads": 3, "d_ff": 200}])
def test_a_row_is_the_same_to_the_bit_beside_any_others(draw_gpt, shape):
    decoder = Decoder(draw_gpt(**shape).eval())
    text, *others = _texts(8, 12)

    def start(ids, n):
        decoder.prefill(cache := decoder.new_cache(12), ids[:n])
        return cache

    alone = start(text, 4)
    expected = [decoder.step([alone], [token])[0] for token in text[4:]]
    for n_others in (1, 2, 4, 7):
        caches = [start(other, 3) for other in others[:n_others]]
        mine = start(text, 4)
        for place, token in enumerate(text[4:]):
            at = place % (n_others + 1)
            rows = [*caches[:at], mine, *caches[at:]]
            tokens = [other[3 + place] for other in others[:n_others]]
            assert torch.equal(decoder.step(rows, [*tokens[:at], token, *tokens[at:]])[at], expected[place])


def test_it_uses_the_weights_that_the_model_has_now(draw_gpt):
    model = draw_gpt()
    decoder = Decoder(model)
    before = decoder.step([decoder.new_cache(4)], [3])[0]
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.5)
    assert (before - decoder.step([decoder.new_cache(4)], [3])[0]).abs().max() > 0.1


def test_the_context_has_an_end(draw_gpt):
    decoder = Decoder(draw_gpt(context_length=3))
    cache = decoder.new_cache(3)
    decoder.prefill(cache, [5, 6])
    decoder.step([cache], [7])
    with pytest.raises(AssertionError, match="context"):
        decoder.step([cache], [8])
