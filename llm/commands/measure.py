"""Commands that measure: models side by side, experiments, the history and the export of a model."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from llm.commands import options as opt
from llm.core.errors import UserError


def compare_models(
    folders: Annotated[list[Path], Argument(help="Hugging Face folders of language models, or models/pretrained.")],
    text: opt.CorpusTable = opt.TEST,
    max_bytes: Annotated[int | None, Option(min=1, help="Maximum bytes of it to score.")] = None,
    tokenizer: opt.TokenizerFile = opt.TOKENIZER,
) -> None:
    """Compare models by bits per byte of the same text, each with its own tokenizer."""
    from llm.core.device import Machine
    from llm.experiments.compare_models import compare, read_texts

    typer.echo(compare(folders, read_texts(text, max_bytes), Machine.find(), tokenizer))


def compare(
    revisions: Annotated[
        list[str] | None, Argument(metavar="[REV]...", help="Commits, branches, experiments, or workspace. See below.")
    ] = None,
    out: Annotated[Path, Option(help="The picture of the learning curves.")] = Path("plots/compare.svg"),
) -> None:
    """Compare experiments: params and metrics that differ, learning curves, samples.

    One revision is compared with the workspace; without any, HEAD is.
    """
    from llm.report.compare_runs import compare_runs

    typer.echo(compare_runs(revisions or [], Path(), out))


def trace(
    target: Annotated[Path, Argument(help="An exported model, or another output of a stage.")] = opt.EXPORT,
) -> None:
    """Trace a model back to the raw text, and check every file and param on the way.

    Exits with 1 and names the differences if something differs from dvc.lock.
    """
    from llm.report.trace import differences, render, trace_back

    steps = trace_back(target, Path())
    typer.echo(render(steps))
    raise typer.Exit(1 if differences(steps) else 0)


def verify_export(
    folder: Annotated[Path, Argument(help="An export, or a Hugging Face folder.")] = opt.EXPORT.parent,
    seed: opt.Seed = 1,
    text: opt.CorpusTable = opt.TEST,
    converted: opt.Converted = None,
) -> None:
    """Load an export with Transformers, llama.cpp and ONNX Runtime, and compare each with our model."""
    from llm.experiments.compare_models import read_texts
    from llm.export.clients import verify_export as measure
    from llm.finetune.shared.chat import chat_to_verify

    corpus = "\n".join(read_texts(text)) if text.exists() else ""
    table, wrong = measure(folder, seed, corpus, chat_to_verify, converted)
    typer.echo(table)
    if wrong:
        raise UserError(f"{folder}: expected differences within the table's limits, exceeded by {', '.join(wrong)}")


def harness(
    folder: opt.LanguageModel = opt.EXPORT,
    tasks: Annotated[Path, Option(help="The tasks of the stage cloze.")] = Path("data/cloze"),
) -> None:
    """Score the cloze tasks with lm-evaluation-harness; exits with 1 if its accuracies differ from ours."""
    from llm.experiments.harness import compare as compare_with_harness
    from llm.export.hf.folder import read_folder
    from llm.tokens.tokenizer import Tokenizer

    table, other = compare_with_harness(folder, read_folder(folder), Tokenizer.load(folder / "tokenizer.json"), tasks)
    typer.echo(table)
    if other:
        typer.echo(f"not the same: {', '.join(other)}")
    raise typer.Exit(1 if other else 0)


def scaling(setting: Annotated[str, Argument(help="A ladder of scaling.yaml.")] = "tiny") -> None:
    """Train a ladder of sizes and budgets, fit a scaling law, and compare its prediction with a larger model.

    Each run is a DVC experiment in a copy of the repository; existing runs are reused.
    """
    from llm.experiments.queue import commands_in
    from llm.experiments.scaling import PAGE, PICTURE, run_ladder

    page, failed = run_ladder(setting, Path(), commands_in(Path()))
    typer.echo(f"{page}\nwritten: {PAGE}, {PICTURE}")
    if failed:
        raise UserError(f"scaling: expected no failed run, got {len(failed)}: {', '.join(failed)}")


def learning_curve(
    task: Annotated[str, Argument(help="A classification task of params.yaml.")] = "library",
    shares: Annotated[
        list[float], Option(help="Fraction of the labeled rows; can be repeated; 0.01, 0.05, 0.25 and 1 by default.")
    ] = [0.01, 0.05, 0.25, 1.0],  # noqa: B006 (typer copies it)
    seeds: Annotated[int, Option(min=1, help="Runs of each point.")] = 3,
    params_file: opt.ParamsFile = opt.PARAMS,
) -> None:
    """Measure the accuracy of a task against its number of labeled rows, with and without pretraining."""
    from llm.experiments.learning_curve import write_learning_curve

    typer.echo(write_learning_curve(params_file, task, shares, seeds))
