"""A base and a file of labeled rows → a finetuned model as a Hugging Face folder, and its figures."""

from pathlib import Path
from typing import Annotated, Any

from llm.core import stage
from llm.core.device import Machine
from llm.core.outputs import write_json
from llm.core.params import Count
from llm.core.stage import Input, Output, Param, Scratch, Seed
from llm.core.tables import empty_reason
from llm.export.hf.folder import skipped_reason
from llm.finetune.params import ClassifyTask, DPOTask, InstructTask, StatedTask, resolve_task
from llm.finetune.shared.job import Job


def main(
    task: Annotated[StatedTask, Param("finetune.tasks.{name}")],
    defaults: Annotated[dict[str, Any], Param("finetune.defaults")],
    n_seeds: Annotated[Count, Param("finetune.n_seeds")],
    seed: Seed,
    name: str,
    scratch: Scratch,
    data: Input = Path("{task.data}"),
    base: Input = Path("{task.base}"),
    held_out: Input = Path("data/corpus/test.parquet"),
    model: Output = Path("models/finetuned/{name}"),
    metrics: Output = Path("metrics/finetune/{name}.json"),
    details: Output = Path("metrics/details/finetune/{name}.json"),
    plots: Output = Path("plots/finetune/{name}"),
) -> None:
    """Train the task `name`; forgetting is measured on `held_out`, a corpus table.

    A table without rows that has a reason, and a base that was not exported, skip the task with
    that reason.
    """
    model.mkdir(parents=True)
    plots.mkdir(parents=True)
    resolved = resolve_task(task.model_dump(), defaults, name)
    if reason := (empty_reason(data) if data.suffix == ".parquet" else None) or skipped_reason(base):
        for path in (model / "skipped.json", plots / "skipped.json", metrics, details):
            write_json(path, {"skipped": reason})
        return
    machine = Machine.find()
    machine.retain_freed_memory()
    job = Job(data, base, held_out, model, plots, seed, n_seeds, machine, scratch)
    match resolved:
        case ClassifyTask():
            from llm.finetune.classify import job as kind
        case InstructTask():
            from llm.finetune.instruct import job as kind  # type: ignore[no-redef]
        case DPOTask():
            from llm.finetune.dpo import job as kind  # type: ignore[no-redef]
    for path, content in zip((metrics, details), kind.run(job, resolved), strict=True):
        write_json(path, content)


if __name__ == "__main__":
    stage.run(main)
