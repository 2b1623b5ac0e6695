"""Kill pretraining at random moments, let it resume, and compare the bytes with those of an uninterrupted run.

    python -m bench.kills [--runs 10] [--steps 150]

The stage runs in a temporary folder with the code and the windows of this one. Each run is killed one to three times
(SIGKILL to the process group), then runs to its end; weights, metrics and curve have to be the same bytes.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
OUTPUTS = ("models/pretrained/model.safetensors", "metrics/pretrain.json", "plots/pretrain/curve.tsv")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kills", allow_abbrev=False)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=150)
    args = parser.parse_args()
    if not (ROOT / "data" / "windows" / "windows.json").exists():
        print("none: expected data/windows, run dvc repro sample")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        set_up(folder, args.steps)
        expected, seconds = run_to_the_end(folder)
        print(f"uninterrupted: {args.steps} steps, {seconds:.0f} s")
        same = 0
        for seed in range(args.runs):
            clear(folder)
            delays = [random.Random(f"{seed} {n}").uniform(0, seconds) for n in range(1 + seed % 3)]
            for delay in delays:
                kill_after(folder, delay)
            found, _ = run_to_the_end(folder)
            same += found == expected
            print(
                f"run {seed + 1}: killed after {', '.join(f'{d:.1f} s' for d in delays)}; {describe(found, expected)}"
            )
        print(f"{same} of {args.runs} runs end in the same bytes")


def set_up(folder: Path, steps: int) -> None:
    for name in ("llm", "stages", "data"):
        (folder / name).symlink_to(ROOT / name)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["pretrain"] |= {"max_steps": steps, "checkpoint_every_steps": 20, "eval_every_steps": 50}
    yaml.dump(params, folder / "params.yaml")


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def start(folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "stages.pretrain"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=folder, start_new_session=True, **quiet)


def run_to_the_end(folder: Path) -> tuple[dict[str, str], float]:
    """Return the hash of each output, and the seconds."""
    began = time.perf_counter()
    if code := start(folder).wait():
        raise SystemExit(f"stages.pretrain ended with {code}")
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in OUTPUTS}
    return hashes, time.perf_counter() - began


def kill_after(folder: Path, seconds: float) -> None:
    process = start(folder)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def describe(found: dict[str, str], expected: dict[str, str]) -> str:
    differ = [name for name in OUTPUTS if found[name] != expected[name]]
    return f"other bytes in {', '.join(differ)}" if differ else "the same bytes"


if __name__ == "__main__":
    main()
