"""Weights and tokenizer → a Hugging Face folder and GGUF files, each checked by loading it as other people will."""

from pathlib import Path
from typing import Annotated

from llm import stage
from llm.errors import UserError
from llm.export.gguf import export_gguf
from llm.export.huggingface import FILES, write_folder
from llm.export.params import ExportParams
from llm.export.verify import compare_with_transformers
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
    metrics: Output,
) -> None:
    """Write the five files of one folder, and the folder of GGUF files, which may stay empty.

    UserError when Transformers computes other logits or token ids. A GGUF file that llama.cpp cannot have, or reads
    otherwise, is left out; the metrics and a line on stderr say why.
    """
    folder = config.parent
    given = (config, model, generation, tokenizer_copy, tokenizer_config)
    _check_paths(given, folder)
    ours = load_model(weights)
    write_folder(folder, ours, tokenizer)
    parity = compare_with_transformers(folder, ours, seed)
    if not parity.agrees:
        raise UserError(
            f"{folder}: wanted logits within {parity.most:.2g} of ours and the same token ids in Transformers, "
            f"given {parity.max_logit_difference:.2g} and {parity.texts_with_other_ids} texts with other ids"
        )
    stage.write_json(
        metrics,
        {
            "max_logit_difference": float(f"{parity.max_logit_difference:.3g}"),
            "texts_with_other_ids": parity.texts_with_other_ids,
            "bytes": sum(path.stat().st_size for path in given),
            "gguf": export_gguf(gguf, ours, tokenizer, export.formats, seed),
        },
    )


def _check_paths(given: tuple[Path, ...], folder: Path) -> None:
    if [path.name for path in given] != list(FILES) or {path.parent for path in given} != {folder}:
        raise UserError(f"wanted {', '.join(FILES)} in one folder, given {', '.join(map(str, given))}")


if __name__ == "__main__":
    stage.run(main)
