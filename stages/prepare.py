"""Sources in params.yaml → documents of cleaned text, without duplicates, split into train, val and test."""

from pathlib import Path
from typing import Annotated

from llm.core import stage
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param, Scratch
from llm.corpus.params import PrepareParams
from llm.corpus.prepare import prepare_corpus


def main(
    prepare: Annotated[PrepareParams, Param("prepare")],
    scratch: Scratch,
    raw: Input = Path("data/raw"),
    lock: Input = Path("requirements.lock"),
    corpus: Output = Path("data/corpus"),
    metrics: Output = Path("metrics/prepare.json"),
    details: Output = Path("metrics/details/prepare.json"),
) -> None:
    """Write the corpus, and count documents that were kept and dropped."""
    figures, shown = prepare_corpus(prepare, raw, lock, corpus, scratch)
    write_json(metrics, figures)
    write_json(details, shown)


if __name__ == "__main__":
    stage.run(main)
