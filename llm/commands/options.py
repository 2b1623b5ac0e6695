"""Options that several commands share, and default paths."""

from pathlib import Path
from typing import Annotated

from typer import Option

EXPORT, TOKENIZER = Path("models/export/hf"), Path("data/tokenizer/tokenizer.json")
TEST, PARAMS, METRICS = Path("data/corpus/test.parquet"), Path("params.yaml"), Path("metrics")

NUCLEUS = "Nucleus sampling: smallest set of tokens with cumulative probability of at least P."

ParamsFile = Annotated[Path, Option("--params", help="The params file.")]
ModelFolder = Annotated[Path, Option(help="A Hugging Face folder, or weights such as models/pretrained.")]
TokenizerFile = Annotated[Path, Option(help="The tokenizer.json of weights without a tokenizer.")]
Converted = Annotated[Path | None, Option(help="Folder of its GGUF and ONNX files, such as models/converted/NAME.")]
CorpusTable = Annotated[Path, Option(help="A corpus table.")]
Encoding = Annotated[str | None, Option(help="Encoding of a text file, such as cp1252; detected by default.")]
Header = Annotated[bool, Option(help="Whether a .csv or .tsv file has a header; else columns are 1, 2, …")]
MetricsFolder = Annotated[Path, Option(help="The folder of metrics.")]
TextColumns = Annotated[list[str] | None, Option(help="An input column, if not detected; can be given twice.")]
MaxTokens = Annotated[int, Option(min=1, help="Maximum number of new tokens.")]
Temperature = Annotated[float, Option(min=0, help="Sampling temperature; 0 is greedy decoding.")]
TopP = Annotated[float | None, Option(min=0, max=1, help=NUCLEUS)]
Seed = Annotated[int, Option(min=0, max=2**63 - 1, help="Seed of the random generator.")]  # as in params.yaml
