"""Held-out documents and weights → multiple-choice tasks, also for lm-evaluation-harness, and our scores."""

from pathlib import Path
from typing import Annotated

from llm.core import stage
from llm.core.device import Machine
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param, Seed
from llm.evaluate.cloze import make_tasks, measure_tasks, write_tasks
from llm.evaluate.params import ClozeParams
from llm.model.weights import load_model
from llm.tokens.tokenizer import Tokenizer


def main(
    cloze: Annotated[ClozeParams, Param("cloze")],
    seed: Seed,
    weights: Input = Path("models/pretrained"),
    corpus: Input = Path("data/corpus"),
    tokenizer: Input = Path("data/tokenizer/tokenizer.json"),
    folder: str = "data/cloze",
    tasks: Output = Path("data/cloze"),
    metrics: Output = Path("metrics/cloze.json"),
) -> None:
    """Draw items of each task from test and score them; `folder` is the path of `tasks` that the harness reads."""
    machine = Machine.find()
    model, encoder = load_model(weights).to(machine.device), Tokenizer.load(tokenizer)
    items, skipped = make_tasks(corpus / "test.parquet", encoder, model.config.context_length, cloze, seed)
    write_tasks(tasks, folder, items)
    if reason := model.config.non_causal_reason:
        items, skipped = {}, skipped | {task: {"skipped": reason} for task in items}
    write_json(metrics, measure_tasks(model, encoder, items, seed) | skipped)


if __name__ == "__main__":
    stage.run(main)
