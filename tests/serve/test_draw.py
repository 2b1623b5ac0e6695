import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.serve.draw import Drawer, Drawing, logprob_of, pick

LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0])


def _drawn(drawing, seeds=(1, 0), n=200):
    drawer = Drawer(drawing, seeds)
    return [drawer.draw(LOGITS)[0] for _ in range(n)]


def test_the_same_seeds_draw_the_same_and_others_do_not():
    assert _drawn(Drawing()) == _drawn(Drawing())
    assert len({tuple(_drawn(Drawing(), seeds)) for seeds in ((1, 0), (1, 1), (2, 0), (2**64 - 1, 0))}) == 4


def test_temperature_0_takes_the_likeliest():
    assert set(_drawn(Drawing(temperature=0))) == {1}


@pytest.mark.parametrize(
    ("drawing", "left"),
    [
        (Drawing(top_k=2), {1, 2}),
        (Drawing(top_p=0.6), {1}),
        (Drawing(min_p=0.3), {1, 2}),
        (Drawing(), {0, 1, 2, 3}),
        (Drawing(temperature=0.1), {1}),
    ],
)
def test_filters_leave_the_likely(drawing, left):
    assert set(_drawn(drawing)) == left


def test_tokens_are_drawn_in_proportion_to_what_the_filters_left():
    drawn = torch.tensor(_drawn(Drawing(temperature=2.0, top_k=3), n=5000))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    expected = (LOGITS[:3] / 2).softmax(-1)
    torch.testing.assert_close(shares, torch.cat([expected, torch.zeros(1)]), atol=0.03, rtol=0)


@given(
    st.lists(st.floats(-20, 20, width=32) | st.just(-math.inf), min_size=1, max_size=9),
    st.floats(0, 1, exclude_max=True) | st.just(1 - 2**-53),
)
def test_what_was_filtered_out_is_never_picked(values, at):
    logits = torch.tensor([0.0, *values])
    token = pick(logits, at)
    assert logits[token] > -math.inf
    assert 0 <= token < len(logits)


def test_penalties_are_subtracted_for_what_was_drawn():
    # 3 falls by 0.75 a time: 3, 2.25, 1.5 (below 2); then 2, 1.25; and so on in turns.
    assert _drawn(Drawing(temperature=0, frequency_penalty=0.75), n=4) == [1, 1, 2, 1]
    # Once only: 3 → 1.6, 2 → 0.6, 1 stays.
    assert _drawn(Drawing(temperature=0, presence_penalty=1.4), n=5) == [1, 2, 1, 1, 1]
    assert _drawn(Drawing(temperature=0, presence_penalty=-1.4), n=3) == [1, 1, 1]


def test_logprobs_are_those_of_the_model_whatever_is_done_to_its_logits():
    drawing = Drawing(temperature=0, frequency_penalty=2.0, n_logprobs=2)
    drawer = Drawer(drawing, (1, 0))
    drawer.draw(LOGITS)
    token, logprob = drawer.draw(LOGITS)
    total = math.log(sum(math.exp(value) for value in LOGITS.tolist()))
    assert token == logprob.token == 2
    assert logprob.logprob == pytest.approx(2 - total)
    assert [pair[0] for pair in logprob.likeliest] == [1, 2]
    assert logprob.likeliest[0][1] == pytest.approx(3 - total)


def test_more_logprobs_than_there_are_tokens_are_all_of_them():
    assert len(logprob_of(LOGITS, 0, 20).likeliest) == 4
