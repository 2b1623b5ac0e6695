"""Time one training step: ours beside Transformers' Qwen3 and GPT-2 of the same shape.

    python -m bench.train                 4 layers of 256
    python -m bench.train --default       the shape of params.yaml
    python -m bench.train --gpu-124m      124 million weights, for a GPU
    python -m bench.train --quick --only bfloat16 --only "float32 eager"

A step is forward, backward, clipping and optimizer on the same batch from the same weights; GPT-2's feed-forward
is half as wide again, so that it has as many weights as the gated one. The loss after the last step shows that
rows of one family and optimizer did the same work. Each row runs in processes of its own, which take turns with
the others'. All retain freed memory, as our stages do, except the rows that say otherwise.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from llm.core.device import Machine, matmul_peak

if TYPE_CHECKING:
    from llm.model.gpt import GPT

N_TURNS, N_STEPS, WARMUP_STEPS = 3, 10, 3
OPTIMIZER = {"muon_lr": 0.02, "adamw_lr": 0.001, "weight_decay": 0.0, "max_grad_norm": 1.0}
Step = Callable[[int, Tensor, Tensor], Tensor]  # the step's number, ids and targets → the loss
OURS, QWEN3, GPT2 = "ours", "Qwen3ForCausalLM", "GPT2LMHeadModel"


@dataclass(frozen=True)
class Shape:
    """A model's configuration, as ModelConfig takes it, and the windows per step."""

    model: dict[str, Any]
    batch_size: int

    @property
    def tokens_per_step(self) -> int:
        """Return windows times context length."""
        return self.batch_size * int(self.model["context_length"])


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    whose: str
    dtype: str
    compiled: bool
    optimizer: str = "adamw"
    retains_memory: bool = True

    @property
    def name(self) -> str:
        """Return the setting in words."""
        words = [self.whose, self.dtype, "compiled" if self.compiled else "eager", self.optimizer]
        return " ".join(words if self.retains_memory else [*words, "memory released"])


BASE = Setting(QWEN3, "float32", compiled=False)
MODEL: dict[str, Any] = {"family": "qwen3", "attention": "grouped", "positions": None, "tie_embeddings": False}
MODEL |= {"dropout": 0.0, "rope_theta": 10000.0, "norm_eps": 1e-6}
SMALL = {"d_model": 256, "n_layers": 4, "n_heads": 4, "n_kv_heads": 4, "d_ff": 768, "vocab_size": 1024}
GPU_124M = {"d_model": 768, "n_layers": 12, "n_heads": 12, "n_kv_heads": 12, "d_ff": 2048, "vocab_size": 50304}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.train", allow_abbrev=False)
    shapes = parser.add_mutually_exclusive_group()
    shapes.add_argument("--default", action="store_true", help="the shape of params.yaml")
    shapes.add_argument(
        "--gpu-124m", action="store_true", help="12 layers of 768, vocabulary 50,304, 16 × 1,024 tokens"
    )
    parser.add_argument("--quick", action="store_true", help="one turn of few steps")
    parser.add_argument("--only", action="append", default=[], help="rows with this in their name; can be repeated")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(run_child(json.loads(args.child))))
        return
    shape = default_shape() if args.default else Shape(MODEL | SMALL | {"context_length": 128}, 32)
    if args.gpu_124m:
        shape = Shape(MODEL | GPU_124M | {"context_length": 1024, "tie_embeddings": True}, 16)
    rows = [row for row in settings(Machine.find()) if not args.only or any(word in row.name for word in args.only)]
    if not rows:
        parser.error(f"--only: expected a part of a row's name, such as 'ours bfloat16', got {', '.join(args.only)}")
    n_turns, n_steps = (1, 3) if args.quick else (N_TURNS, N_STEPS)
    report(shape, rows, take_turns(shape, rows, n_turns, n_steps), f"median of {n_turns} × {n_steps} steps")


def default_shape() -> Shape:
    """Return the shape of params.yaml."""
    from llm.commands.check import check_params

    params = check_params(Path("params.yaml"))
    if params.model.family != "qwen3":
        raise SystemExit(f"params.yaml: model.family: expected qwen3, got {params.model.family}")
    data = {"vocab_size": params.tokenize.vocab_size, "context_length": params.sample.context_length}
    return Shape(params.model.model_dump() | data, params.pretrain.batch_size)


def settings(machine: Machine) -> list[Setting]:
    """Return all rows; on a GPU those in bfloat16, and the reference."""
    on_gpu = machine.device == "cuda"
    whose = [(QWEN3, "adamw"), (GPT2, "adamw"), (OURS, "adamw"), (OURS, "muon")]
    dtypes = ["bfloat16"] if on_gpu else ["float32", "bfloat16"]
    found = itertools.product(whose, dtypes, [False, True])
    rows = [
        Setting(name, dtype, compiled, optimizer)
        for (name, optimizer), dtype, compiled in found
        if on_gpu or name != OURS or not compiled  # on a CPU ours has kernels instead
    ]
    if on_gpu:
        return [BASE, *rows]
    return [*rows, *(replace(row, retains_memory=False) for row in (BASE, rows[-2], rows[-1]))]


def take_turns(shape: Shape, rows: list[Setting], n_turns: int, n_steps: int) -> dict[Any, list[dict[str, Any]]]:
    """Return the results of each row's processes, and each precision's peak; a failed row has only the reason."""
    dtypes = sorted({row.dtype for row in rows}, reverse=True)
    jobs: dict[Any, dict[str, Any]] = {dtype: {"peak": dtype} for dtype in dtypes}
    jobs |= {row: {"setting": asdict(row), "shape": asdict(shape), "n_steps": n_steps} for row in rows}
    found: dict[Any, list[dict[str, Any]]] = {key: [] for key in jobs}
    with tqdm(total=n_turns * len(jobs), unit=" runs") as bar:
        for _, (key, job) in itertools.product(range(n_turns), jobs.items()):
            bar.set_description(getattr(key, "name", f"peak {key}"))
            dtype = getattr(key, "dtype", key)
            found[key].append(start_child("bench.train", job, {"GROUNDUP_DTYPE": dtype}))
            bar.update()
    return found


def start_child(module: str, job: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Return the result of `job` in a process of its own, or under `failed` the last line of its error."""
    command = [sys.executable, "-m", module, "--child", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_child(job: dict[str, Any]) -> dict[str, Any]:
    """Return the peak of matrix products, or a row's seconds per step, memory and last loss."""
    machine = Machine.find()
    if "peak" in job:
        return {"peak": matmul_peak(machine)}
    return measure(Setting(**job["setting"]), Shape(**job["shape"]), job["n_steps"], machine)


def measure(setting: Setting, shape: Shape, n_steps: int, machine: Machine) -> dict[str, Any]:
    """Return the seconds of each step after the warm-up, in the machine's precision."""
    if setting.retains_memory:
        machine.retain_freed_memory()
    if setting.whose == GPT2:
        as_many = {"family": "gpt2", "n_kv_heads": shape.model["n_heads"], "d_ff": shape.model["d_ff"] * 3 // 2}
        shape = replace(shape, model=shape.model | as_many)
    gpt, batch = draw(shape, machine)
    flops = gpt.flops_per_token() * shape.tokens_per_step
    step = (our_step if setting.whose == OURS else their_step)(gpt, setting, machine)
    steps = [timed(partial(step, number, *batch), machine) for number in range(WARMUP_STEPS + n_steps)]
    seconds = [second for second, _ in steps[WARMUP_STEPS:]]
    return {"seconds": seconds, "peak_bytes": machine.peak_memory(), "loss": float(steps[-1][1]), "flops": flops}


def draw(shape: Shape, machine: Machine) -> tuple["GPT", tuple[Tensor, Tensor]]:
    """Return a model with random weights on the CPU, and random ids and targets on the device."""
    from llm.model.config import ModelConfig
    from llm.model.gpt import GPT

    drawn = torch.Generator().manual_seed(1)
    gpt = GPT(ModelConfig(**shape.model), drawn)
    size = (shape.batch_size, gpt.config.context_length + 1)
    ids = torch.randint(0, gpt.config.vocab_size, size, generator=drawn).to(machine.device)
    return gpt, (ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


def our_step(gpt: "GPT", setting: Setting, machine: Machine) -> Step:
    """Return the step of `llm.train.loop`."""
    from llm.train.language import LanguageLoss

    gpt.to(machine.device)
    return optimizer_step(gpt, LanguageLoss(gpt, machine, setting.compiled), setting.optimizer, machine)


def optimizer_step(gpt: "GPT", loss_of: Callable[..., Tensor], kind: str, machine: Machine) -> Step:
    """Return a step with an optimizer of its own."""
    from llm.train.optimizers import Optimizer
    from llm.train.params import OptimizerParams

    params = OptimizerParams.model_validate({"kind": kind, **OPTIMIZER})
    optimizer = Optimizer(gpt, params, machine.dtype, machine.device)

    def step(number: int, ids: Tensor, target: Tensor) -> Tensor:
        loss = loss_of(ids, target)
        loss.backward()
        optimizer.step(number, 1.0)
        return loss.detach()

    return step


def their_step(gpt: "GPT", setting: Setting, machine: Machine) -> Step:
    """Return the usual step with Transformers and PyTorch."""
    model = transformers_twin(gpt).to(machine.device).train()
    adam = torch.optim.AdamW(model.parameters(), OPTIMIZER["adamw_lr"], betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def loss_of(ids: Tensor, target: Tensor) -> Tensor:
        with machine.autocast():
            logits = model(input_ids=ids, use_cache=False).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), target.flatten())

    if setting.compiled:
        loss_of = torch.compile(loss_of, dynamic=False)

    def step(number: int, ids: Tensor, target: Tensor) -> Tensor:
        loss = loss_of(ids, target)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["max_grad_norm"])
        adam.step()
        adam.zero_grad()
        return loss.detach()

    return step


def transformers_twin(gpt: "GPT") -> Any:
    """Return Transformers' model of the same family, shape and weights."""
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

    from llm.export.hf.names import to_theirs

    shape = gpt.config
    common: dict[str, Any] = {"vocab_size": shape.vocab_size, "tie_word_embeddings": shape.tie_embeddings}
    common |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if shape.family == "gpt2":
        widths: dict[str, Any] = {
            "n_embd": shape.d_model,
            "n_layer": shape.n_layers,
            "n_head": shape.n_heads,
            "n_inner": shape.d_ff,
        }
        rest: dict[str, Any] = {"n_positions": shape.context_length, "layer_norm_epsilon": shape.norm_eps}
        rest |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        model: Any = GPT2LMHeadModel(GPT2Config(**common, **widths, **rest))
    else:
        assert shape.family == "qwen3"
        widths = {"hidden_size": shape.d_model, "num_hidden_layers": shape.n_layers, "intermediate_size": shape.d_ff}
        widths |= {"num_attention_heads": shape.n_heads, "num_key_value_heads": shape.n_kv_heads}
        rest = {"head_dim": shape.head_dim, "max_position_embeddings": shape.context_length}
        rest |= {"rms_norm_eps": shape.norm_eps, "rope_theta": shape.rope_theta}
        model = Qwen3ForCausalLM(Qwen3Config(**common, **widths, **rest))
    weights = to_theirs(shape.family, shape.n_layers, dict(gpt.named_parameters()))
    differ = model.load_state_dict(weights, strict=False)
    assert not differ.unexpected_keys
    assert set(differ.missing_keys) <= ({"lm_head.weight"} if shape.tie_embeddings else set())
    return model


def timed(run: Callable[[], Tensor], machine: Machine) -> tuple[float, Tensor]:
    """Return the seconds of `run`, on a GPU by its own clock, and its result."""
    if machine.device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        result = run()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1000, result
    began = time.perf_counter()
    result = run()
    machine.synchronize()
    return time.perf_counter() - began, result


def report(shape: Shape, rows: list[Setting], found: dict[Any, list[dict[str, Any]]], how: str) -> None:
    """Print the table; a row whose process failed has the reason only."""
    model, machine = shape.model, Machine.find()
    print(
        f"{model['n_layers']} layers of {model['d_model']}, {model['n_heads']} heads, feed-forward {model['d_ff']}, "
        f"vocabulary {model['vocab_size']:,}, {shape.batch_size} × {model['context_length']:,} tokens a step\n"
        f"{hardware(machine)}, torch {machine.torch_version}; {how}"
    )
    peaks = {key: max(run["peak"] for run in runs) for key, runs in found.items() if isinstance(key, str)}
    for dtype, peak in peaks.items():
        print(f"matrix products in {dtype} reach {peak / 1e9:,.0f} GFLOP/s")
    steps = {row: median_step(found[row]) for row in rows}
    theirs = [step for row, step in steps.items() if row.whose != OURS and not math.isnan(step)]
    fastest = min(theirs, default=math.nan)
    print(f"\n{'':<58}{'ms':>8}{'tokens/s':>11}{'× fastest':>11}{'× float32':>11}{'MB':>8}{'of peak':>9}{'loss':>8}")
    for row, step in steps.items():
        ratios = [fastest / step, steps.get(BASE, math.nan) / step]
        print(f"{row.name:<58}{cells(found[row], step, ratios, shape.tokens_per_step, peaks[row.dtype])}")
    print(f"× fastest: than Transformers' fastest row here; × float32: than {BASE.name}")


def hardware(machine: Machine) -> str:
    return torch.cuda.get_device_name() if machine.device == "cuda" else f"threads: {machine.threads}"


def cells(runs: list[dict[str, Any]], step: float, ratios: list[float], n_tokens: int, peak: float) -> str:
    """Return the figures of a row, or why a run failed."""
    if reason := next((run["failed"] for run in runs if "failed" in run), None):
        return f" failed: {reason}"
    memory, last = max(run["peak_bytes"] for run in runs) / 1e6, runs[-1]
    speed = f"{step * 1000:>8.1f}{n_tokens / step:>11,.0f}{ratios[0]:>11.2f}{ratios[1]:>11.2f}"
    return f"{speed}{memory:>8,.0f}{last['flops'] / step / peak:>9.0%}{last['loss']:>8.3f}"


def median_step(runs: list[dict[str, Any]]) -> float:
    """Return the median seconds of a step, or NaN where a run failed."""
    failed = any("failed" in run for run in runs)
    return math.nan if failed else statistics.median(second for run in runs for second in run["seconds"])


if __name__ == "__main__":
    main()
