"""Update weights by gradients: Muon for the matrices inside the blocks and AdamW for the rest, or AdamW for all.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces a matrix's momentum by the nearest orthogonal
matrix, so that every direction of it learns, not only the few that dominate the gradient. Matrices of one shape are
one batch.
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
# Momentum grows over the first steps: the first gradients point in very different directions.
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


def _split_weights(model: nn.Module) -> tuple[dict[tuple[int, ...], list[nn.Parameter]], list[nn.Parameter]]:
    """Return the trained matrices of the blocks, by shape with the smaller side first, and all other weights."""
    by_shape, others = defaultdict(list), []
    for name, weight in model.named_parameters():
        if weight.requires_grad and weight.ndim == 2 and "blocks" in name.split("."):
            by_shape[tuple(sorted(weight.shape))].append(weight)
        elif weight.requires_grad:
            others.append(weight)
    return dict(by_shape), others


class Optimizer:
    """Muon and AdamW, or AdamW alone, behind one `step`; `lr_multipliers` are by a weight's name, 1 where missing."""

    def __init__(
        self,
        model: nn.Module,
        params: OptimizerParams,
        dtype: torch.dtype,
        device: str,
        lr_multipliers: Mapping[str, float] = MappingProxyType({}),
    ):
        self.params, self.dtype = params, dtype
        self._lr_multiplier = {weight: lr_multipliers.get(name, 1.0) for name, weight in model.named_parameters()}
        by_shape, others = _split_weights(model)
        matrices = [weight for weights in by_shape.values() for weight in weights]
        self.weights = matrices + others
        self._by_shape = by_shape if params.kind == "muon" else {}
        self._momentum = {shape: torch.zeros(len(of), *shape, device=device) for shape, of in self._by_shape.items()}
        decayed = [] if params.kind == "muon" else matrices
        groups = [*self._groups(decayed, params.weight_decay), *self._groups(others, 0.0)]
        self._adam = torch.optim.AdamW(groups, lr=params.adamw_lr, betas=ADAM_BETAS, fused=True) if groups else None

    def _groups(self, weights: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
        by_multiplier = defaultdict(list)
        for weight in weights:
            by_multiplier[self._lr_multiplier[weight]].append(weight)
        return [
            {"params": members, "weight_decay": weight_decay, "lr_multiplier": multiplier}
            for multiplier, members in by_multiplier.items()
        ]

    def step(self, step: int, lr_factor: float) -> float:
        """Update the weights, free the gradients and return their norm; where that is not finite, change nothing."""
        norm = float(full_tensor(nn.utils.clip_grad_norm_(self.weights, self.params.max_grad_norm)))
        if not math.isfinite(norm):
            return norm
        self._step_muon(step, self.params.muon_lr * lr_factor)
        if self._adam is not None:
            for group in self._adam.param_groups:
                group["lr"] = self.params.adamw_lr * lr_factor * group["lr_multiplier"]
            self._adam.step()
        for weight in self.weights:
            weight.grad = None
        return norm

    @torch.no_grad()
    def _step_muon(self, step: int, lr: float) -> None:
        momentum = MOMENTUM_START + (MOMENTUM_END - MOMENTUM_START) * min(step / MOMENTUM_STEPS, 1)
        for shape, weights in self._by_shape.items():
            # Tall matrices are transposed, so that the products in orthogonalize are of the smaller side.
            is_wide = [weight.shape == shape for weight in weights]
            full = [full_tensor(torch.zeros_like(w) if w.grad is None else w.grad) for w in weights]
            gradient = torch.stack([g if wide else g.T for g, wide in zip(full, is_wide, strict=True)])
            average = self._momentum[shape]
            average.lerp_(gradient, 1 - momentum)
            update = orthogonalize(gradient.lerp_(average, momentum), self.dtype)
            for weight, wide, change in zip(weights, is_wide, update, strict=True):
                # More rows than columns get larger steps, so that an output moves alike whatever the shape.
                scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight_lr = lr * self._lr_multiplier[weight]
                weight.mul_(1 - weight_lr * self.params.weight_decay)
                weight.add_(local_shard(change if wide else change.T, weight), alpha=-weight_lr * scale)

    def state_dict(self) -> dict[str, Any]:
        """Return Muon's momentum and AdamW's state."""
        return {"momentum": list(self._momentum.values()), "adam": self._adam.state_dict() if self._adam else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`, with full tensors."""
        for momentum, value in zip(self._momentum.values(), state["momentum"], strict=True):
            momentum.copy_(value)
        if self._adam:
            weights = [weight for group in self._adam.param_groups for weight in group["params"]]
            averages = {
                number: {key: local_shard(value, weights[number]) if value.ndim else value for key, value in of.items()}
                for number, of in state["adam"]["state"].items()
            }
            self._adam.load_state_dict(state["adam"] | {"state": averages})
