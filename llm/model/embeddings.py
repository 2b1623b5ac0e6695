"""Embeddings: a token's id selects a row of a learned matrix (V, D); tokens with similar uses get similar rows.

The look-up equals a product with a one-hot vector, without the zeros. Ids count from 0.
"""

import torch
from torch import Tensor


def nearest(embedding: Tensor, token: int, top: int) -> list[tuple[int, float]]:
    """Return the `top` ids whose rows of embedding (V, D) have the highest cosine with `token`'s, and the cosines.

    >>> nearest(torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]]), 0, 2)
    [(2, 0.6000000238418579), (1, 0.0)]
    """
    cosines = torch.cosine_similarity(embedding, embedding[token], dim=-1)
    cosines[token] = -torch.inf  # it is its own nearest
    best = cosines.topk(min(top, len(cosines) - 1))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
