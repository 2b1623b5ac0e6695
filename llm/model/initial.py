"""Fresh weights: all of them drawn (`random`), or drawn but for the heads of the first layer (`previous_token_heads`).

Much of what comes next in a text hangs on the last few tokens, and much of the rest on what followed the last time
that those stood there: an induction head (Olsson et al. 2022, arXiv:2209.11895) finds it, once a head below it hands
every position the token before. All of that begins with heads that look one, two, three tokens back; drawn heads look
everywhere alike, and a short run can be over before they have learnt not to. With `previous_token_heads` they begin so:

    embedding     the first channel is the same number for every token, which the first layer reads as a bias
    first layer   head h looks h + 1 tokens back, whatever stands there

Nothing else is different: the shape is the family's, and every weight is free to move. Trockman and Kolter 2023
(arXiv:2305.09828) begin the attention of vision transformers near what training ends at; this is the same for text.
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
# What a block adds starts at zero, whichever family's it is.
ADDED = ("attention.out.weight", "recurrence.out.weight", "feed_forward.down.weight")

CONSTANT = 2 * TABLE_STD  # in the embedding's first channel
LOOKING_BACK = 3  # heads
FAST_PAIRS = 6  # of RoPE: those that turn fast enough to tell a position from the one beside it
SCORE = 12.0  # of the position that a head looks for; far ones have about 0
NOISE = 0.1  # what is left of the drawn queries and keys


@torch.no_grad()
def draw_weights(model: "GPT", generator: torch.Generator, init: Init | None) -> None:
    """Matrices from N(0, 1/d_in), tables from N(0, 0.02²); a fresh block adds nothing and passes its input on.

    With `previous_token_heads` the first block adds a little of the tokens before. None takes it
    wherever the model can have it.
    """
    for name, weight in model.named_parameters():
        if name.endswith(ADDED):
            weight.zero_()
        elif weight.ndim == 2:
            std = TABLE_STD if name in TABLES else weight.shape[1] ** -0.5
            weight.normal_(0, std, generator=generator)
    if init == "previous_token_heads" or (init is None and model.config.can_look_back):
        assert model.config.can_look_back
        model.embedding.weight[:, 0] = CONSTANT
        _look_back(cast("Attention", model.blocks[0].attention), model.cos, model.sin, generator)


def _look_back(attention: "Attention", cos: Tensor, sin: Tensor, generator: torch.Generator) -> None:
    """Head h of the first `LOOKING_BACK` scores a position by how near it is to h + 1 tokens back.

    All keys are one vector u, all queries of a head are u turned back by h + 1 positions. RoPE turns both by their
    places, so their product is the sum of cos(θ · (distance − h − 1)) over u's pairs, whatever the tokens.
    """
    C, group = attention.head_dim, attention.n_heads // attention.n_kv_heads
    u = torch.zeros(C)
    u[: min(FAST_PAIRS, C // 2)] = 1
    # A score is a product over √C; after the norm before attention the constant channel is about CONSTANT / TABLE_STD.
    u *= math.sqrt(SCORE * math.sqrt(C)) / u.norm() / (CONSTANT / TABLE_STD)
    heads = range(min(LOOKING_BACK, attention.n_heads, len(cos) - 1))
    for head in {head // group for head in heads}:
        _rows(attention.key.weight, head, C).mul_(NOISE)[:, 0] = u
    for head in heads:
        _rows(attention.query.weight, head, C).mul_(NOISE)[:, 0] = rotate(u, cos[head + 1], -sin[head + 1])
        attention.out.weight[:, head * C : (head + 1) * C].normal_(0, TABLE_STD / math.sqrt(C), generator=generator)
    if isinstance(attention.query_norm, RMSNorm):  # normalised queries and keys have a product of √C, no larger
        attention.query_norm.weight.fill_(SCORE / math.sqrt(C))


def _rows(weight: Tensor, head: int, width: int) -> Tensor:
    return weight[head * width : (head + 1) * width]
