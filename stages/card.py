"""Every metric and every artifact → the model card beside the export."""

from pathlib import Path
from typing import Annotated, Any

from llm.core import stage
from llm.core.stage import Input, Output, Param
from llm.report.card import lineage_rows, read_metrics, write_card
from llm.report.markdown import weights_line


def main(
    sources: Annotated[list[dict[str, Any]], Param("prepare.sources")],
    tokenizing: Annotated[dict[str, Any], Param("tokenize")],
    training: Annotated[dict[str, Any], Param("pretrain")],
    tasks: Annotated[dict[str, Any], Param("finetune.tasks")],
    prepare: Input = Path("metrics/prepare.json"),
    label: Input = Path("metrics/label.json"),
    tokenize: Input = Path("metrics/tokenize.json"),
    pretrain: Input = Path("metrics/pretrain.json"),
    baselines: Input = Path("metrics/baselines.json"),
    evaluate: Input = Path("metrics/evaluate.json"),
    memorise: Input = Path("metrics/memorise.json"),
    cloze: Input = Path("metrics/cloze.json"),
    export: Input = Path("metrics/export.json"),
    finetune: Input = Path("metrics/finetune"),
    corpus: Input = Path("data/corpus"),
    tokenizer: Input = Path("data/tokenizer/tokenizer.json"),
    tokens: Input = Path("data/tokens"),
    windows: Input = Path("data/windows"),
    pretrained: Input = Path("models/pretrained"),
    exported: Input = Path("models/export/hf/model.safetensors"),
    finetuned: Input = Path("models/finetuned"),
    card: Output = Path("models/export/README.md"),
) -> None:
    """Write the card from the metrics files and the artifacts' hashes; `finetune` and `finetuned` are folders."""
    files = {"prepare": prepare, "label": label, "tokenize": tokenize, "pretrain": pretrain}
    files |= {"baselines": baselines, "evaluate": evaluate, "memorise": memorise, "cloze": cloze, "export": export}
    artifacts = {"prepare": corpus, "tokenize": tokenizer, "tokenize ": tokens, "sample": windows}
    artifacts |= {"pretrain": pretrained, "export": exported}
    artifacts |= {f"finetune@{name}": finetuned / name for name in tasks}
    text = write_card(
        {name: read_metrics(path) for name, path in files.items()},
        {name: read_metrics(finetune / f"{name}.json") for name in tasks},
        lineage_rows(artifacts),
        read_metrics(pretrained / "config.json"),
        {"sources": sources, "tokenize": tokenizing, "pretrain": training},
        weights_line(exported),
    )
    card.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    stage.run(main)
