"""Work on threads: results in order, the first error, and Ctrl-C in the middle of a library's long call."""

import signal
import subprocess
import sys
import time

import pytest

from llm.core.threads import map_in_threads


def test_results_come_in_the_order_of_the_items() -> None:
    def wait(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    assert map_in_threads(wait, [0.03, 0.0, 0.02, 0.01], n_threads=4) == [0.03, 0.0, 0.02, 0.01]
    assert map_in_threads(wait, [], n_threads=4) == []


def test_an_error_ends_the_work_and_is_raised_here() -> None:
    begun = []

    def fail(number: int) -> None:
        begun.append(number)
        raise ValueError(f"item {number}")

    with pytest.raises(ValueError, match=r"^item 0$"):
        map_in_threads(fail, range(9), n_threads=1)
    assert begun == [0]


TRAIN = "train_bpe(texts(), 60_000, 'qwen2')"
ENCODE = "trained.encode_batch(list(texts()) * 100, n_threads=2)"
PROGRAM = """
import random, sys, tempfile
from pathlib import Path
from llm.tokens.bpe import train_bpe
from llm.tokens.tokenizer import Tokenizer

def texts():
    rng = random.Random(0)
    yield "".join(chr(0x4E00 + rng.randrange(20_000)) for _ in range(1_000_000))

path = Path(tempfile.mkdtemp()) / "tokenizer.json"
train_bpe(["ab"], 300, {pattern!r}).save(str(path))
trained = Tokenizer.load(path)
print("begins", flush=True)
try:
    {call}
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("call", "pattern"), [(TRAIN, "qwen2"), (ENCODE, "qwen2"), (ENCODE, r"\p{L}+")], ids=["train", "encode", "library"]
)
def test_ctrl_c_ends_a_long_call_within_two_seconds(call: str, pattern: str) -> None:
    program = [sys.executable, "-c", PROGRAM.format(call=call, pattern=pattern)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "begins\n"
        time.sleep(1.5)  # the texts are made, and the library works
        assert process.poll() is None, "over before it could be interrupted"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert time.monotonic() - began < 2
        assert process.stdout.read() == "interrupted\n"
