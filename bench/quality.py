"""Seconds that evaluation spends on text quality: the texts are written, and measured beside the true ones.

    python -m bench.quality [--quick]

The stage's own work with models/pretrained and the corpus, on the machine's threads. `words` is the part that looks
for words in the training text; `peak` is the memory of the process, in MB.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

MODEL, WINDOWS, TOKENS = Path("models/pretrained"), Path("data/windows"), Path("data/tokens")
CORPUS, TOKENIZER = Path("data/corpus/train.parquet"), Path("data/tokenizer/tokenizer.json")
N_TURNS, QUICK_TEXTS = 3, 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.quality", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TEXTS} texts, one turn")
    given = parser.parse_args()
    if not all(path.exists() for path in (MODEL, WINDOWS, TOKENS, CORPUS, TOKENIZER)):
        print("none: expected a trained model and its corpus, run dvc repro pretrain")
        return
    from llm.core import params
    from llm.core.device import Machine
    from llm.core.tables import read_table
    from llm.evaluate.continuations import continue_held_out
    from llm.evaluate.measure import HeldOut
    from llm.evaluate.params import QualityParams
    from llm.evaluate.quality import words_not_in
    from llm.model.weights import load_model
    from llm.tokens.tokenizer import Tokenizer
    from llm.tokens.windows import read_info, read_stream

    machine = Machine.find()
    machine.retain_freed_memory()
    settings = params.find(params.read(Path("params.yaml")), "evaluate.quality", Path("params.yaml"))
    quality = QualityParams(**(settings | ({"texts": QUICK_TEXTS} if given.quick else {})))
    table = read_table(TOKENS / "test.parquet", ["source", "path"])
    sources, paths = (table.column(name).to_pylist() for name in ("source", "path"))
    nothing = np.zeros(0, dtype=np.int64)
    end_of_text, stream = read_info(WINDOWS).end_of_text, read_stream(WINDOWS, "test")
    text = HeldOut("test", stream, end_of_text, sources, paths, nothing, nothing, 0, nothing.astype(bool))
    model, tokenizer = load_model(MODEL).to(machine.device), Tokenizer.load(TOKENIZER)
    seconds: dict[str, list[float]] = {"whole": [], "words": []}
    for _ in range(1 if given.quick else N_TURNS):
        began = time.perf_counter()
        figures, _ = continue_held_out(model, tokenizer, [text], quality, _train(), seed=1)
        seconds["whole"].append(time.perf_counter() - began)
        began = time.perf_counter()
        words_not_in(["no word\0"], _train())
        seconds["words"].append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{figures.get('texts', 0)} texts, {torch.get_num_threads()} threads, median of {len(seconds['whole'])}")
    print(f"{'whole s':>10}{'words s':>10}{'peak':>8}")
    print(*(f"{statistics.median(took):>9.2f}" for took in seconds.values()), f"{peak:>7,.0f}")


def _train() -> Iterator[str]:
    """The texts of train, as the stage reads them."""
    from llm.core.tables import iterate_rows

    return (row["text"] for row in iterate_rows(CORPUS, ["text"]))


if __name__ == "__main__":
    main()
