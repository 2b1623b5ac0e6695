"""A continuation's score is the sum of the model's own log-probabilities, however it is batched."""

import numpy as np
import pytest
import torch

from llm.model.continuations import score_continuations


@torch.no_grad()
def _slow(model, prompt: list[int], continuation: list[int]) -> float:
    """Everything read at once, one continuation at a time."""
    logprobs = model(torch.tensor([prompt + continuation])).log_softmax(dim=-1)[0, len(prompt) - 1 : -1]
    return float(logprobs.gather(1, torch.tensor(continuation)[:, None]).sum())


@pytest.mark.parametrize("rows_at_once", [256, 3])
@pytest.mark.parametrize("shape", [{}, {"family": "gpt2", "attention": "multi_head"}, {"family": "gru"}], ids=str)
def test_scores_are_the_models_log_probabilities(draw_gpt, shape, rows_at_once, monkeypatch):
    monkeypatch.setattr("llm.model.continuations.ROWS_AT_ONCE", rows_at_once)
    model, rng = draw_gpt(**shape), np.random.default_rng(1)
    prompts = [rng.integers(320, size=length).tolist() for length in (5, 9, 1, 5, 9, 30)]
    continuations = [rng.integers(320, size=length).tolist() for length in (1, 4, 2, 6)]
    slow = [[_slow(model, prompt, continuation) for continuation in continuations] for prompt in prompts]
    np.testing.assert_allclose(score_continuations(model, prompts, continuations), slow, atol=1e-4)
