"""Time BPE training and encoding of text without word breaks: DNA, Chinese without punctuation, a line of "^".

    python bench/long_runs.py [--sizes 100000 1000000] [--limit 120]

It measures the code in the working directory, so that this file can measure the checkout of another commit:

    cd OTHER_CHECKOUT && python THIS_CHECKOUT/bench/long_runs.py

Each measurement is a process of its own, killed after `--limit` seconds. The last column is the time from Ctrl-C, two
seconds after training began, to the end of the process; "-" if training had ended before.
"""

import argparse
import signal
import subprocess
import sys
import time

KINDS = ("dna", "chinese", "carets", "spaces", "words")
PROGRAM = """
import random, sys, tempfile, time
from pathlib import Path
from llm.tokens.bpe import train_bpe
from llm.tokens.tokenizer import Tokenizer

kind, n, task = sys.argv[1], int(sys.argv[2]), sys.argv[3]
rng = random.Random(0)
text = {
    "dna": lambda: "".join(rng.choices("ACGT", k=n)),
    # A few characters are frequent and most are rare, as in a language.
    "chinese": lambda: "".join(chr(0x4E00 + int(rng.paretovariate(0.5)) % 3000) for _ in range(n)),
    "carets": lambda: "^" * n,
    "spaces": lambda: " " * n,
    "words": lambda: " ".join(rng.choices(["river", "rain", "house", "the", "of"], k=n // 5))[:n],  # to compare with
}[kind]()
learned_from = text if task == "train" else text[:10_000]
print("begins", flush=True)
began = time.perf_counter()
trained = train_bpe([learned_from], 2048, "qwen2")
if task != "train":
    path = Path(tempfile.mkdtemp()) / "tokenizer.json"
    trained.save(str(path))
    tokenizer = Tokenizer.load(path)
    began = time.perf_counter()
    if task == "encode":
        tokenizer.encode(text)
    else:
        tokenizer.encode_with_dropout(text, 0.1, rng)
print(time.perf_counter() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--limit", type=float, default=120.0)
    args = parser.parse_args()
    print(f"{'':>10}{'characters':>12}{'train s':>12}{'encode s':>12}{'dropout s':>12}{'Ctrl-C s':>12}")
    for kind in KINDS:
        for size in args.sizes:
            cells = [seconds(kind, size, task, args.limit) for task in ("train", "encode", "dropout")]
            cells.append(seconds_to_interrupt(kind, size, args.limit))
            print(f"{kind:>10}{size:>12,}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


def seconds(kind: str, size: int, task: str, limit: float) -> str:
    with _begun(kind, size, task) as process:
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"> {limit:.0f}"
    return f"{float(output):.2f}" if process.returncode == 0 else f"failed ({process.returncode})"


def seconds_to_interrupt(kind: str, size: int, limit: float) -> str:
    with _begun(kind, size, "train") as process:
        time.sleep(2)
        if process.poll() is not None:
            return "-"
        process.send_signal(signal.SIGINT)
        began = time.perf_counter()
        try:
            process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"> {limit:.0f}"
        return f"{time.perf_counter() - began:.2f}"


def _begun(kind: str, size: int, task: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, kind, str(size), task]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


if __name__ == "__main__":
    main()
