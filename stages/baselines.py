"""The held-out text under compressors and n-gram counts: what a model has to beat. Knows no model."""

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

from tqdm import tqdm

from llm import stage
from llm.evaluate.baselines import bits_per_byte, bzip2_size, uniform_bits, xz_size, zstd_size
from llm.evaluate.kneser_ney import count_ngrams, token_nats
from llm.evaluate.params import BaselinesParams
from llm.stage import Input, Output, Param
from llm.text.tables import iterate_rows
from llm.text.windows import read_info, read_stream

GIVEN_TRAIN: dict[str, Callable[[bytes], int]] = {"xz": xz_size, "zstd": zstd_size}
COMPRESSORS = GIVEN_TRAIN | {"bzip2": bzip2_size}  # its blocks are too small to be given a training text
ORDERS = {"kneser_ney_5gram": 5, "unigram": 1}


def main(
    baselines: Annotated[BaselinesParams, Param("baselines")], corpus: Input, windows: Input, metrics: Output
) -> None:
    """Bits per byte of val and test, for each baseline alone and given the training text, or the first part of it."""
    texts = {
        split: "".join(row["text"] for row in iterate_rows(corpus / f"{split}.parquet", ["text"])).encode()
        for split in ("train", "val", "test")
    }
    n_bytes = min(baselines.train_bytes or len(texts["train"]), len(texts["train"]))
    fraction = n_bytes / max(len(texts["train"]), 1)
    report = _compress(texts | {"train": texts["train"][:n_bytes]})
    for split, scores in _count(windows, list(report), fraction).items():
        report[split] |= {name: bits_per_byte(n_bits, len(texts[split])) for name, n_bits in scores.items()}
    stage.write_json(metrics, report)


def _compress(texts: dict[str, bytes]) -> dict[str, dict[str, float]]:
    """Bits per byte of each held-out text that is not empty, by compressor."""
    held_out = [split for split in ("val", "test") if texts[split]]
    report: dict[str, dict[str, float]] = {split: {} for split in held_out}
    # The compressors let go of Python's lock: two of them work at once.
    with ThreadPoolExecutor() as pool:
        train = {name: pool.submit(size, texts["train"]) for name, size in GIVEN_TRAIN.items() if held_out}
        jobs: dict[tuple[str, str], Future[int]] = {}
        for split in held_out:
            for name, size in GIVEN_TRAIN.items():
                jobs[split, f"{name}_given_train"] = pool.submit(size, texts["train"] + texts[split])
            for name, size in COMPRESSORS.items():
                jobs[split, name] = pool.submit(size, texts[split])
        for (split, name), job in tqdm(jobs.items(), desc="compress", unit=" texts"):
            base = train[name.removesuffix("_given_train")].result() if name.endswith("_given_train") else 0
            report[split][name] = bits_per_byte(8 * (job.result() - base), len(texts[split]))
    return report


def _count(windows: Path, held_out: list[str], fraction: float) -> dict[str, dict[str, float]]:
    """Bits of each held-out stream of tokens: by counts of n-grams in a fraction of train, and by chance."""
    train = read_stream(windows, "train")
    train = train[: math.ceil(fraction * len(train))]
    vocab_size = read_info(windows).vocab_size
    report: dict[str, dict[str, float]] = {split: {} for split in held_out}
    for name, order in ORDERS.items() if held_out else ():
        orders = count_ngrams(train, order, vocab_size)
        for split in held_out:
            nats = token_nats(orders, read_stream(windows, split), vocab_size)
            report[split][name] = float(nats.sum()) / math.log(2)
    for split in held_out:
        report[split]["uniform"] = uniform_bits(len(read_stream(windows, split)) - 1, vocab_size)
    return report


if __name__ == "__main__":
    stage.run(main)
