"""What a finetuning is run with, and which bases cannot be finetuned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.export.gguf import FILES, describe_vocabulary
from llm.export.hf.base import read_tokenizer
from llm.export.hf.folder import read_config
from llm.export.hf.native import is_native, read_native_config
from llm.export.hf.possible import incompatibility_reason, missing_package
from llm.export.hf.tensors import read_object
from llm.export.params import Format


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
    formats: Sequence[Format]


def base_incompatibility(config: Path) -> str | None:
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


def formats_problem(base: Path, formats: Sequence[Format]) -> str | None:
    """Return why a model that answers, finetuned from a base, could not be written in `formats`; or None."""
    config = read_config(base)
    reasons = {format_: incompatibility_reason(format_, config) or missing_package(format_) for format_ in formats}
    for format_ in [format_ for format_ in FILES if format_ in formats][:1]:
        try:
            describe_vocabulary(read_tokenizer(base)[0])
        except UserError as error:
            reasons[format_] = reasons[format_] or str(error)
    found = next(((format_, reason) for format_, reason in reasons.items() if reason), None)
    return found and f"{base}: export.formats: {found[0]}: {found[1]}; or leave the format out"
