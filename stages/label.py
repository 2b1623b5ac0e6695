"""The docstrings of the corpus → two labeled tables, for the built-in finetuning tasks."""

from pathlib import Path
from typing import Annotated

from llm.core import stage
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param
from llm.corpus.labels import write_tables
from llm.corpus.params import LabelParams


def main(
    label: Annotated[LabelParams, Param("label")],
    corpus: Input = Path("data/corpus"),
    library: Output = Path("data/labeled/builtin/library.parquet"),
    docstring: Output = Path("data/labeled/builtin/docstring.parquet"),
    metrics: Output = Path("metrics/label.json"),
) -> None:
    """Write the tables `library` and `docstring`."""
    write_json(metrics, write_tables(corpus, library, docstring, label))


if __name__ == "__main__":
    stage.run(main)
