"""Measure training beside other work: tokens per second alone, and beside one and two busy processes.

    python -m bench.neighbours                      OpenMP's default and what the stages set; about six minutes
    python -m bench.neighbours --spin 0 1000 10000  these values of GOMP_SPINCOUNT as well
    python -m bench.neighbours --turns 1 --seconds 3

A step is that of pretraining in the shape of params.yaml, with its kernels. Each figure is the median of
several processes; the settings take turns, so that a drift of the machine affects all of them. Run it on an otherwise
idle machine.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from llm.core.threads import SPIN

NEIGHBOURS = (0, 1, 2)
OURS = {"default": {}, "stages": SPIN}
WARMUP_STEPS, FEWEST_STEPS = 3, 3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.neighbours", allow_abbrev=False)
    parser.add_argument("--turns", type=int, default=2, help="measurements of each figure")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--spin", nargs="*", default=[], help="more values of GOMP_SPINCOUNT")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(tokens_per_second(args.seconds)))
        return
    settings: dict[str, dict[str, str]] = OURS | {f"spin {spin}": {"GOMP_SPINCOUNT": spin} for spin in args.spin}
    start_child({}, 0.0)  # builds the kernels, so that no measurement has to
    jobs = list(itertools.product(range(args.turns), NEIGHBOURS, settings))
    found: dict[tuple[str, int], list[float]] = {}
    for _, neighbours, name in tqdm(jobs, unit=" runs"):
        with busy_processes(neighbours):
            found.setdefault((name, neighbours), []).append(start_child(settings[name], args.seconds))
    report(settings, found)


def start_child(setting: dict[str, str], seconds: float) -> float:
    """Return tokens per second of a process with these variables and no other ones of OpenMP."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    command = [sys.executable, "-m", "bench.neighbours", "--child", "--seconds", str(seconds)]
    done = subprocess.run(command, env=kept | setting, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Run processes that each keep a core busy."""
    work = f"import os\nwhile os.getppid() == {os.getpid()}: pass"  # and so none outlives this process
    started = [subprocess.Popen([sys.executable, "-c", work]) for _ in range(number)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def tokens_per_second(seconds: float) -> float:
    """Return the training speed of this process after a warm-up."""
    from bench.train import OURS as OUR_STEP
    from bench.train import Setting, default_shape, draw, our_step
    from llm.core.device import Machine

    machine = Machine.find()
    machine.retain_freed_memory()
    shape = default_shape()
    gpt, batch = draw(shape, machine)
    setting = Setting(OUR_STEP, machine.matmul_dtype, compiled=False, optimizer="muon")
    step = our_step(gpt, setting, machine)
    for number in range(WARMUP_STEPS):
        step(number, *batch).item()
    began, done = time.perf_counter(), 0
    while done < FEWEST_STEPS or time.perf_counter() - began < seconds:
        step(WARMUP_STEPS + done, *batch).item()
        done += 1
    return done * shape.tokens_per_step / (time.perf_counter() - began)


def report(settings: dict[str, dict[str, str]], found: dict[tuple[str, int], list[float]]) -> None:
    """Print a row per setting, relative to the default and to the setting's own speed alone."""
    median = {key: statistics.median(values) for key, values in found.items()}
    print(f"tokens/s, {os.cpu_count()} cores; each neighbour keeps a core busy")
    print(f"{'':<14}{'variables':<26}{'alone':>9}{'of default':>12}", end="")
    print("".join(f"{f'beside {number}':>10}{'of alone':>10}" for number in NEIGHBOURS[1:]))
    for name, variables in settings.items():
        words = " ".join(f"{key}={value}" for key, value in variables.items()) or "none"
        alone = median[name, 0]
        print(f"{name:<14}{words:<26}{alone:>9,.0f}{alone / median['default', 0]:>12.1%}", end="")
        print("".join(f"{median[name, n]:>10,.0f}{median[name, n] / alone:>10.1%}" for n in NEIGHBOURS[1:]))


if __name__ == "__main__":
    main()
