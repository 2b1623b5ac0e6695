"""The step from gradients to weights: Muon for the matrices inside the blocks and AdamW for the rest, or AdamW for all.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces a matrix's momentum by the nearest matrix
whose singular values are all about 1, so that every direction of it learns, not only the few that dominate the
gradient. Matrices of one shape are treated as one batch.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from llm.train.parallel import full_tensor, local_shard
from llm.train.params import OptimizerParams

ADAM_BETAS = (0.9, 0.95)
# Momentum grows over the first steps: an average over many noisy early gradients would point nowhere.
MOMENTUM_START, MOMENTUM_END, MOMENTUM_STEPS = 0.85, 0.95, 300


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Push the singular values of matrices (N, rows ≤ columns) towards 1 by five Newton–Schulz steps.

    The quintic's coefficients are Jordan's: values end between about 0.7 and 1.2, which is near enough.
    """
    assert matrices.shape[-2] <= matrices.shape[-1]
    x = matrices.to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        # x ← 3.4445 x − 4.7750 (x xᵀ) x + 2.0315 (x xᵀ)² x, each sum inside its product.
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.to(matrices.dtype)


class Optimizer:
    """Muon and AdamW, or AdamW alone, behind one `step`; all that it remembers is in `state_dict`.

    `lr_multipliers` are of the rate, by a weight's name; one without a name there has the whole rate.
    """

    def __init__(
        self,
        model: nn.Module,
        params: OptimizerParams,
        dtype: torch.dtype,
        device: str,
        lr_multipliers: Mapping[str, float] = MappingProxyType({}),
    ):
        self.params, self.dtype = params, dtype
        self._share = {weight: lr_multipliers.get(name, 1.0) for name, weight in model.named_parameters()}
        by_shape: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
        others = []
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                continue
            if weight.ndim == 2 and "blocks" in name.split("."):
                by_shape[min(weight.shape), max(weight.shape)].append(weight)
            else:
                others.append(weight)
        matrices = [weight for weights in by_shape.values() for weight in weights]
        self.weights = matrices + others
        self._muons = dict(by_shape) if params.kind == "muon" else {}
        self._momentum = {
            shape: torch.zeros(len(weights), *shape, device=device) for shape, weights in self._muons.items()
        }
        decayed = [] if params.kind == "muon" else matrices
        groups = [*self._groups(decayed, params.weight_decay), *self._groups(others, 0.0)]
        self._adam = torch.optim.AdamW(groups, lr=params.adamw_lr, betas=ADAM_BETAS, fused=True) if groups else None

    def _groups(self, weights: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
        by_share = defaultdict(list)
        for weight in weights:
            by_share[self._share[weight]].append(weight)
        return [
            {"params": members, "weight_decay": weight_decay, "share": share} for share, members in by_share.items()
        ]

    def step(self, step: int, factor: float) -> float:
        """Change the weights by their gradients, at `factor` of the full rates; returns the gradient's norm.

        Where the norm is no number the weights stay as they were.
        """
        norm = float(full_tensor(nn.utils.clip_grad_norm_(self.weights, self.params.max_grad_norm)))
        if not math.isfinite(norm):
            return norm
        self._step_muon(step, self.params.muon_lr * factor)
        if self._adam is not None:
            for group in self._adam.param_groups:
                group["lr"] = self.params.adamw_lr * factor * group["share"]
            self._adam.step()
        for weight in self.weights:
            weight.grad = None
        return norm

    @torch.no_grad()
    def _step_muon(self, step: int, rate: float) -> None:
        momentum = MOMENTUM_START + (MOMENTUM_END - MOMENTUM_START) * min(step / MOMENTUM_STEPS, 1)
        for shape, weights in self._muons.items():
            # Tall matrices lie down, so that the products of orthogonalize are of the smaller side.
            lying = [weight.shape == shape for weight in weights]
            gradient = torch.stack(
                [
                    full_tensor(_gradient(weight)) if lies else full_tensor(_gradient(weight)).T
                    for weight, lies in zip(weights, lying, strict=True)
                ]
            )
            average = self._momentum[shape]
            average.lerp_(gradient, 1 - momentum)
            update = orthogonalize(gradient.lerp_(average, momentum), self.dtype)
            for weight, lies, change in zip(weights, lying, update, strict=True):
                # A wide output gets larger steps, so that each output moves alike whatever the shape.
                scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                own_rate = rate * self._share[weight]
                weight.mul_(1 - own_rate * self.params.weight_decay)
                weight.add_(local_shard(change if lies else change.T, weight), alpha=-own_rate * scale)

    def state_dict(self) -> dict[str, Any]:
        """Momentum and Adam's averages, as tensors and plain values."""
        momentum = {f"{rows}x{columns}": value for (rows, columns), value in self._momentum.items()}
        return {"momentum": momentum, "adam": self._adam.state_dict() if self._adam else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for (rows, columns), value in self._momentum.items():
            value.copy_(state["momentum"][f"{rows}x{columns}"])
        if self._adam:
            weights = [weight for group in self._adam.param_groups for weight in group["params"]]
            averages = {
                number: {
                    name: local_shard(value, weights[number]) if value.ndim else value for name, value in kept.items()
                }
                for number, kept in state["adam"]["state"].items()
            }
            self._adam.load_state_dict(state["adam"] | {"state": averages})


def _gradient(weight: nn.Parameter) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad
