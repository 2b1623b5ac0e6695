"""Fresh weights: all of them drawn (`random`), or drawn around a circuit that repeats what it has read (`induction`).

Text repeats itself, and the first thing that sets a transformer apart from a table of short contexts is that it looks
for an earlier place like the present one and reads what came next there. It takes two heads that are of no use without
each other (an induction head: Olsson et al. 2022, arXiv:2209.11895): one of the first layer hands every position the
token before it, one of the second compares the present token with what was handed on. A short run can be over before
they have found each other. With `induction` the first two layers begin with both:

    embedding     the first channel of every token is the same number, which the first layer reads as a bias
    first layer   head h looks h + 1 tokens back, whatever stands there
    second layer  head 0 asks for the present token among the tokens that head 0 below has handed on

Nothing else is different. The shape is the family's, every weight is free to move, and what is made of a token that
was found is left to training: the second layer's output begins at zero, like that of the rest. Trockman and Kolter
2023 (arXiv:2305.09828) begin vision transformers near trained ones by their products of weights; this is for text.
"""

import math
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from llm.model.config import ModelConfig
from llm.model.layers import RMSNorm
from llm.model.positions import rotate

if TYPE_CHECKING:
    from llm.model.attention import Attention
    from llm.model.gpt import GPT

Init = Literal["random", "induction"]

TABLE_STD = 0.02
TABLES = {"embedding.weight", "positions.weight", "head.weight"}
# What a block adds starts at zero, whichever family's it is.
ADDED = ("attention.out.weight", "recurrence.out.weight", "feed_forward.down.weight")

CONSTANT = 2 * TABLE_STD  # in the embedding's first channel
LOOKING_BACK = 3  # heads
FAST_PAIRS = 6  # of RoPE: those that turn fast enough to tell a neighbour from the next one
SCORE = 12.0  # nats, of a position that is just what a head looks for; others have about 0
NOISE = 0.1  # what is left of the drawn queries and keys of a head that looks back


@torch.no_grad()
def draw_weights(model: "GPT", generator: torch.Generator, init: Init | None) -> None:
    """Matrices from N(0, 1/d_in), tables from N(0, 0.02²); a fresh block adds nothing and passes its input on.

    With `induction` the first block hands on a little of the past. None takes it wherever the model can have it.
    """
    for name, weight in model.named_parameters():
        if name.endswith(ADDED):
            weight.zero_()
        elif weight.ndim == 2:
            std = TABLE_STD if name in TABLES else weight.shape[1] ** -0.5
            weight.normal_(0, std, generator=generator)
    if init == "induction" or (init is None and can_have_induction(model.config)):
        assert can_have_induction(model.config)
        model.embedding.weight[:, 0] = CONSTANT
        first, second = (cast("Attention", block.attention) for block in model.blocks[:2])
        _look_back(first, model.cos, model.sin, generator)
        _ask_for_the_present_token(first, second, generator)


def can_have_induction(config: ModelConfig) -> bool:
    """Whether there are two layers of causal attention with rotary positions, by which a head can look back."""
    return config.position_scheme == "rope" and not config.sees_the_future and config.n_layers >= 2


def _look_back(attention: "Attention", cos: Tensor, sin: Tensor, generator: torch.Generator) -> None:
    """Head h of the first `LOOKING_BACK` scores a position by how near it is to h + 1 tokens back.

    All keys are one vector u, all queries of a head are u turned back by h + 1 positions. RoPE turns both by their
    places, so their product is the sum of cos(θ · (distance − h − 1)) over u's pairs, whatever the tokens.
    """
    C, group = attention.head_dim, attention.n_heads // attention.n_kv_heads
    pairs = torch.zeros(C // 2)
    pairs[:FAST_PAIRS] = 1
    u = torch.cat([pairs, torch.zeros(C // 2)])
    # Scores are products over √C; after the norm before attention the constant channel is about this large.
    u *= math.sqrt(SCORE * math.sqrt(C)) / u.norm() / (CONSTANT / TABLE_STD)
    heads = range(min(LOOKING_BACK, attention.n_heads, len(cos) - 1))
    for head in {head // group for head in heads}:
        _rows(attention.key.weight, head, C).mul_(NOISE)[:, 0] = u
    for head in heads:
        _rows(attention.query.weight, head, C).mul_(NOISE)[:, 0] = rotate(u, cos[head + 1], -sin[head + 1])
        _columns(attention.out.weight, head, C).normal_(0, TABLE_STD / math.sqrt(C), generator=generator)
    _sharpen(attention)


def _ask_for_the_present_token(first: "Attention", second: "Attention", generator: torch.Generator) -> None:
    """Head 0 of `first` writes what it reads where head 0 of `second` finds it with the present token as the question.

    `read` and `write` are C drawn directions of the D each: a token goes through `read`, is laid down along `write`,
    and is compared there with the present token's own `read`.
    """
    C, D = first.head_dim, first.query.weight.shape[1]
    read, write = (torch.linalg.qr(torch.randn(D, C, generator=generator))[0].T for _ in range(2))
    for directions in (read, write):
        directions[:, 0] = 0  # the constant channel says nothing about a token
    _rows(first.value.weight, 0, C).copy_(read)
    _columns(first.out.weight, 0, C).copy_(TABLE_STD * write.T)
    size = math.sqrt(SCORE / math.sqrt(C))
    _rows(second.query.weight, 0, C).copy_(size * read)
    _rows(second.key.weight, 0, C).copy_(size * write)
    _sharpen(second)


def _sharpen(attention: "Attention") -> None:
    """Where queries and keys are normalised their products reach √C, and the norm's weight has to make up for it."""
    if isinstance(attention.query_norm, RMSNorm):
        attention.query_norm.weight.fill_(SCORE / math.sqrt(attention.head_dim))


def _rows(weight: Tensor, head: int, width: int) -> Tensor:
    return weight[head * width : (head + 1) * width]


def _columns(weight: Tensor, head: int, width: int) -> Tensor:
    return weight[:, head * width : (head + 1) * width]
