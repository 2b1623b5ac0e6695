"""Averages of weights against plain means, and weights that are exchanged for a while."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from llm.train.averages import averaging_weight, swapped_weights, update_mean


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.zeros(3, 5))
        self.frozen = nn.Parameter(torch.zeros(7), requires_grad=False)

    @torch.no_grad()
    def fill(self, seed):
        generator = torch.Generator().manual_seed(seed)
        return [weight.normal_(generator=generator).clone() for weight in self.parameters()]


def _means(kind, fraction, n_steps):
    """Return the running mean after each step, and the weights of each step."""
    model, mean, means, weights = _Model(), None, [], []
    for step in range(n_steps):
        weights.append(model.fill(step))
        mean = update_mean(mean, model, averaging_weight(step, n_steps, kind, fraction))
        means.append(mean and [weight.clone() for weight in mean.values()])
    return means, weights


@pytest.mark.parametrize(("fraction", "length"), [(0.3, 3), (1.0, 10), (0.001, 1)])
def test_a_tail_is_the_plain_mean_over_the_last_steps(fraction, length):
    means, weights = _means("tail", fraction, 10)
    assert means[: 10 - length] == [None] * (10 - length)
    for number, mean in enumerate(means[-1]):
        torch.testing.assert_close(mean, torch.stack([step[number] for step in weights[-length:]]).mean(dim=0))


def test_an_ema_halves_the_share_of_weights_in_a_half_life():
    means, weights = _means("ema", 0.2, 20)  # a half-life of four steps
    kept = 0.5**0.25
    # A plain mean as long as its share of the newest weights exceeds 1 - kept = 0.159: up to the sixth step.
    expected = torch.stack([step[0] for step in weights[:6]]).mean(dim=0)
    torch.testing.assert_close(means[5][0], expected)
    for step in range(6, 20):
        expected = kept * expected + (1 - kept) * weights[step][0]
        torch.testing.assert_close(means[step][0], expected)


@given(st.sampled_from(["ema", "tail"]), st.integers(1, 200), st.floats(0, 1, exclude_min=True))
def test_a_mean_begins_with_the_whole_weights(kind, n_steps, fraction):
    shares = [averaging_weight(step, n_steps, kind, fraction) for step in range(n_steps)]
    begun = [share for share in shares if share is not None]
    assert shares[len(shares) - len(begun) :] == begun
    assert begun[0] == 1
    assert all(0 < share <= 1 for share in begun)


@pytest.mark.parametrize("has_mean", [True, False])
def test_exchanged_weights_come_back_after_an_error_too(has_mean):
    model = _Model()
    first = model.fill(1)
    mean = update_mean(None, model, 1) if has_mean else None
    second = model.fill(2)
    tensor = model.first
    with swapped_weights(model, mean):
        assert all(map(torch.equal, model.parameters(), first if has_mean else second))
        assert not has_mean or all(map(torch.equal, mean.values(), second))
    with pytest.raises(ZeroDivisionError), swapped_weights(model, mean):
        raise ZeroDivisionError
    assert all(map(torch.equal, model.parameters(), second))
    assert not has_mean or all(map(torch.equal, mean.values(), first))
    assert model.first is tensor
