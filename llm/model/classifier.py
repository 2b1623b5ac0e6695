"""A classifier on a GPT's blocks: a linear map from the last token's hidden state to a score for each label.

ids (B, T), lengths (B,) → blocks → hidden states (B, T, D) → the last of each row (B, D) → scores (B, L)
"""

import torch
from torch import Tensor, nn

from llm.model.gpt import GPT
from llm.model.layers import Linear


class Classifier(nn.Module):
    """A trunk and a score for each label, 0 at first; a language model head of the trunk's own is frozen."""

    def __init__(self, trunk: GPT, n_labels: int):
        super().__init__()
        self.trunk = trunk
        if trunk.head.weight is not trunk.embedding.weight:
            trunk.head.requires_grad_(False)
        self.score = Linear(trunk.config.d_model, n_labels)
        nn.init.zeros_(self.score.weight)

    def forward(self, ids: Tensor, lengths: Tensor, dropout_keys: Tensor | None = None) -> Tensor:
        """Scores (B, L) of rows padded on the right: ids (B, T), lengths (B,)."""
        hidden = self.trunk.run_blocks(self.trunk.embedding(ids), dropout_keys=dropout_keys)
        last = hidden[torch.arange(len(ids), device=ids.device), lengths - 1]
        return self.score(last)

    def n_parameters(self) -> int:
        """Count the weights, without a language model head of the trunk's own."""
        weights = {name: weight.numel() for name, weight in self.named_parameters()}
        return sum(weights.values()) - weights.get("trunk.head.weight", 0)
