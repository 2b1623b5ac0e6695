import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.serve.sampler import RequestSampling, Sampler, inverse_cdf_sample

LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0])


def _sampled(params, seeds=(1, 0), n=200):
    sampler = Sampler(params, seeds)
    return [sampler.sample(LOGITS)[0] for _ in range(n)]


def test_the_same_seeds_draw_the_same_and_others_do_not():
    assert _sampled(RequestSampling()) == _sampled(RequestSampling())
    assert len({tuple(_sampled(RequestSampling(), seeds)) for seeds in ((1, 0), (1, 1), (2, 0), (2**64 - 1, 0))}) == 4


def test_filters_leave_the_likely():
    for values, left in ({"top_k": 2}, {1, 2}), ({"top_p": 0.6}, {1}), ({"min_p": 0.3}, {1, 2}), ({}, {0, 1, 2, 3}):
        assert set(_sampled(RequestSampling(**values))) == left


@given(
    st.lists(st.floats(-20, 20, width=32) | st.just(-math.inf), min_size=1, max_size=9),
    st.floats(0, 1, exclude_max=True) | st.just(1 - 2**-53),
)
def test_filtered_ids_are_never_sampled(values, at):
    logits = torch.tensor([0.0, *values])
    assert logits[inverse_cdf_sample(logits, at)] > -math.inf


def test_penalties_are_subtracted_for_what_was_sampled():
    # 3 falls by 0.75 a time: 3, 2.25, 1.5 (below 2); then 2, 1.25; and so on in turns.
    assert _sampled(RequestSampling(temperature=0, frequency_penalty=0.75), n=4) == [1, 1, 2, 1]
    # Once only: 3 → 1.6, 2 → 0.6, 1 stays.
    assert _sampled(RequestSampling(temperature=0, presence_penalty=1.4), n=5) == [1, 2, 1, 1, 1]
    assert _sampled(RequestSampling(temperature=0, presence_penalty=-1.4), n=3) == [1, 1, 1]


def test_logprobs_are_those_of_the_model():
    params = RequestSampling(temperature=0, frequency_penalty=2.0, n_logprobs=2)
    sampler = Sampler(params, (1, 0))
    sampler.sample(LOGITS)
    token, logprob = sampler.sample(LOGITS)
    total = math.log(sum(math.exp(value) for value in LOGITS.tolist()))
    assert token == logprob.token == 2
    assert logprob.logprob == pytest.approx(2 - total)
    assert [pair[0] for pair in logprob.top] == [1, 2]
    assert logprob.top[0][1] == pytest.approx(3 - total)
