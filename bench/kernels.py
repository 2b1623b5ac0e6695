"""Time each kernel beside the torch function that it replaces, as it is and compiled by inductor.

    python -m bench.kernels [--quick]

Values and gradients of one call on the shapes of params.yaml, in the machine's precision; the median of calls that take
turns. The fourth column is the inductor's time over the kernel's.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import trange

N_CALLS, QUICK_CALLS, WARMUP_CALLS = 60, 3, 3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_CALLS} calls")
    args = parser.parse_args()
    from llm.core.device import Machine
    from llm.model.kernels import library

    machine = Machine.find()
    machine.retain_freed_memory()
    if library() is None:
        return
    n_calls = QUICK_CALLS if args.quick else N_CALLS
    print(
        f"threads: {machine.threads}, {machine.matmul_dtype}, torch {machine.torch_version}; median of {n_calls} calls"
    )
    print(f"{'ms':<34}{'kernel':>9}{'torch':>9}{'inductor':>9}{'ratio':>8}")
    for name, (function, plain, *given) in cases(machine.dtype).items():
        compiled = torch.compile(plain, dynamic=False)
        took = take_turns([function, plain, compiled], given, n_calls, name, machine)
        print(f"{name:<34}" + "".join(f"{ms:>9.2f}" for ms in took) + f"{took[2] / took[0]:>8.2f}")


def cases(dtype: torch.dtype) -> dict[str, tuple[Callable[..., Any], Callable[..., Any], Any]]:
    """Return the kernel, the torch function and the arguments of each operation."""
    from llm.commands.check import check_params
    from llm.model.attention import Attention
    from llm.model.config import ModelConfig
    from llm.model.functions import add_rms_norm, causal_softmax, head_loss, rms_norm, swiglu
    from llm.model.positions import rope_table

    params = check_params(Path("params.yaml"))
    T, B, V = params.sample.context_length, params.pretrain.batch_size, params.tokenize.vocab_size
    config = ModelConfig(**params.model.model_dump(), vocab_size=V, context_length=T)
    D, F, H, C = config.d_model, config.d_ff, config.n_query_heads, config.head_dim

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape).to(dtype).requires_grad_()

    weight, target = torch.ones(D).requires_grad_(), torch.randint(V, (B, T))
    attention = Attention(config)
    with torch.no_grad():
        for matrix in (attention.query, attention.key, attention.value, attention.out):
            matrix.weight.normal_(0, 1 / math.sqrt(D))
    rotation = rope_table(T, C, config.rope_theta)
    head = torch.randn(V, D).mul(0.02).requires_grad_()
    return {
        "rms_norm": (rms_norm, rms_norm.__wrapped__, draw(B, T, D), weight, 1e-6),
        "add_rms_norm": (add_rms_norm, add_rms_norm.__wrapped__, draw(B, T, D), draw(B, T, D), weight, 1e-6),
        "causal_softmax": (causal_softmax, causal_softmax.__wrapped__, draw(B, H, T, T), None),
        "swiglu": (swiglu, swiglu.__wrapped__, draw(B, T, F), draw(B, T, F)),
        "attention, with its products": (attention, without_kernels(attention), draw(B, T, D), rotation),
        "head and loss, with its products": (head_loss, head_loss.__wrapped__, draw(B, T, D), head, target),
    }


def without_kernels(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with the kernels disabled while it runs."""
    from llm.model import kernels

    def run(*given: Any) -> Any:
        library, kernels.library = kernels.library, lambda: None
        try:
            return function(*given)
        finally:
            kernels.library = library

    return run


def take_turns(
    functions: list[Callable[..., Any]], given: list[Any], n_calls: int, name: str, machine: Any
) -> list[float]:
    """Return the median milliseconds of value and gradients of each function."""
    seconds: list[list[float]] = [[] for _ in functions]
    for turn in trange(WARMUP_CALLS + n_calls, desc=name, unit=" calls", leave=False):
        for function, took in zip(functions, seconds, strict=True):
            began = time.perf_counter()
            with machine.autocast():
                result = function(*given)
            outs = result if isinstance(result, tuple) else (result,)
            torch.autograd.backward(outs, [torch.ones_like(out) for out in outs])
            if turn >= WARMUP_CALLS:
                took.append(time.perf_counter() - began)
    return [1000 * statistics.median(took) for took in seconds]


if __name__ == "__main__":
    main()
