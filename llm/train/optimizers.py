"""Update weights by gradients: Muon for the matrices inside the blocks and AdamW for the rest, or AdamW for all."""

import math
from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from llm.train.muon import apply, nesterov, orthogonalize
from llm.train.parallel import full_tensor, local_shard
from llm.train.params import OptimizerParams

ADAM_BETAS = (0.9, 0.99)  # the rows of rare tokens have a gradient in few steps
# Momentum grows over the first steps: the first gradients point in very different directions.
MOMENTUM_START, MOMENTUM_END, MOMENTUM_STEPS = 0.85, 0.95, 300


def _split_weights(model: nn.Module) -> tuple[dict[torch.Size, list[nn.Parameter]], list[nn.Parameter]]:
    """Return the trained matrices of the blocks by shape, and all other weights."""
    by_shape, others = defaultdict(list), []
    for name, weight in model.named_parameters():
        if weight.requires_grad and weight.ndim == 2 and "blocks" in name.split("."):
            by_shape[weight.shape].append(weight)
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
        norm = float(full_tensor(nn.utils.get_total_norm([w.grad for w in self.weights if w.grad is not None])))
        if not math.isfinite(norm):
            return norm
        factor = min(1.0, self.params.max_grad_norm / (norm + 1e-6))
        self._step_muon(step, self.params.muon_lr * lr_factor, factor)
        if self._adam is not None:
            for group in self._adam.param_groups:
                group["lr"] = self.params.adamw_lr * lr_factor * group["lr_multiplier"]
                for weight in group["params"]:
                    if factor < 1 and weight.grad is not None:
                        weight.grad.mul_(factor)
            self._adam.step()
        for weight in self.weights:
            weight.grad = None
        return norm

    @torch.no_grad()
    def _step_muon(self, step: int, lr: float, factor: float) -> None:
        momentum = MOMENTUM_START + (MOMENTUM_END - MOMENTUM_START) * min(step / MOMENTUM_STEPS, 1)
        for shape, weights in self._by_shape.items():
            gradients = [full_tensor(torch.zeros_like(w) if w.grad is None else w.grad) for w in weights]
            updates = orthogonalize(nesterov(gradients, self._momentum[shape], momentum, factor, self.dtype))
            lrs = torch.tensor([lr * self._lr_multiplier[weight] for weight in weights])
            # More rows than columns get larger steps, so that an output moves alike whatever the shape.
            rates = lrs * max(1.0, shape[0] / shape[1]) ** 0.5
            apply(weights, updates, 1 - lrs * self.params.weight_decay, rates)

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
