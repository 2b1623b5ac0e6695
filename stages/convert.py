"""A finetuned model that answers messages → GGUF files and ONNX, each verified with the software it is for."""

from pathlib import Path
from typing import Annotated

from llm.core import stage
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param, Seed
from llm.export.convert import convert, explain_empty
from llm.export.formats import ExportParams
from llm.export.hf.base import open_tokenizer
from llm.export.hf.classifier import is_classifier
from llm.export.hf.folder import CHAT_TEMPLATE, read_config_file, read_folder, skipped_reason
from llm.finetune.shared.chat import chat_to_verify


def main(
    seed: Seed,
    export: Annotated[ExportParams, Param("export")],
    name: str,
    model: Input = Path("models/finetuned/{name}"),
    gguf: Output = Path("models/converted/{name}/gguf"),
    onnx: Output = Path("models/converted/{name}/onnx"),
    metrics: Output = Path("metrics/convert/{name}.json"),
) -> None:
    """Write the formats in `export.formats`; a classifier and a task that was skipped have none.

    UserError where a client computes another model, or a format cannot be written.
    """
    reason = skipped_reason(model)
    if not reason and is_classifier(read_config_file(model)):
        reason = "a classifier has no format besides the Hugging Face folder"
    if reason:
        for folder in (gguf, onnx):
            explain_empty(folder, reason)
        write_json(metrics, {"skipped": reason})
        return
    template, tokenizer_file = model / CHAT_TEMPLATE, model / "tokenizer.json"
    chat = chat_to_verify(open_tokenizer(model)) if template.exists() else None
    figures = convert(
        read_folder(model),
        tokenizer_file,
        export.formats,
        seed,
        gguf,
        onnx,
        chat_template=template.read_text(encoding="utf-8") if chat else None,
        chat=chat,
    )
    write_json(metrics, figures)


if __name__ == "__main__":
    stage.run(main)
