"""Measure how many tokens per second are scored: ours beside Transformers with the same weights.

    python -m bench.evaluate [--quick]

Windows have the whole context of models/export/hf and a stride of half of it. Both models use the machine's precision,
batches of 16 windows, and compute logits only for new tokens. They take turns; `nats` is the mean loss, which has to
be the same.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from tqdm import trange

EXPORT, WINDOWS = Path("models/export/hf"), Path("data/windows")
N_TOKENS, QUICK_TOKENS, N_TURNS, BATCH_SIZE = 250_000, 6_000, 2, 16

Scorer = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.evaluate", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TOKENS:,} tokens, one turn")
    args = parser.parse_args()
    if not (EXPORT / "config.json").exists() or not WINDOWS.exists():
        print(f"none: expected {EXPORT} and {WINDOWS}, run dvc repro export")
        return
    from llm.tokens.windows import read_stream

    stream = read_stream(WINDOWS, "test")[: QUICK_TOKENS if args.quick else N_TOKENS]
    scorers = {"ours": our_scorer(stream), "Transformers": their_scorer(stream)}
    seconds: dict[str, list[float]] = {whose: [] for whose in scorers}
    nats = {}
    for _ in trange(1 if args.quick else N_TURNS, unit=" turns"):
        for whose, score in scorers.items():
            began = time.perf_counter()
            nats[whose] = score()
            seconds[whose].append(time.perf_counter() - began)
    print(f"{len(stream) - 1:,} tokens of test, {torch.get_num_threads()} threads, median of {len(seconds['ours'])}")
    print(f"{'':<14}{'tokens/s':>10}{'× Transformers':>16}{'nats':>9}")
    theirs = statistics.median(seconds["Transformers"])
    for whose, took in seconds.items():
        median = statistics.median(took)
        print(f"{whose:<14}{(len(stream) - 1) / median:>10,.0f}{theirs / median:>16.2f}{nats[whose]:>9.4f}")


def our_scorer(stream: NDArray[np.integer]) -> Scorer:
    """Return the scorer of the stage evaluate."""
    from llm.core.device import Machine
    from llm.evaluate.likelihood import plan_spans, score_tokens
    from llm.export.hf.folder import read_folder

    machine = Machine.find()
    machine.retain_freed_memory()
    model = read_folder(EXPORT).eval()
    length = model.config.context_length
    spans = plan_spans(len(stream), length, length // 2)
    return lambda: float(score_tokens(model, stream, spans, BATCH_SIZE, machine, "ours").nats.mean())


def their_scorer(stream: NDArray[np.integer]) -> Scorer:
    """Return a scorer of the same windows with Transformers' model."""
    from transformers import AutoModelForCausalLM

    from llm.core.device import Machine
    from llm.evaluate.likelihood import plan_spans

    machine = Machine.find()
    model: Any = AutoModelForCausalLM.from_pretrained(EXPORT, dtype=torch.float32, local_files_only=True).eval()
    length = model.config.max_position_embeddings
    first, *rest = plan_spans(len(stream), length, length // 2)

    @torch.no_grad()
    def score() -> float:
        total = 0.0
        for batch in ([first], *(rest[at : at + BATCH_SIZE] for at in range(0, len(rest), BATCH_SIZE))):
            rows = [stream[span.start : span.start + length + 1].astype(np.int64) for span in batch]
            ids = torch.from_numpy(np.stack(rows))
            n_new = length - min(span.first for span in batch)
            with machine.autocast():
                logits = model(ids[:, :-1], use_cache=False, logits_to_keep=n_new).logits
            losses = cross_entropy(logits.float().transpose(1, 2), ids[:, -n_new:], reduction="none")
            total += sum(float(row[span.first - span.last :].sum()) for row, span in zip(losses, batch, strict=True))
        return total / (len(stream) - 1)

    return score


if __name__ == "__main__":
    main()
