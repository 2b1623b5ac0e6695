"""Weights and tokenizer → a Hugging Face folder, GGUF files and ONNX, each verified with the software it is for."""

from pathlib import Path
from typing import Annotated, Any

from llm.core import stage
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param, Seed
from llm.export.convert import convert, explain_empty
from llm.export.formats import ExportParams
from llm.export.hf.folder import FILES, write_folder
from llm.export.hf.supported import unsupported_reason
from llm.export.verify import compare_with_transformers
from llm.model.weights import load_model


def main(
    seed: Seed,
    export: Annotated[ExportParams, Param("export")],
    weights: Input = Path("models/pretrained"),
    tokenizer: Input = Path("data/tokenizer/tokenizer.json"),
    hf: Output = Path("models/export/hf"),
    gguf: Output = Path("models/export/gguf"),
    onnx: Output = Path("models/export/onnx"),
    metrics: Output = Path("metrics/export.json"),
) -> None:
    """Write the three folders; one without a model has the reason in skipped.json, and so have the metrics.

    UserError where Transformers, llama.cpp or ONNX Runtime computes another model, or a format in `export.formats`
    cannot be written; `llm check` reports that beforehand.
    """
    model = load_model(weights)
    figures: dict[str, Any]
    if reason := unsupported_reason(model.config):
        print(f"export: {hf.name} skipped: {reason}", flush=True)
        figures = {"skipped": reason}
        explain_empty(hf, reason)
    else:
        write_folder(hf, model, tokenizer)
        figures = compare_with_transformers(hf, model, seed).figures(hf)
        figures["bytes"] = sum((hf / name).stat().st_size for name in FILES)
    write_json(metrics, figures | convert(model, tokenizer, export.formats, seed, gguf, onnx))


if __name__ == "__main__":
    stage.run(main)
