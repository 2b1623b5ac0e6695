import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from llm.train.averages import add_newest, averaging_weight, swapped_weights


class _Model(nn.Module):
    """Two weights of other shapes, one of them frozen."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.zeros(3, 5))
        self.second = nn.Parameter(torch.zeros(7), requires_grad=False)

    def fill(self, seed):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.parameters():
                weight.normal_(generator=generator)
        return [weight.detach().clone() for weight in self.parameters()]


def _means(kind, part_of_run, n_steps):
    """The running mean after each step, and what the weights were."""
    model, mean, means, seen = _Model(), None, [], []
    for step in range(n_steps):
        seen.append(model.fill(step))
        mean = add_newest(mean, model, averaging_weight(step, n_steps, kind, part_of_run))
        means.append(mean and [weight.clone() for weight in mean.values()])
    return means, seen


@pytest.mark.parametrize(("part_of_run", "length"), [(0.3, 3), (1.0, 10), (0.001, 1)])
def test_a_tail_is_the_plain_mean_over_the_last_steps(part_of_run, length):
    means, seen = _means("tail", part_of_run, 10)
    assert means[: 10 - length] == [None] * (10 - length)
    for place, weight in enumerate(means[-1]):
        torch.testing.assert_close(weight, torch.stack([step[place] for step in seen[-length:]]).mean(dim=0))


def test_weights_count_half_as_much_in_an_ema_after_its_half_life():
    means, seen = _means("ema", 0.2, 20)  # a half-life of four steps
    kept = 0.5**0.25
    # The mean is plain as long as that gives the newest weights more than 1 - kept = 0.159: up to the sixth step.
    expected = torch.stack([step[0] for step in seen[:6]]).mean(dim=0)
    torch.testing.assert_close(means[5][0], expected)
    for step in range(6, 20):
        expected = kept * expected + (1 - kept) * seen[step][0]
        torch.testing.assert_close(means[step][0], expected)


@given(
    kind=st.sampled_from(["ema", "tail"]),
    n_steps=st.integers(1, 200),
    part_of_run=st.floats(0, 1, exclude_min=True),
)
def test_a_mean_begins_with_a_share_of_one_and_every_share_is_one(kind, n_steps, part_of_run):
    shares = [averaging_weight(step, n_steps, kind, part_of_run) for step in range(n_steps)]
    begun = [share for share in shares if share is not None]
    assert shares[len(shares) - len(begun) :] == begun
    assert begun[0] == 1
    assert all(0 < share <= 1 for share in begun)


def test_weights_and_mean_change_places_for_a_while_and_come_back_to_the_bit():
    model = _Model()
    first = model.fill(1)
    mean = add_newest(None, model, 1)
    second = model.fill(2)
    held = model.first
    with swapped_weights(model, mean):
        assert all(map(torch.equal, model.parameters(), first))
        assert all(map(torch.equal, mean.values(), second))
    assert all(map(torch.equal, model.parameters(), second))
    assert all(map(torch.equal, mean.values(), first))
    assert model.first is held


def test_they_come_back_after_a_failure_too():
    model = _Model()
    mean = add_newest(None, model, 1)
    weights = model.fill(2)
    with pytest.raises(ZeroDivisionError), swapped_weights(model, mean):
        raise ZeroDivisionError
    assert all(map(torch.equal, model.parameters(), weights))


def test_without_a_mean_the_weights_stay():
    model = _Model()
    weights = model.fill(1)
    with swapped_weights(model, None):
        assert all(map(torch.equal, model.parameters(), weights))
