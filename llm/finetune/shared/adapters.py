"""Which weights of a pretrained model loss_on: all of them, the topmost, or narrow matrices beside frozen ones.

    a GPT ──apply_method──► the same in place, a part of it trained ──merge──► a plain GPT again

    full             everything
    lora, dora       adapters beside the targets, and nothing else
    last_k_blocks    the last k blocks and what stands above them
    head             what stands above the blocks: the final norm, and the head where it is not the embedding

Gradients are computed down to the lowest weight that learns and no further: below it autograd has nothing to keep.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from llm.core.errors import UserError
from llm.finetune.params import MethodParams
from llm.model.gpt import GPT
from llm.model.layers import Linear

NO_TARGETS = ("given", "recurrent")  # of a GRU, which takes its weights without calling them
NO_LENGTH = 1e-12  # a row of zeros has no direction, and stays as it is


def lora_weight(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """W + scale · B A of W (d_out, d_in), A (rank, d_in), B (d_out, rank): Hu et al. 2021, arXiv:2106.09685.

    >>> lora_weight(torch.eye(2), torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0], [1.0]]), 0.5)
    tensor([[1.0000, 0.0000],
            [0.5000, 2.0000]])
    """
    return weight + (scale * b) @ a


def dora_weight(weight: Tensor, a: Tensor, b: Tensor, scale: float, length: Tensor) -> Tensor:
    """The rows of `lora_weight`, each brought to a length (d_out,) of its own: Liu et al. 2024, arXiv:2402.09353.

    >>> dora_weight(torch.eye(2), torch.zeros(1, 2), torch.zeros(2, 1), 1.0, torch.tensor([1.0, 3.0]))
    tensor([[1., 0.],
            [0., 3.]])
    """
    turned = lora_weight(weight, a, b, scale)
    return turned * (length / turned.norm(dim=1).clamp_min(NO_LENGTH))[:, None]


def lora(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """What `lora_weight` makes of x (..., d_in), without it: two narrow products, and no gradient of W's size."""
    return linear(x, weight, bias) + linear(linear(x, a), scale * b)


def dora(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, length: Tensor) -> Tensor:
    """What `dora_weight` makes of x (..., d_in); a row's own length is taken as a number (the paper's section 4.3)."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        found = lora_weight(weight, a, b, scale).norm(dim=1).clamp_min(NO_LENGTH)
    y = lora(x, weight, None, a, b, scale)
    # Near 1 the quotient of the lengths has no room in bfloat16.
    return (y * (length / found) + (0.0 if bias is None else bias)).to(y.dtype)


class Adapter(nn.Module):
    """The weights of an adapter, in the place of the linear map beside which it stands; that one's keep their names.

    A is drawn from N(0, 1 / d_in) and B is zero, so that at first it computes what the linear map does.
    """

    def __init__(self, replaced: Linear, method: MethodParams, generator: torch.Generator):
        super().__init__()
        d_out, d_in = replaced.weight.shape
        self.scale = method.alpha / method.rank
        self.weight, self.bias = replaced.weight, replaced.bias
        self.a = nn.Parameter(torch.empty(method.rank, d_in).normal_(0, d_in**-0.5, generator=generator))
        self.b = nn.Parameter(torch.zeros(d_out, method.rank))
        self.length = nn.Parameter(replaced.weight.detach().norm(dim=1)) if method.kind == "dora" else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) → (..., d_out)."""
        if self.length is None:
            return lora(x, self.weight, self.bias, self.a, self.b, self.scale)
        return dora(x, self.weight, self.bias, self.a, self.b, self.scale, self.length)

    @torch.no_grad()
    def merged(self) -> Linear:
        """The linear map that computes the same."""
        plain = Linear(self.weight.shape[1], self.weight.shape[0])
        if self.length is None:
            weight = lora_weight(self.weight, self.a, self.b, self.scale)
        else:
            weight = dora_weight(self.weight, self.a, self.b, self.scale, self.length)
        plain.weight, plain.bias = nn.Parameter(weight), self.bias
        return plain


def apply_method(trunk: GPT, method: MethodParams, generator: torch.Generator) -> None:
    """Change a trunk on the CPU in place so that only what the method trains requires a gradient.

    `generator` draws the adapters. Targets that the base's family lacks are passed over. UserError names the key
    where it has none of them, all are narrower than the rank, or there are fewer than k blocks.
    """
    match method.kind:
        case "full":
            pass
        case "head":
            _train_only(trunk, _above_blocks(trunk))
        case "last_k_blocks":
            if method.k > len(trunk.blocks):
                raise UserError(f"method.k: wanted at most the base's {len(trunk.blocks)} blocks, given {method.k}")
            _train_only(trunk, [*trunk.blocks[-method.k :], *_above_blocks(trunk)])
        case "lora" | "dora":
            places = list(_linear_maps(trunk))
            chosen = [(parent, name) for parent, name, target in places if target in method.targets]
            if not chosen:
                there, given = (", ".join(dict.fromkeys(names)) for names in ((p[2] for p in places), method.targets))
                raise UserError(f"method.targets: wanted one or more of the base's {there}, given {given}")
            most = max(min(getattr(parent, name).weight.shape) for parent, name in chosen)
            if method.rank > most:
                raise UserError(f"method.rank: expected at most {most}, the width of the targets, got {method.rank}")
            _train_only(trunk, [])
            for parent, name in chosen:
                setattr(parent, name, Adapter(getattr(parent, name), method, generator))


def _train_only(trunk: GPT, parts: Iterable[nn.Module]) -> None:
    trunk.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)


def _above_blocks(trunk: GPT) -> list[nn.Module]:
    tied = trunk.head.weight is trunk.embedding.weight
    return [trunk.norm] if tied else [trunk.norm, trunk.head]


def _linear_maps(trunk: GPT) -> Iterator[tuple[nn.Module, str, str]]:
    """Each map that can be a target: what it is a part of, its name there, its name among the targets."""
    for block in trunk.blocks:
        for part in block.children():
            for name, child in part.named_children():
                if isinstance(child, Linear) and name not in NO_TARGETS:
                    yield part, name, "output" if name == "out" else name


def merge(trunk: GPT) -> None:
    """Change a trunk in place into a plain GPT, all of whose weights require a gradient; logits stay."""
    for part in list(trunk.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, Adapter):
                setattr(part, name, child.merged())
    trunk.requires_grad_(True)


def count_trained(model: nn.Module) -> int:
    """How many weights learn."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def lr_multipliers(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Each weight's share of the full rate, by name: a block's is `layer_decay` times that of the block above it.

    The top block has 1, as has all that stands above it; what stands below the blocks (a tied head too) has that of
    one block more. A model without blocks has 1 everywhere. Howard and Ruder 2018, arXiv:1801.06146, section 3.2.
    """
    parts = {name: name.split(".") for name, _ in model.named_parameters()}
    block = {name: int(part[part.index("blocks") + 1]) for name, part in parts.items() if "blocks" in part}
    n_layers = 1 + max(block.values(), default=-1)
    below = {name: -1 for name, part in parts.items() if {"embedding", "positions"} & {*part}}
    return {name: layer_decay ** (n_layers - 1 - (below | block).get(name, n_layers - 1)) for name in parts}
