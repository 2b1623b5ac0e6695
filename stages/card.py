"""Metrics and hashes → the model card beside the export, and the cards of finetuned models."""

from pathlib import Path

from llm.core import params, stage
from llm.core.derived import fill
from llm.core.stage import Input, Output
from llm.report import views
from llm.report.card import write_card, write_task_card
from llm.report.metrics import read_json, read_metrics


def main(
    settings: Input = Path("params.yaml"),
    metrics: Input = Path("metrics"),
    data: Input = Path("data"),
    pretrained: Input = Path("models/pretrained"),
    exported: Input = Path("models/export/hf"),
    finetuned: Input = Path("models/finetuned"),
    card: Output = Path("models/export/README.md"),
    cards: Output = Path("models/cards"),
) -> None:
    """Write `card`, and `cards`/NAME/README.md for each finetuned model."""
    sections = fill(params.read(settings))
    found = read_metrics(metrics).of_tasks(sections["finetune"]["tasks"])
    lineage = views.lineage(data, pretrained, exported, finetuned)
    config = read_json(pretrained / "config.json")
    card.write_text(write_card(found, sections, config, exported, lineage), encoding="utf-8")
    for name, task in sections["finetune"]["tasks"].items():
        (cards / name).mkdir(parents=True)
        text = write_task_card(name, task, found, finetuned / name)
        (cards / name / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    stage.run(main)
