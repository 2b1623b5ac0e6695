"""What a finetuning is run with, and which bases cannot be finetuned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.export.native import is_native, read_native_config
from llm.export.params import Format
from llm.export.tensors import read_object
from llm.runtime import Machine


@dataclass(frozen=True)
class Job:
    """What a task is run with: files to read, places to write to, seeds, a machine, a scratch folder, formats.

    `held_out` is a table of the corpus, to see what of the base's own text is forgotten.
    """

    data: Path
    base: Path
    held_out: Path
    model: Path
    plots: Path
    report: Path
    seed: int
    n_seeds: int
    machine: Machine
    scratch: Path
    formats: Sequence[Format]


def unfit_because(config: Path) -> str | None:
    """Why the base with this config.json cannot be finetuned, or None.

    The first rungs of attention read what comes later: the answer that is to be learnt, and the padding of a batch.
    """
    content = read_object(config)
    if not is_native(content) or not (shape := read_native_config(content, config)).sees_the_future:
        return None
    return (
        f"the base reads what comes later (model.attention {shape.attention}), so it would be given the answer, "
        "and scores would hang on the padding beside a row"
    )
