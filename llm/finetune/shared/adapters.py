"""Methods of finetuning: train everything, the top of a model, or adapters beside frozen weights.

    GPT ──apply_method──► the same, a part of it trainable ──merge──► a plain GPT again

    full             everything
    lora, dora       adapters beside the targets alone
    last_k_blocks    the last k blocks, the final norm, and the head where it is not tied to the embedding
    head             the final norm, and the head where it is not tied to the embedding

The backward pass ends at the lowest weight that is trained.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from llm.core.errors import UserError
from llm.finetune.params import MethodParams
from llm.model.gpt import GPT
from llm.model.layers import Linear

NO_TARGETS = ("given", "recurrent")  # of a GRU, which reads their weights without a call
MIN_NORM = 1e-12  # a row of zeros has no direction and stays zero


def adapted_weight(weight: Tensor, a: Tensor, b: Tensor, scale: float, magnitude: Tensor | None = None) -> Tensor:
    """Return W + scale · B A of W (d_out, d_in), A (rank, d_in), B (d_out, rank): Hu et al. 2021, arXiv:2106.09685.

    With a `magnitude` (d_out,) its rows are rescaled to these norms: DoRA, Liu et al. 2024, arXiv:2402.09353.

    >>> adapted_weight(torch.eye(2), torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0], [1.0]]), 0.5)
    tensor([[1.0000, 0.0000],
            [0.5000, 2.0000]])
    """
    adapted = weight + (scale * b) @ a
    return adapted if magnitude is None else adapted * (magnitude / _row_norms(adapted))[:, None]


def _row_norms(weight: Tensor) -> Tensor:
    return weight.norm(dim=1).clamp_min(MIN_NORM)


def apply_adapted(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, magnitude: Tensor | None = None
) -> Tensor:
    """Apply `adapted_weight` to x (..., d_in) by narrow products; norms are constants for the gradient (DoRA 4.3)."""
    y = linear(x, weight, bias if magnitude is None else None) + linear(linear(x, a), scale * b)
    if magnitude is None:
        return y
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        norm = _row_norms(adapted_weight(weight, a, b, scale))
    # bfloat16 cannot represent a quotient near 1 precisely.
    return (y * (magnitude / norm) + (0.0 if bias is None else bias)).to(y.dtype)


class Adapter(nn.Module):
    """A linear map with an adapter, the same map at first: A is drawn from N(0, 1 / d_in) and B is zero."""

    def __init__(self, replaced: Linear, method: MethodParams, generator: torch.Generator):
        super().__init__()
        d_out, d_in = replaced.weight.shape
        self.scale = method.alpha / method.rank
        self.weight, self.bias = replaced.weight, replaced.bias
        self.a = nn.Parameter(torch.empty(method.rank, d_in).normal_(0, d_in**-0.5, generator=generator))
        self.b = nn.Parameter(torch.zeros(d_out, method.rank))
        self.magnitude = nn.Parameter(replaced.weight.detach().norm(dim=1)) if method.kind == "dora" else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d_in) to (..., d_out)."""
        return apply_adapted(x, self.weight, self.bias, self.a, self.b, self.scale, self.magnitude)

    @torch.no_grad()
    def merged(self) -> Linear:
        """Return one linear map that computes the same."""
        plain = Linear(self.weight.shape[1], self.weight.shape[0])
        weight = adapted_weight(self.weight, self.a, self.b, self.scale, self.magnitude)
        plain.weight, plain.bias = nn.Parameter(weight), self.bias
        return plain


def apply_method(trunk: GPT, method: MethodParams, generator: torch.Generator) -> None:
    """Make only the weights of the method require a gradient, in place on the CPU; `generator` draws adapters.

    Targets that the base's family lacks are ignored. UserError for a method that the base cannot have.
    """
    top: list[nn.Module] = [trunk.norm] if trunk.head.weight is trunk.embedding.weight else [trunk.norm, trunk.head]
    if method.kind == "last_k_blocks":
        if method.k > len(trunk.blocks):
            raise UserError(f"method.k: expected at most the base's {len(trunk.blocks)} blocks, got {method.k}")
        top = [*trunk.blocks[-method.k :], *top]
    if method.kind in ("lora", "dora"):
        _add_adapters(trunk, method, generator)
    elif method.kind != "full":
        trunk.requires_grad_(False)
        for part in top:
            part.requires_grad_(True)


def _linear_maps(trunk: GPT) -> Iterator[tuple[nn.Module, str, str]]:
    """Yield each possible target: the module that holds it, its attribute, its name in `targets`."""
    for block in trunk.blocks:
        for part in block.children():
            for name, child in part.named_children():
                if isinstance(child, Linear) and name not in NO_TARGETS:
                    yield part, name, "output" if name == "out" else name


def _add_adapters(trunk: GPT, method: MethodParams, generator: torch.Generator) -> None:
    maps = list(_linear_maps(trunk))
    chosen = [(part, name, getattr(part, name)) for part, name, target in maps if target in method.targets]
    if not chosen:
        known = ", ".join(dict.fromkeys(target for _, _, target in maps))
        raise UserError(f"method.targets: expected some of the base's {known}, got {', '.join(method.targets)}")
    most = max(min(replaced.weight.shape) for _, _, replaced in chosen)
    if method.rank > most:
        raise UserError(f"method.rank: expected at most {most}, the width of the targets, got {method.rank}")
    trunk.requires_grad_(False)
    for part, name, replaced in chosen:
        setattr(part, name, Adapter(replaced, method, generator))


def merge(model: nn.Module) -> None:
    """Replace adapters by plain linear maps in place, and make all weights require a gradient; logits stay."""
    for part in list(model.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, Adapter):
                setattr(part, name, child.merged())
    model.requires_grad_(True)


def count_trained(model: nn.Module) -> int:
    """Return the number of weights that are trained."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def lr_multipliers(model: nn.Module, decay: float) -> dict[str, float]:
    """Return each weight's multiplier of the learning rate by name: a block's is `decay` times that of the next one.

    Embeddings (a tied head too) are one block below the first: Howard and Ruder 2018, arXiv:1801.06146, section 3.2.
    """
    parts = {name: name.split(".") for name, _ in model.named_parameters()}
    block = {name: int(part[part.index("blocks") + 1]) for name, part in parts.items() if "blocks" in part}
    block |= {name: -1 for name, part in parts.items() if name not in block and {"embedding", "positions"} & {*part}}
    top = max(block.values(), default=0)
    return {name: decay ** (top - block.get(name, top)) for name in parts}
