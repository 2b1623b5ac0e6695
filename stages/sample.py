"""Turn token ids into a token stream and its sliding windows, and count the held-out n-grams that train has too."""

from pathlib import Path
from typing import Annotated

from llm.core import stage
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param
from llm.tokens.params import WindowParams
from llm.tokens.sample import make_windows
from llm.tokens.tokenizer import Tokenizer


def main(
    sample: Annotated[WindowParams, Param("sample")],
    tokens: Input = Path("data/tokens"),
    tokenizer: Input = Path("data/tokenizer/tokenizer.json"),
    windows: Output = Path("data/windows"),
    metrics: Output = Path("metrics/sample.json"),
    details: Output = Path("metrics/details/sample.json"),
) -> None:
    """Write the windows of each split, with the contamination of held-out documents."""
    figures, all_figures = make_windows(sample, tokens, Tokenizer.load(tokenizer), windows)
    write_json(metrics, figures)
    write_json(details, all_figures)


if __name__ == "__main__":
    stage.run(main)
