"""A gated recurrent unit in the place of attention: the older architecture, to be measured beside it.

Hidden states (B, T, D) in, the same shape out. The past is one state of R numbers, and step t needs the state of step
t − 1: distant tokens fade, and hardware waits. R is two thirds of D: then the maps in (3 R × D), over (3 R × R) and out
(D × R) have 4 D² weights together, as many as attention's four.
"""

import torch
from torch import Tensor, nn

from llm.model.config import ModelConfig
from llm.model.kv_cache import LayerCache
from llm.model.layers import Linear


def gru_step(given: Tensor, state: Tensor, recurrent: Tensor) -> Tensor:
    """Compute one step (Cho et al. 2014, arXiv:1406.1078), with the reset after the product, as in torch.

    given (B, 3 R) is the input's part of both gates and the candidate, state (B, R), recurrent (3 R, R) → (B, R).
    """
    given_reset, given_update, given_new = given.chunk(3, dim=-1)
    past_reset, past_update, past_new = (state @ recurrent.T).chunk(3, dim=-1)
    reset, update = torch.sigmoid(given_reset + past_reset), torch.sigmoid(given_update + past_update)
    candidate = torch.tanh(given_new + reset * past_new)
    return (1 - update) * candidate + update * state


def run_gru(x: Tensor, state: Tensor, given: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor]:
    """Compute all steps in C++: x (B, T, D) and a state (B, R) → the states (B, T, R) and the last one.

    `given` (3 R, D) maps the input, for all positions at once; only `recurrent` (3 R, R) runs step by step.
    """
    # Compiled, the T steps would be unrolled: that takes minutes and gains nothing.
    gru = torch.compiler.disable(torch.gru)
    trains = torch.is_grad_enabled()  # cuDNN differentiates a GRU that was told so
    states, last = gru(x, state[None], [given, recurrent], False, 1, 0.0, trains, False, True)
    return states, last[0]


class GRU(nn.Module):
    """The weights of a GRU of R = 2 D / 3 units, and the map from its states back to the model's width."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.d_state = max(1, round(config.d_model * 2 / 3))
        self.given = Linear(config.d_model, 3 * self.d_state)
        self.recurrent = Linear(self.d_state, 3 * self.d_state)
        self.out = Linear(self.d_state, config.d_model)

    def forward(
        self,
        x: Tensor,
        rotation: None = None,
        cache: LayerCache | None = None,
        start: int = 0,
        dropout_mask: Tensor | None = None,
        segment_mask: None = None,
    ) -> Tensor:
        """(B, T, D) → (B, T, D), from the state in `cache` after `start` positions; arguments as `Attention`'s."""
        state = cache.tensors[0] if cache and start else x.new_zeros(len(x), self.d_state)
        states, last = run_gru(x, state, self.given.weight, self.recurrent.weight)
        if cache:
            cache.tensors = (last,)
        return self.out(states)
