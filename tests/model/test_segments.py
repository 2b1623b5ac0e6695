"""Several texts in one row: each has the hidden states that it has alone, whatever stands beside it."""

import pytest
import torch

from llm.model.gpt import GPT

LENGTHS = [5, 1, 7, 3]
SHAPES = [
    *({"family": family} for family in ("qwen3", "qwen2", "llama", "gpt2")),
    *({"positions": scheme} for scheme in ("none", "sinusoidal", "learned", "rope")),
    *({"attention": rung} for rung in ("causal", "multi_head", "grouped")),
]


@pytest.fixture(params=SHAPES, ids=lambda shape: "-".join(shape.values()))
def model(request, draw_gpt) -> GPT:
    return draw_gpt(n_heads=4, n_kv_heads=2, d_model=32, **request.param)


def _texts() -> list[torch.Tensor]:
    return list(torch.randint(320, (sum(LENGTHS),), generator=torch.Generator().manual_seed(2)).split(LENGTHS))


def _hidden(model: GPT, ids: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
    return model.run_blocks(model.embedding(ids[None]), segments=segments)[0]


def _segments(lengths: list[int]) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]


def test_texts_in_one_row_are_what_they_are_alone(model):
    texts = _texts()
    together = _hidden(model, torch.cat(texts), _segments(LENGTHS))
    torch.testing.assert_close(together, torch.cat([_hidden(model, text) for text in texts]), atol=1e-5, rtol=0)


def test_no_gradient_goes_from_one_text_to_another(draw_gpt):
    model, texts = draw_gpt(), _texts()
    embedded = model.embedding(torch.cat(texts)[None]).detach().requires_grad_()
    hidden = model.run_blocks(embedded, segments=_segments(LENGTHS))
    hidden[0, 6:13].sum().backward()
    touched = embedded.grad[0].abs().sum(dim=-1) > 0
    assert touched.tolist() == [False] * 6 + [True] * 7 + [False] * 3


def test_rows_of_a_batch_have_segments_of_their_own(draw_gpt):
    model = draw_gpt()
    ids = torch.cat(_texts())
    segments = torch.cat([_segments(LENGTHS), _segments([8, 8])])
    both = model.run_blocks(model.embedding(ids.expand(2, -1)), segments=segments)
    for row, alone in zip(both, segments, strict=True):
        torch.testing.assert_close(row, _hidden(model, ids, alone[None]), atol=1e-5, rtol=0)
    assert not torch.allclose(both[0, 6], both[1, 6])


@pytest.mark.parametrize("shape", [{"family": "gru"}, {"attention": "trainable"}], ids=["gru", "trainable"])
def test_segments_need_causal_attention(draw_gpt, shape):
    with pytest.raises(AssertionError, match=r"causal|segments"):
        _hidden(draw_gpt(**shape), torch.cat(_texts()), _segments(LENGTHS))
