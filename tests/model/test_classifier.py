"""A classifier scores a row by its last token, whatever stands beside the row."""

import pytest
import torch

from llm.model.classifier import Classifier


@pytest.fixture
def classifier(draw_gpt) -> Classifier:
    model = Classifier(draw_gpt(), 3)
    with torch.no_grad():
        model.score.weight.normal_(0, 1, generator=torch.Generator().manual_seed(5))
    return model


@torch.no_grad()
def test_a_score_does_not_depend_on_padding(classifier):
    text = torch.randint(6, 320, (1, 11), generator=torch.Generator().manual_seed(1))
    alone = classifier(text, torch.tensor([11]))
    for width, fill in ((1, 1), (20, 1), (20, 77)):
        padded = torch.nn.functional.pad(text, (0, width), value=fill)
        torch.testing.assert_close(classifier(padded, torch.tensor([11])), alone, atol=1e-5, rtol=0)
    assert not torch.allclose(classifier(text, torch.tensor([10])), alone, atol=1e-2)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_an_untied_head_is_not_counted_and_frozen(draw_gpt, tied):
    trunk = draw_gpt(tie_embeddings=tied)
    model = Classifier(trunk, 3)
    assert model.n_parameters() == draw_gpt().n_parameters() + 3 * 24
    model(torch.tensor([[7, 8]]), torch.tensor([2])).sum().backward()
    assert trunk.head.weight.requires_grad is tied
    assert trunk.embedding.weight.requires_grad


def test_what_the_caller_froze_stays_frozen(draw_gpt):
    trunk = draw_gpt().requires_grad_(False)
    learning = [name for name, weight in Classifier(trunk, 3).named_parameters() if weight.requires_grad]
    assert learning == ["score.weight"]


@torch.no_grad()
def test_a_training_step_drops_what_its_keys_say(draw_gpt):
    model = Classifier(draw_gpt(dropout=0.5), 3)
    model.score.weight.normal_(0, 1, generator=torch.Generator().manual_seed(5))
    ids, lengths = torch.tensor([[7, 8, 9]]), torch.tensor([3])
    keys = [model.trunk.dropout_keys(1, step) for step in (0, 0, 1)]
    first, again, next_step = (model(ids, lengths, key) for key in keys)
    assert torch.equal(first, again)
    assert not torch.allclose(first, next_step)
    assert not torch.allclose(first, model(ids, lengths))
