"""A model with a row for each token of a tokenizer that has grown, or that has fewer tokens than the model rows.

    rows of the known tokens | rows that no token had  →  rows of the known tokens | their mean, a row a new token

Why the mean: a row that is drawn may point anywhere, and then its token can be likelier than all that the model has
learnt to say. The mean's logit is the mean of the known tokens' logits, whatever the hidden state, so that a new
token takes no more of the probability than an average one, and what the model says stays nearly as it was (Hewitt
2021, "Initializing New Word Embeddings for Pretrained Language Models").
"""

from typing import cast

import torch
from torch import Tensor, nn

from llm.model.gpt import GPT


def set_vocabulary(model: GPT, n_known: int, n_tokens: int) -> None:
    """Give embedding and head `n_tokens` rows, in place: the first `n_known` stay, the others are their mean.

    Nothing is drawn: the same model gives the same bytes.
    """
    assert 0 < n_known <= min(n_tokens, model.config.vocab_size)
    if n_known == n_tokens == model.config.vocab_size:
        return
    model.embedding = nn.Embedding.from_pretrained(resize_rows(model.embedding.weight, n_known, n_tokens), freeze=False)
    if model.config.tie_embeddings:
        model.head.weight = cast(nn.Parameter, model.embedding.weight)
    else:
        model.head.weight = nn.Parameter(resize_rows(model.head.weight, n_known, n_tokens))
    model.config = model.config.model_copy(update={"vocab_size": n_tokens})


@torch.no_grad()
def resize_rows(rows: Tensor, n_known: int, n: int) -> Tensor:
    """Rows (V, D) → (n, D): the first `n_known`, and then their mean.

    >>> resize_rows(torch.tensor([[1.0], [3.0], [9.0]]), n_known=2, n=4).flatten().tolist()
    [1.0, 3.0, 2.0, 2.0]
    """
    known = rows[:n_known]
    # Summed in float64, so that the rounding to float32 hides in which order threads add.
    mean = known.mean(dim=0, dtype=torch.float64).to(rows.dtype)
    return torch.cat([known, mean.expand(n - n_known, -1)])
