"""The elementwise parts of the model as functions, each with the kernel that replaces it on a CPU.

Each function is the definition; the class above it computes the same values in one pass over the memory, and their
gradients in another. `@replaced_by` chooses: see `llm.model.kernels`. The order is that of kernels.c.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, linear, silu

from llm.model.kernels import replaced_by, run

LOGITS_AT_ONCE = 2**21  # elements, so that they are in the cache from their product to their gradient
IGNORED = -100  # the target that no loss counts


class RMSNormKernel(torch.autograd.Function):
    """The kernel of `rms_norm`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x, D = x.contiguous(), x.shape[-1]
        y, scale = torch.empty_like(x), torch.empty(x.numel() // D)
        run("rms_norm", x, None, weight, None, y, scale, x.numel() // D, D, eps)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        dx, dw, D = torch.empty_like(x), torch.empty_like(weight), x.shape[-1]
        run("rms_norm_backward", x, weight, scale, dy.contiguous(), None, dx, dw, x.numel() // D, D)
        return dx, dw, None


@replaced_by(RMSNormKernel)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / rms(x) · weight over the last axis, in float32 inside: (..., D) → the same shape and dtype."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps) * weight).to(x.dtype)


class AddRMSNormKernel(torch.autograd.Function):
    """The kernel of `add_rms_norm`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        x, D = x.contiguous(), x.shape[-1]
        total, y, scale = torch.empty_like(x), torch.empty_like(x), torch.empty(x.numel() // D)
        run("rms_norm", x, added.to(x.dtype).contiguous(), weight, total, y, scale, x.numel() // D, D, eps)
        ctx.save_for_backward(total, weight, scale)
        return total, y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dtotal: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
        total, weight, scale = ctx.saved_tensors
        dx, dw, D = torch.empty_like(total), torch.empty_like(weight), total.shape[-1]
        passed = dtotal.contiguous()
        run("rms_norm_backward", total, weight, scale, dy.contiguous(), passed, dx, dw, total.numel() // D, D)
        return dx, dx, dw, None


@replaced_by(AddRMSNormKernel)
def add_rms_norm(x: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return x + added, and its `rms_norm`, of (..., D)."""
    total = x + added
    return total, rms_norm(total, weight, eps)


class CausalSoftmaxKernel(torch.autograd.Function):
    """The kernel of `causal_softmax`."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, hidden: Tensor | None) -> Tensor:
        scores = scores.contiguous()
        T, S = scores.shape[-2:]
        weights, n = torch.empty_like(scores), scores.numel() // (T * S)
        hidden = None if hidden is None else hidden.contiguous()
        run("causal_softmax", scores, hidden, weights, n, T, 1, S, 1 if hidden is None else n // len(hidden))
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (weights,) = ctx.saved_tensors
        T, S = weights.shape[-2:]
        dx = torch.empty_like(weights)
        run("causal_softmax_backward", weights, dy.contiguous(), dx, weights.numel() // (T * S), T, 1, S)
        return dx, None


@replaced_by(CausalSoftmaxKernel)
def causal_softmax(scores: Tensor, hidden: Tensor | None) -> Tensor:
    """Return the softmax of scores (B, ..., T, S) over the keys that are not after the query; all others weigh 0.

    The T queries are the last of the S positions. `hidden` (B, 1, ..., T, S) is True at further keys to leave out.
    """
    T, S = scores.shape[-2:]
    if T > 1 or hidden is not None:  # the last position has no future
        future = torch.ones(T, S, dtype=torch.bool, device=scores.device).triu(S - T + 1)
        scores = scores.masked_fill(future if hidden is None else future | hidden, float("-inf"))
    # torch sums bfloat16 scores in float32: 8 bits are too few to add up many small weights.
    return scores.softmax(dim=-1)


class SwiGLUKernel(torch.autograd.Function):
    """The kernel of `swiglu`."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        y = torch.empty_like(gate)
        run("swiglu", gate, up, y, y.numel())
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        run("swiglu_backward", gate, up, dy.contiguous(), dgate, dup, dy.numel())
        return dgate, dup


@replaced_by(SwiGLUKernel)
def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) · up of (...): Shazeer 2020, arXiv:2002.05202."""
    return silu(gate) * up


class HeadLossKernel(torch.autograd.Function):
    """The kernel of `head_loss`; the gradient of the logits takes their place in memory."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        rows, ids = hidden.flatten(0, -2), target.flatten().contiguous()
        head = weight.to(rows.dtype)
        n_counted = int((ids != IGNORED).sum())
        assert not len(ids) or int(ids.max()) < len(head)  # C does not check
        trains, (N, V) = any(ctx.needs_input_grad), (len(rows), len(head))
        nats, at_once = torch.empty(N), max(1, LOGITS_AT_ONCE // V)
        logits = torch.empty(N if trains else min(N, at_once), V, dtype=rows.dtype)
        for start in range(0, N, at_once):
            part = slice(start, min(start + at_once, N))
            out = logits[part] if trains else logits[: part.stop - start]
            torch.mm(rows[part], head.T, out=out)
            run(
                "cross_entropy", out, ids[part], out if trains else None, nats[part], len(out), V, 1 / max(n_counted, 1)
            )
        ctx.save_for_backward(rows, head, logits)
        ctx.shape = hidden.shape
        return nats.sum() / n_counted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        rows, head, dlogits = ctx.saved_tensors
        factor = float(dloss)
        dhidden = (dlogits @ head).view(ctx.shape)
        dweight = (dlogits.T @ rows).float()
        return (dhidden, dweight, None) if factor == 1 else (dhidden * factor, dweight * factor, None)


@replaced_by(HeadLossKernel)
def head_loss(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats of the logits hidden · weightᵀ, of hidden (..., D), at target (...)."""
    return next_token_loss(linear(hidden, weight), target)


class HeadScoresKernel(torch.autograd.Function):
    """The kernel of `head_scores`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, ids = hidden.flatten(0, -2), target.flatten().contiguous()
        head = weight.to(rows.dtype)
        N, V, at_once = len(rows), len(head), max(1, LOGITS_AT_ONCE // len(head))
        assert not len(ids) or (ids.min() >= 0 and ids.max() < V)  # C does not check
        nats, top, is_top = torch.empty(N), torch.empty(N), torch.empty(N, dtype=torch.bool)
        for start in range(0, N, at_once):
            part = slice(start, start + at_once)
            logits = rows[part] @ head.T
            run("score_targets", logits, ids[part], nats[part], top[part], is_top[part], len(logits), V)
        ctx.mark_non_differentiable(nats, top, is_top)
        return nats.view(target.shape), top.view(target.shape), is_top.view(target.shape)


@replaced_by(HeadScoresKernel)
def head_scores(hidden: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return nats of targets (...), the top probability, and whether the target has it, of logits hidden · weightᵀ.

    hidden (..., D), weight (V, D). Of equal logits the first counts as the top. It is not differentiable.
    """
    logits = linear(hidden, weight).float()
    highest, first = logits.max(dim=-1)
    log_sum = logits.logsumexp(dim=-1)
    given = logits.gather(-1, target[..., None])[..., 0]
    return log_sum - given, (highest - log_sum).exp(), first == target


def next_token_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits (..., V) at target (...); positions with target -100 are ignored."""
    return cross_entropy(logits.flatten(0, -2).float(), target.flatten(), ignore_index=IGNORED)
