"""What a finetuning is run with."""

from dataclasses import dataclass
from pathlib import Path

from llm.core.device import Machine


@dataclass(frozen=True)
class Job:
    """What a task is run with: files to read, places to write to, seeds, a machine, a scratch folder, formats.

    `held_out` is a table of the corpus, to see what of the base's own text is forgotten. `answers` is a file of
    examples, for a model that answers.
    """

    data: Path
    base: Path
    held_out: Path
    model: Path
    plots: Path
    report: Path
    answers: Path
    seed: int
    n_seeds: int
    machine: Machine
    scratch: Path
