"""Weights and tokenizer → a Hugging Face folder, GGUF files and ONNX, each checked by loading it as others will."""

import sys
from pathlib import Path
from typing import Annotated, Any

from llm import stage
from llm.errors import UserError
from llm.export.gguf import export_gguf
from llm.export.huggingface import FILES, write_folder
from llm.export.native import why_native
from llm.export.onnx import export_onnx
from llm.export.params import ExportParams
from llm.export.verify import compare_with_transformers
from llm.model.gpt import GPT
from llm.stage import Input, Output, Param, Seed
from llm.train.checkpoint import load_model


def main(
    seed: Seed,
    export: Annotated[ExportParams, Param("export")],
    weights: Input,
    tokenizer: Input,
    config: Output,
    model: Output,
    generation: Output,
    tokenizer_copy: Output,
    tokenizer_config: Output,
    gguf: Output,
    onnx: Output,
    metrics: Output,
) -> None:
    """Write the five files of one folder, and the folders of GGUF files and of ONNX; one without has a reason.

    UserError when Transformers computes other logits or token ids. A model that it has no architecture for is written
    in our own words; a GGUF file that llama.cpp cannot have, or reads otherwise, is left out, and so is an ONNX file
    for ONNX Runtime. The metrics and a line on stderr say why.
    """
    folder = config.parent
    given = (config, model, generation, tokenizer_copy, tokenizer_config)
    _check_paths(given, folder)
    ours = load_model(weights)
    write_folder(folder, ours, tokenizer)
    onnx.mkdir(parents=True, exist_ok=True)
    found = {
        **_verify(folder, ours, seed),
        "bytes": sum(path.stat().st_size for path in given),
        "gguf": export_gguf(gguf, ours, tokenizer, export.formats, seed),
        "onnx": export_onnx(onnx, ours, seed) if "onnx" in export.formats else {},
    }
    stage.write_json(metrics, found)
    _write_reason(gguf, "gguf", [about.get("skipped") for about in found["gguf"].values()])
    _write_reason(onnx, "onnx", [found["onnx"].get("skipped")])


def _write_reason(folder: Path, format_: str, skipped: list[str | None]) -> None:
    """Say in a folder without files why it has none; DVC warns of an empty one."""
    if not any(folder.iterdir()):
        reason = "; ".join(filter(None, skipped)) or f"{format_} is not in export.formats"
        stage.write_json(folder / "skipped.json", {"skipped": reason})


def _verify(folder: Path, model: GPT, seed: int) -> dict[str, Any]:
    """How far Transformers is from the model; or why it was `skipped`, for a model that it has no architecture for."""
    if reason := why_native(model.config):
        print(f"export: Transformers skipped: {reason}", file=sys.stderr)
        return {"transformers": {"skipped": reason}}
    parity = compare_with_transformers(folder, model, seed)
    if not parity.agrees:
        raise UserError(
            f"{folder}: wanted logits within {parity.most:.2g} of ours, the same token ids and words in Transformers, "
            f"given {parity.max_logit_difference:.2g}, {parity.texts_with_other_ids} texts with other ids and "
            f"{parity.other_continuations} of {parity.continuations} greedy continuations that differ"
        )
    return {
        "max_logit_difference": float(f"{parity.max_logit_difference:.3g}"),
        "texts_with_other_ids": parity.texts_with_other_ids,
        "other_continuations": parity.other_continuations,
        "continuations": parity.continuations,
    }


def _check_paths(given: tuple[Path, ...], folder: Path) -> None:
    if [path.name for path in given] != list(FILES) or {path.parent for path in given} != {folder}:
        raise UserError(f"wanted {', '.join(FILES)} in one folder, given {', '.join(map(str, given))}")


if __name__ == "__main__":
    stage.run(main)
