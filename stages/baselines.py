"""Held-out text → bits per byte under compressors and n-gram counts, which a model has to beat."""

from pathlib import Path
from typing import Annotated

from llm.core import stage
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param
from llm.evaluate.baselines import measure_baselines
from llm.evaluate.params import BaselinesParams


def main(
    baselines: Annotated[BaselinesParams, Param("baselines")],
    corpus: Input = Path("data/corpus"),
    windows: Input = Path("data/windows"),
    metrics: Output = Path("metrics/baselines.json"),
    document_bits: Output = Path("data/baselines.parquet"),
) -> None:
    """Measure each baseline on val and test; `document_bits` (Parquet) has the bits of each document."""
    write_json(metrics, measure_baselines(corpus, windows, baselines.train_bytes, document_bits))


if __name__ == "__main__":
    stage.run(main)
