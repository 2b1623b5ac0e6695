"""The held-out text under compressors and n-gram counts: what a model has to beat. Knows no model."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from tqdm import tqdm

from llm import stage
from llm.evaluate.baselines import NGrams, bits_per_byte, xz_size, zstd_size
from llm.stage import Input, Output
from llm.text.tables import iterate_rows
from llm.text.windows import read_info, read_stream

COMPRESSORS: dict[str, Callable[[bytes], int]] = {"xz": xz_size, "zstd": zstd_size}


def main(corpus: Input, windows: Input, metrics: Output) -> None:
    """Bits per byte of val and test, for each baseline alone and given the training text."""
    texts = {
        split: "".join(row["text"] for row in iterate_rows(corpus / f"{split}.parquet", ["text"])).encode()
        for split in ("train", "val", "test")
    }
    held_out = [split for split in ("val", "test") if texts[split]]
    report: dict[str, dict[str, float]] = {split: {} for split in held_out}
    # The compressors let go of Python's lock: two of them work at once.
    with ThreadPoolExecutor() as pool:
        alone = {name: pool.submit(size, texts["train"]) for name, size in COMPRESSORS.items() if held_out}
        jobs: dict[tuple[str, str], Future[int]] = {}
        for split in held_out:
            for name, size in COMPRESSORS.items():
                jobs[split, f"{name}_given_train"] = pool.submit(size, texts["train"] + texts[split])
                jobs[split, name] = pool.submit(size, texts[split])
        for (split, name), job in tqdm(jobs.items(), desc="compress", unit=" texts"):
            base = alone[name.removesuffix("_given_train")].result() if name.endswith("_given_train") else 0
            report[split][name] = bits_per_byte(job.result() - base, len(texts[split]))
    if held_out:
        vocab_size = read_info(windows).vocab_size
        for name, order in (("trigram", 3), ("unigram", 1)):
            model = NGrams(read_stream(windows, "train"), order, vocab_size)
            for split in held_out:
                report[split][name] = model.bits_per_byte(read_stream(windows, split), len(texts[split]))
    stage.write_json(metrics, report)


if __name__ == "__main__":
    stage.run(main)
