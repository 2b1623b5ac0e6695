"""Weights and tokenizer → a Hugging Face folder, GGUF files and ONNX, each checked by loading it as others will."""

from pathlib import Path
from typing import Annotated

from llm.core import stage
from llm.core.errors import UserError
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param, Seed
from llm.export.gguf import export_gguf
from llm.export.hf.folder import FILES, write_folder
from llm.export.onnx import export_onnx
from llm.export.params import ExportParams
from llm.export.verify import verify_transformers
from llm.model.weights import load_model


def main(
    seed: Seed,
    export: Annotated[ExportParams, Param("export")],
    weights: Input = Path("models/pretrained"),
    tokenizer: Input = Path("data/tokenizer/tokenizer.json"),
    config: Output = Path("models/export/config.json"),
    model: Output = Path("models/export/model.safetensors"),
    generation: Output = Path("models/export/generation_config.json"),
    tokenizer_copy: Output = Path("models/export/tokenizer.json"),
    tokenizer_config: Output = Path("models/export/tokenizer_config.json"),
    gguf: Output = Path("models/export/gguf"),
    onnx: Output = Path("models/export/onnx"),
    metrics: Output = Path("metrics/export.json"),
) -> None:
    """Write the five files of one folder, and the folders of GGUF files and of ONNX; one without has a reason.

    UserError when Transformers, llama.cpp or ONNX Runtime computes another model, or a format in `export.formats`
    cannot be written; `llm check` tells that beforehand. A model that Transformers has no architecture for is written
    in our own words, which the metrics and a line on stderr say.
    """
    folder = config.parent
    given = (config, model, generation, tokenizer_copy, tokenizer_config)
    _check_paths(given, folder)
    ours = load_model(weights)
    write_folder(folder, ours, tokenizer)
    onnx.mkdir(parents=True, exist_ok=True)
    verified = verify_transformers(folder, ours, seed)
    write_json(
        metrics,
        {
            **({"transformers": verified} if "skipped" in verified else verified),
            "bytes": sum(path.stat().st_size for path in given),
            "gguf": export_gguf(gguf, ours, tokenizer, export.formats, seed),
            "onnx": export_onnx(onnx, ours, seed) if "onnx" in export.formats else {},
        },
    )
    _explain_empty(gguf, "gguf")
    _explain_empty(onnx, "onnx")


def _explain_empty(folder: Path, format_: str) -> None:
    """Write into a folder without files why it has none; DVC warns of an empty one."""
    if not any(folder.iterdir()):
        write_json(folder / "skipped.json", {"skipped": f"{format_} is not in export.formats"})


def _check_paths(given: tuple[Path, ...], folder: Path) -> None:
    if [path.name for path in given] != list(FILES) or {path.parent for path in given} != {folder}:
        raise UserError(f"wanted {', '.join(FILES)} in one folder, given {', '.join(map(str, given))}")


if __name__ == "__main__":
    stage.run(main)
