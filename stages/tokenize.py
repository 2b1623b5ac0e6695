"""Train or load a tokenizer, on the train split alone, and encode the corpus."""

from pathlib import Path
from typing import Annotated

from llm.core import stage
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param, Seed
from llm.tokens.params import TokenizeParams
from llm.tokens.tokenize import encode_corpus, make_tokenizer
from llm.tokens.tokenizer import Tokenizer


def main(
    tokenize: Annotated[TokenizeParams, Param("tokenize")],
    seed: Seed,
    corpus: Input = Path("data/corpus"),
    given: Input = Path("data/given"),
    tokenizer: Output = Path("data/tokenizer/tokenizer.json"),
    tokens: Output = Path("data/tokens"),
    metrics: Output = Path("metrics/tokenize.json"),
    details: Output = Path("metrics/details/tokenize.json"),
) -> None:
    """Write a tokenizer.json and the token ids of each split, with measures of how well it suits the text."""
    make_tokenizer(tokenize, corpus / "train.parquet", given).save(str(tokenizer))
    figures, all_figures = encode_corpus(tokenize, Tokenizer.load(tokenizer), seed, corpus, tokens)
    write_json(metrics, figures)
    write_json(details, all_figures)


if __name__ == "__main__":
    stage.run(main)
