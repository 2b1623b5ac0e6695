"""A model whose weights are shared out over the processes, for one that does not fit one device.

Fully sharded data parallelism (Zhao et al. 2023, arXiv:2304.11277): each process holds a part of every weight, of its
gradient and of what AdamW remembers. A block's weights are put together just before they are needed and taken apart
after it. Muon's momentum stays whole everywhere: it works on whole matrices.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from llm.core.device import Machine
from llm.model.gpt import GPT
from llm.model.weights import set_weights
from llm.train.language import LanguageLoss
from llm.train.parallel import full_tensor, n_processes


class ShardedLoss(LanguageLoss):
    """The loss of a model that stands on the CPU and is shared out by this, a block at a time; never compiled."""

    def __init__(self, model: GPT, machine: Machine):
        super().__init__(model, machine, compiled=False)
        mesh = init_device_mesh(machine.device, (n_processes(),))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        # It warns of outputs that are changed in place afterwards; here nothing is, and keys and values are views.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
        # What is left are the embedding, the last norm and the head. They go apart after the forward pass as well:
        # a validation has no backward pass, and what stayed from it would be of the weights before the next step.
        self._frame = _Frame(model, super().__call__)
        fully_shard(self._frame, mesh=mesh, reshard_after_forward=True)

    def __call__(self, ids: Tensor, target: Tensor, dropout_keys: Tensor | None = None) -> Tensor:
        """The loss of one batch; all processes have to ask, each with its rows."""
        return self._frame(ids, target, dropout_keys)


class _Frame(nn.Module):
    """The loss as a module: weights are put together around a module's `forward`, and the GPT's is not used here."""

    def __init__(self, model: GPT, loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]):
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, ids: Tensor, target: Tensor, dropout_keys: Tensor | None) -> Tensor:
        return self._loss(ids, target, dropout_keys)


def unsharded(model: GPT) -> GPT:
    """The model with whole weights on the CPU; all processes have to ask."""
    weights = {name: full_tensor(weight.detach()).cpu() for name, weight in model.named_parameters()}
    together = GPT(model.config)
    set_weights(together, weights, Path("sharded weights"))
    return together
