"""A model gets a row for each token: what it knew stays, what is new begins as the mean."""

import pytest
import torch

from llm.model.weights import resize_embeddings, resize_rows

KNOWN = 300


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(draw_gpt, request):
    return draw_gpt(tie_embeddings=request.param)


IDS = torch.randint(0, KNOWN, (2, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("n_tokens", [KNOWN, 311, 320, 350])
@torch.no_grad()
def test_known_logits_stay_and_new_ones_are_their_mean(model, n_tokens):
    before = model(IDS)[..., :KNOWN]
    resize_embeddings(model, KNOWN, n_tokens)
    after = model(IDS)
    assert after.shape == (2, 40, n_tokens) and model.config.vocab_size == n_tokens
    torch.testing.assert_close(after[..., :KNOWN], before, atol=0, rtol=0)
    torch.testing.assert_close(
        after[..., KNOWN:], before.mean(dim=-1, keepdim=True).expand(-1, -1, n_tokens - KNOWN), atol=1e-5, rtol=1e-5
    )


def test_a_tied_head_stays_tied_and_an_untied_one_apart(model):
    names = set(dict(model.named_parameters()))
    resize_embeddings(model, 320, 326)
    assert set(dict(model.named_parameters())) == names
    assert (model.head.weight is model.embedding.weight) == model.config.tie_embeddings
    assert all(weight.requires_grad for weight in model.parameters())


def test_the_same_bytes_on_one_thread_and_on_two():
    rows = torch.randn(5000, 96, generator=torch.Generator().manual_seed(2))
    threads = torch.get_num_threads()
    grown = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        grown.append(resize_rows(rows, 5000, 5003))
    torch.set_num_threads(threads)
    assert torch.equal(*grown)
