"""Fresh weights: all of them random (`random`), or the first layer's heads attend to previous tokens.

Induction heads (Olsson et al. 2022, arXiv:2209.11895) need previous-token heads below them, which random heads are
slow to become. With `previous_token_heads` they start as such, and every weight is free to move:

    embedding     the first channel is the same number for every token, which the first layer reads as a bias
    first layer   head h attends h + 1 tokens back, whatever the tokens are
"""

import math
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from llm.model.layers import RMSNorm
from llm.model.positions import rotate

if TYPE_CHECKING:
    from llm.model.attention import Attention
    from llm.model.gpt import GPT

Init = Literal["random", "previous_token_heads"]

TABLE_STD = 0.02
TABLES = {"embedding.weight", "positions.weight", "head.weight"}
RESIDUAL = ("attention.out.weight", "feed_forward.down.weight")  # start at zero: a fresh block adds nothing

CONSTANT = 2 * TABLE_STD  # in the embedding's first channel
N_HEADS = 3  # that attend to previous tokens
FAST_PAIRS = 6  # of RoPE: these turn fast enough to distinguish neighboring positions
SCORE = 12.0  # of the position that a head attends to; distant ones have about 0
NOISE = 0.1  # factor on the random queries and keys


@torch.no_grad()
def initialize_weights(model: "GPT", generator: torch.Generator, init: Init | None) -> None:
    """Draw matrices from N(0, 1/d_in) and tables from N(0, 0.02²); what blocks add starts at zero.

    None takes `previous_token_heads` where the model supports them.
    """
    for name, weight in model.named_parameters():
        if name.endswith(RESIDUAL):
            weight.zero_()
        elif weight.ndim == 2:
            std = TABLE_STD if name in TABLES else weight.shape[1] ** -0.5
            weight.normal_(0, std, generator=generator)
    if init == "previous_token_heads" or (init is None and model.config.supports_previous_token_heads):
        assert model.config.supports_previous_token_heads
        model.embedding.weight[:, 0] = CONSTANT
        _set_previous_token_heads(cast("Attention", model.blocks[0].attention), model.cos, model.sin, generator)


def _set_previous_token_heads(attention: "Attention", cos: Tensor, sin: Tensor, generator: torch.Generator) -> None:
    """Make head h of the first `N_HEADS` score a position by its distance from h + 1 tokens back.

    All keys are one vector u, all queries of a head are u turned back by h + 1 positions. RoPE turns both by their
    positions, so their product is the sum of cos(θ · (distance − h − 1)) over u's pairs, whatever the tokens.
    """
    C, group = attention.head_dim, attention.n_heads // attention.n_kv_heads
    u = torch.zeros(C)
    u[: min(FAST_PAIRS, C // 2)] = 1
    # A score is a product over √C; after the norm before attention the constant channel is about CONSTANT / TABLE_STD.
    u *= math.sqrt(SCORE * math.sqrt(C)) / u.norm() / (CONSTANT / TABLE_STD)
    heads = range(min(N_HEADS, attention.n_heads, len(cos) - 1))
    for head in {head // group for head in heads}:
        attention.key.weight[head * C : (head + 1) * C].mul_(NOISE)[:, 0] = u
    for head in heads:
        rows = slice(head * C, (head + 1) * C)
        attention.query.weight[rows].mul_(NOISE)[:, 0] = rotate(u, cos[head + 1], -sin[head + 1])
        attention.out.weight[:, rows].normal_(0, TABLE_STD / math.sqrt(C), generator=generator)
    if isinstance(attention.query_norm, RMSNorm):  # normalized queries and keys have a product of at most √C
        attention.query_norm.weight.fill_(SCORE / math.sqrt(C))
