"""Embeddings: a token's id picks a row of a learned matrix (V, D), and tokens used alike end up with rows alike.

The look-up is a product with a one-hot vector, without the zeros: id 5 picks the sixth row, since ids begin at 0.
"""

import torch
from torch import Tensor


def nearest(embedding: Tensor, token: int, top: int) -> list[tuple[int, float]]:
    """The `top` ids whose rows of embedding (V, D) point most nearly where `token`'s does, with their cosines.

    >>> nearest(torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]]), 0, 2)
    [(2, 0.6000000238418579), (1, 0.0)]
    """
    cosines = torch.cosine_similarity(embedding, embedding[token], dim=-1)
    cosines[token] = -torch.inf  # it is its own nearest
    best = cosines.topk(min(top, len(cosines) - 1))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
