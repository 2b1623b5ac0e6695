"""NumPy's single positions are the model's, for every family, rung and way to say where a token stands."""

import numpy as np
import pytest
import torch

from llm.model.decode import Decoder, attend, can_decode, rotate
from llm.model.generate import generate, greedy
from llm.model.positions import rope_table
from llm.model.positions import rotate as rotate_in_torch

SHAPES = {
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
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


@every_shape
@torch.no_grad()
def test_logits_are_those_of_the_whole_text_in_one_batch(draw_gpt, shape):
    model = draw_gpt(**shape).eval()
    ids = torch.randint(0, 320, (1, 48), generator=torch.Generator().manual_seed(1))
    wanted = model(ids)[0]
    decoder = Decoder(model)
    for place, token in enumerate(ids[0].tolist()):
        torch.testing.assert_close(torch.from_numpy(decoder.step(token)), wanted[place], atol=1e-4, rtol=1e-4)


@every_shape
@torch.no_grad()
def test_it_goes_on_behind_what_the_model_has_read(draw_gpt, shape):
    model = draw_gpt(**shape).eval()
    ids = torch.randint(0, 320, (2, 20), generator=torch.Generator().manual_seed(2))
    decoder = Decoder(model)
    decoder.step(5)  # nothing stays of it
    for text in ids[:, None]:
        _, past = model.run_blocks(model.embedding(text[:, :12]))
        decoder.read(past)
        for place in range(12, 20):
            logits = torch.from_numpy(decoder.step(int(text[0, place])))
            torch.testing.assert_close(logits, model(text[:, : place + 1])[0, -1], atol=1e-4, rtol=1e-4)


def test_it_computes_with_the_weights_that_the_model_has_now(draw_gpt):
    model = draw_gpt()
    decoder = Decoder(model)
    before = decoder.step(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.5)
    decoder.length = 0
    assert np.abs(before - decoder.step(3)).max() > 0.1


@pytest.mark.parametrize("shape", [{"family": "gru"}, {"attention": "simplified"}, {"attention": "trainable"}])
def test_what_it_cannot_compute_is_left_to_the_model(draw_gpt, shape):
    model = draw_gpt(**shape)
    assert not can_decode(model)
    assert len(list(generate(model, [3], 5, greedy))) == 5


def test_other_precisions_are_left_to_the_model(draw_gpt):
    model = draw_gpt()
    assert can_decode(model)
    assert not can_decode(model.double())


def test_the_context_has_an_end(draw_gpt):
    decoder = Decoder(draw_gpt(context_length=2))
    decoder.step(1)
    decoder.step(1)
    with pytest.raises(AssertionError, match="context"):
        decoder.step(1)


def test_attention_by_hand():
    q = np.zeros((1, 2, 4), dtype=np.float32)
    v = np.arange(8, dtype=np.float32).reshape(1, 2, 4)
    assert attend(q, np.ones_like(v), v).tolist() == [[[2, 3, 4, 5]] * 2]


def test_rotation_is_that_of_the_model():
    cos, sin = rope_table(9, 6, 10.0)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    signed = np.concatenate([-sin[7, :3].numpy(), sin[7, 3:].numpy()])
    turned = torch.from_numpy(rotate(x.numpy(), cos[7].numpy(), signed))
    torch.testing.assert_close(turned, rotate_in_torch(x[:, None], cos[7:8], sin[7:8])[:, 0])
