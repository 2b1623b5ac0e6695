"""Run one text through the stages in a temporary folder: seconds of each, bits per byte of its last tenth.

    python -m bench.shakespeare tinyshakespeare.txt                 the steps of bench/shakespeare.yaml
    python -m bench.shakespeare tinyshakespeare.txt --long          3,000 steps
    python -m bench.shakespeare tinyshakespeare.txt --seconds 150   about so many seconds of steps, by their speed here
    python -m bench.shakespeare tinyshakespeare.txt --quick         a few steps, to see that it runs

Every byte of the held-out tenth counts, each after at least three quarters of a context.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from llm.core.device import Machine
from llm.experiments.timing import measure_step
from llm.model.config import ModelConfig
from llm.train.params import OptimizerParams

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "bench" / "shakespeare.yaml"
LONG_STEPS = 3000
# A text that is read many times is cut anew in each epoch, and dropout keeps the model from memorizing it: from so many
# steps on.
DROPOUT = ((2500, 0.2), (1200, 0.1))
MOST_SEGMENTATIONS, BYTES_PER_TOKEN = 24, 3.0
STAGES = ("prepare", "tokenize", "sample", "pretrain", "baselines", "evaluate")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.shakespeare", allow_abbrev=False)
    parser.add_argument("text", type=Path, metavar="TEXT", help="a text file")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--seconds", type=float, help="of training steps, instead of pretrain.max_steps")
    budget.add_argument("--long", action="store_true", help="more steps, ways to cut the text, and dropout")
    budget.add_argument("--quick", action="store_true", help="a few steps of a small model")
    args = parser.parse_args()
    if not args.text.is_file():
        parser.error(f"TEXT: expected a text file, got {args.text}")
    if args.seconds is not None and not args.seconds > 0:
        parser.error(f"--seconds: expected more than 0, got {args.seconds}")
    params = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))
    if args.quick:
        params["pretrain"] |= {"max_steps": 10, "compile": "never"}
        params["model"] |= {"d_model": 64, "n_heads": 1, "n_kv_heads": 1, "d_ff": 128}
        params["tokenize"]["segmentations"] = 1
    if args.long:
        params["pretrain"]["max_steps"] = LONG_STEPS
    if args.seconds:
        params["model"]["dropout"] = 0.1  # costs time
        params["pretrain"]["max_steps"] = max(1, round(args.seconds / seconds_a_step(params)))
    if not args.quick:
        regularize(params, args.text.stat().st_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        set_up(folder, params, args.text)
        report(args.text, params, folder, run_stages(folder, STAGES))


def regularize(params: dict[str, Any], n_bytes: int) -> None:
    """Set dropout and segmentations by the number of steps and epochs."""
    n_steps = params["pretrain"]["max_steps"]
    tokens = n_steps * params["pretrain"]["batch_size"] * params["sample"]["context_length"]
    params["model"]["dropout"] = next((dropout for steps, dropout in DROPOUT if n_steps >= steps), 0.0)
    params["tokenize"]["segmentations"] = min(MOST_SEGMENTATIONS, math.ceil(tokens * BYTES_PER_TOKEN / n_bytes))


def seconds_a_step(params: dict[str, Any]) -> float:
    """Return the time of a training step on this machine."""
    data = {"vocab_size": params["tokenize"]["vocab_size"], "context_length": params["sample"]["context_length"]}
    optimizer, n_windows = OptimizerParams(**params["pretrain"]["optimizer"]), params["pretrain"]["batch_size"]
    config = ModelConfig(**params["model"], **data)
    return measure_step(config, optimizer, n_windows, Machine.find()).seconds(n_windows)


def set_up(folder: Path, params: dict[str, Any], text: Path | None = None) -> None:
    """Write params, and a text where one is given, into a folder in which stages can run."""
    for inner in ("data/raw", "data/given"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    if text:
        shutil.copyfile(text, folder / "data/raw/text.txt")
    shutil.copyfile(ROOT / "requirements.lock", folder / "requirements.lock")
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(params, file)


def run_stages(folder: Path, stages: Sequence[str]) -> dict[str, float]:
    """Run stages in `folder`, each in a process of its own that prints to stderr; return their seconds."""
    seconds = {}
    for stage in stages:
        began = time.perf_counter()
        done = subprocess.run(command_of(stage), cwd=folder, env=stage_environment(), stdout=sys.stderr, check=False)
        seconds[stage] = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(done.returncode)
    return seconds


def command_of(stage: str) -> list[str]:
    """Return the command of a stage with its default paths, with this Python."""
    return [sys.executable, "-m", f"stages.{stage}"]


def stage_environment() -> dict[str, str]:
    """Return an environment in which a stage in another folder finds this project."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def report(text: Path, params: dict[str, Any], folder: Path, seconds: dict[str, float]) -> None:
    files = ("metrics/pretrain.json", "metrics/baselines.json", "metrics/evaluate.json", "data/windows/windows.json")
    trained, baselines, scored, windows = (json.loads((folder / file).read_text(encoding="utf-8")) for file in files)
    kept = windows["n_bytes"]
    print(f"{text}: {text.stat().st_size:,} bytes, {kept['train']:,} to learn from, {kept['val']:,} held out")
    for stage, took in (seconds | {"all": sum(seconds.values())}).items():
        print(f"  {stage:<12}{took:8.1f} s")
    tokens = params["pretrain"]["batch_size"] * params["sample"]["context_length"]
    print(f"{params['pretrain']['max_steps']:,} steps of {tokens:,} tokens, {trained['epochs']:.2f} epochs")
    val = scored["val"]["model"]
    bits = val["bits_per_byte"]
    print(f"held out: {bits:.4f} bits per byte ({bits * math.log(2):.4f} nats), {val['tokens']:,} tokens")
    print("baselines: " + ", ".join(f"{name} {of['bits_per_byte']:.4f}" for name, of in baselines["val"].items()))


if __name__ == "__main__":
    main()
