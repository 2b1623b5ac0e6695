"""A GPT's blocks as a classifier: one linear map from the last token's hidden state to a score for each label.

ids (B, T), lengths (B,) → blocks → hidden states (B, T, D) → the last of each row (B, D) → scores (B, labels)
"""

import torch
from torch import Tensor, nn

from llm.model.gpt import GPT
from llm.model.layers import Linear


class Classifier(nn.Module):
    """The trunk, and a score for each label; the scores of a fresh one are all 0.

    Which weights of the trunk learn is the caller's to say; a head of its own has nothing to learn here.
    """

    def __init__(self, trunk: GPT, n_labels: int):
        super().__init__()
        self.trunk = trunk
        if trunk.head.weight is not trunk.embedding.weight:
            trunk.head.requires_grad_(False)
        self.score = Linear(trunk.config.d_model, n_labels)
        nn.init.zeros_(self.score.weight)

    def forward(self, ids: Tensor, lengths: Tensor, dropout_keys: Tensor | None = None) -> Tensor:
        """Scores (B, labels) of rows padded on the right: ids (B, T), lengths (B,)."""
        hidden, _ = self.trunk.run_blocks(self.trunk.embedding(ids), dropout_keys=dropout_keys)
        last = hidden[torch.arange(len(ids), device=ids.device), lengths - 1]
        return self.score(last)

    def n_parameters(self) -> int:
        """How many weights there are in a classifier: the trunk's without a head of its own, and the scores'."""
        weights = {name: weight.numel() for name, weight in self.named_parameters()}
        return sum(weights.values()) - weights.get("trunk.head.weight", 0)
