"""How long a training step of params.yaml's model takes: eager and compiled, freed memory given back or kept.

Each setting runs in a process of its own, all in one go; the ratio is to the first row. The machine may be noisy:
medians of the steps after the first ten.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from llm.check import check_params
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.runtime import Machine
from llm.train.language import LanguageLoss
from llm.train.optimizers import Optimizer

SETTINGS = {"eager": (False, False), "eager, memory kept": (False, True), "compiled": (True, False)}
SETTINGS["compiled, memory kept"] = (True, True)
N_STEPS = 40


def measure(compiled: bool, keep_memory: bool) -> tuple[float, float]:
    """Seconds of the first step, and the median of the later ones."""
    params = check_params(Path("params.yaml"))
    machine = Machine.find()
    if keep_memory:
        machine.keep_memory()
    length, batch = params.sample.context_length, params.pretrain.batch_size
    config = ModelConfig(**params.model.model_dump(), vocab_size=params.tokenize.vocab_size, context_length=length)
    drawn = torch.Generator().manual_seed(1)
    model = GPT(config, drawn).to(machine.device)
    loss = LanguageLoss(model, machine, compiled)
    optimizer = Optimizer(model, params.pretrain.optimizer, machine.dtype, machine.device)
    ids = torch.randint(0, config.vocab_size, (batch, length + 1), generator=drawn)
    seconds = []
    for step in range(N_STEPS):
        began = time.perf_counter()
        loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step(step, 1.0)
        seconds.append(time.perf_counter() - began)
    return seconds[0], statistics.median(seconds[10:])


def main() -> None:
    params = check_params(Path("params.yaml"))
    tokens = params.sample.context_length * params.pretrain.batch_size
    print(f"{'setting':<24}{'first step':>12}{'step':>10}{'tokens/s':>12}{'ratio':>8}")
    base = 0.0
    for name, (compiled, keep) in SETTINGS.items():
        command = [sys.executable, "-m", "bench.train_step", str(int(compiled)), str(int(keep))]
        words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        first, step = map(float, words)
        base = base or step
        print(f"{name:<24}{first:>10.1f} s{step * 1000:>7.0f} ms{tokens / step:>12,.0f}{base / step:>8.2f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(*measure(sys.argv[1] == "1", sys.argv[2] == "1"))
    else:
        main()
