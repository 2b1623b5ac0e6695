"""A gated recurrent unit in the place of attention: the traditional way, to be measured beside it.

In: hidden states (B, T, D). Out: the same shape. All that is known of the past is one state of R numbers, however
long the text is, and step t needs the state of step t − 1: T small products one after the other, where attention is
one large product over all positions. Both are why it is not used: what is far back fades, and hardware waits.

R is two thirds of D. Then the maps in (3 R × D), over (3 R × R) and out (D × R) have 4 D² weights together, as many
as attention's four.
"""

import torch
from torch import Tensor, nn

from llm.model.attention import Kept, Rotation
from llm.model.config import ModelConfig
from llm.model.dropout import dropout
from llm.model.layers import FEED_FORWARDS, NORMS, Linear


def gru_step(given: Tensor, state: Tensor, recurrent: Tensor) -> Tensor:
    """One step: how much of the old state is read (reset), and how much of it stays (update).

    given (B, 3 R) is the input's part of both gates and of the candidate, state (B, R), recurrent (3 R, R) →
    the new state (B, R). Cho et al. 2014, arXiv:1406.1078, with the reset behind the product, as torch has it.
    """
    given_reset, given_update, given_new = given.chunk(3, dim=-1)
    past_reset, past_update, past_new = (state @ recurrent.T).chunk(3, dim=-1)
    reset, update = torch.sigmoid(given_reset + past_reset), torch.sigmoid(given_update + past_update)
    candidate = torch.tanh(given_new + reset * past_new)
    return (1 - update) * candidate + update * state


def run_gru(x: Tensor, state: Tensor, given: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor]:
    """All steps of x (B, T, D) from a state (B, R): the states (B, T, R) and the last one. `gru_step`, in C++.

    `given` (3 R, D) maps the input, for all positions at once; only `recurrent` (3 R, R) has to wait.
    """
    # Compiled, the T steps would be written out one after the other: that takes minutes, and gains nothing.
    gru = torch.compiler.disable(torch.gru)
    states, last = gru(x, state[None], [given, recurrent], False, 1, 0.0, False, False, True)
    return states, last[0]


class Recurrence(nn.Module):
    """The weights of a GRU of R = 2 D / 3 numbers, and the map from its states back to the model's width."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.d_state = max(1, round(config.d_model * 2 / 3))
        self.given = Linear(config.d_model, 3 * self.d_state)
        self.recurrent = Linear(self.d_state, 3 * self.d_state)
        self.out = Linear(self.d_state, config.d_model)

    def forward(self, x: Tensor, past: Kept) -> tuple[Tensor, Kept]:
        """From x (B, T, D) and the state (B, R) that came before, (B, T, D) and the state after it."""
        state = past[0] if past else x.new_zeros(len(x), self.d_state)
        states, last = run_gru(x, state, self.given.weight, self.recurrent.weight)
        return self.out(states), (last,)


class RecurrentBlock(nn.Module):
    """Normalise, recur, add; normalise, feed forward, add. It takes what `Block` takes and needs less of it."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        norm, self.dropout = NORMS[config.parts.norm], config.dropout
        self.recurrence_norm = norm(config.d_model, config.norm_eps)
        self.recurrence = Recurrence(config)
        self.feed_forward_norm = norm(config.d_model, config.norm_eps)
        self.feed_forward = FEED_FORWARDS[config.parts.feed_forward](config.d_model, config.d_ff, config.parts.bias)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        start: int,
        past: Kept,
        masks: list[Tensor | None],
        apart: Tensor | None = None,
    ) -> tuple[Tensor, Kept]:
        """(B, T, D) → (B, T, D) and this layer's state for the next call."""
        assert apart is None, "a state that would run on from one text into the next"
        recurred, kept = self.recurrence(self.recurrence_norm(x), past)
        x = x + dropout(recurred, self.dropout, masks[1])
        return x + dropout(self.feed_forward(self.feed_forward_norm(x)), self.dropout, masks[2]), kept
