"""Many texts a step are each the model's own, and none of them depends on the others, to the last bit."""

import pytest
import torch

from llm.serve import slots as module
from llm.serve.slots import NumpySlots, TorchSlots, make_slots

SHAPES = {
    "qwen3": {},
    "groups of three": {"d_model": 36, "n_heads": 6, "n_kv_heads": 2, "norm_eps": 0.1},
    "no shared keys": {"attention": "multi_head", "n_layers": 3},
    "one head": {"attention": "causal"},
    "qwen2": {"family": "qwen2"},
    "wide heads": {"head_width": 20},
    "llama": {"family": "llama", "tie_embeddings": False},
    "gpt2": {"family": "gpt2", "norm_eps": 0.1},
    "sinusoidal": {"positions": "sinusoidal"},
    "none": {"positions": "none"},
}
OTHERS = {
    "gru": {"family": "gru"},
    "looks ahead": {"attention": "trainable"},
    "simplified": {"attention": "simplified"},
}


def _texts(n, length):
    return torch.randint(0, 320, (n, length), generator=torch.Generator().manual_seed(5)).tolist()


@torch.no_grad()
@pytest.mark.parametrize("shape", (SHAPES | OTHERS).values(), ids=(SHAPES | OTHERS).keys())
def test_each_text_has_the_logits_of_the_model_that_reads_it_alone(draw_gpt, shape, monkeypatch):
    monkeypatch.setattr(module, "TILE_PRODUCTS", 1000)  # so that small weights are cut as well
    model = draw_gpt(**shape).eval()
    slots = make_slots(model, 6)
    assert isinstance(slots, TorchSlots if shape in OTHERS.values() else NumpySlots)
    texts = dict(zip([4, 0, 3], _texts(3, 20), strict=True))
    # Each in a slot of its own, at a length of its own, and one that is begun anew.
    read = {4: 3, 0: 12, 3: 7}
    slots.read(0, [7, 8])
    for slot, length in read.items():
        whole = model(torch.tensor([texts[slot]]))[0] if not model.sees_the_future else None
        every = slots.read(slot, texts[slot][:length], every=True)
        if whole is not None:
            torch.testing.assert_close(every, whole[:length], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(slots.read(slot, texts[slot][:length]), every[-1:], atol=1e-4, rtol=1e-4)
    for turn in range(5):
        going = [slot for slot in read if (slot + turn) % 4]
        logits = slots.step(going, [texts[slot][read[slot]] for slot in going])
        for slot, row in zip(going, logits, strict=True):
            read[slot] += 1
            wanted = model(torch.tensor([texts[slot][: read[slot]]]))[0, -1]
            torch.testing.assert_close(row, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [{}, {"family": "gpt2"}, {"d_model": 96, "n_heads": 3, "n_kv_heads": 3, "d_ff": 200}])
def test_a_row_is_the_same_to_the_last_bit_whatever_is_beside_it(draw_gpt, shape):
    model = draw_gpt(**shape).eval()
    text, *others = _texts(8, 12)
    alone = NumpySlots(model, 1)
    alone.read(0, text[:4])
    wanted = [alone.step([0], [token])[0] for token in text[4:]]
    for n_others in (1, 2, 4, 7):
        slots = NumpySlots(model, 8)
        for slot, other in enumerate(others[:n_others]):
            slots.read(slot, other[: 3 + slot])
        slots.read(7, text[:4])
        for place, token in enumerate(text[4:]):
            at = place % (n_others + 1)
            order = list(range(n_others))
            order.insert(at, 7)
            given = [others[slot][place] for slot in range(n_others)]
            given.insert(at, token)
            assert torch.equal(slots.step(order, given)[at], wanted[place])


def test_the_context_has_an_end(draw_gpt):
    slots = NumpySlots(draw_gpt(context_length=3), 2)
    slots.read(1, [5, 6])
    slots.step([1], [7])
    with pytest.raises(AssertionError, match="context"):
        slots.step([1], [8])
