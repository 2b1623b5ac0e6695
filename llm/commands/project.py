"""Commands for the project: params.yaml, its tasks, the results of the last run."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from llm.commands import options as opt


def check(params: opt.ParamsFile = opt.PARAMS) -> None:
    """Check params.yaml and name every invalid key."""
    from llm.commands.check import check_params

    check_params(params)


def preset(
    name: Annotated[str, Argument(help="The name of a file in presets/.")], params: opt.ParamsFile = opt.PARAMS
) -> None:
    """Set the values of a preset in params.yaml."""
    from llm.commands.presets import apply_preset

    changes = apply_preset(Path("presets") / f"{name}.yaml", params)
    typer.echo("\n".join(changes) or f"{params} already has the values of {name}")


def add_task(
    name: Annotated[str, Argument(help="Name of the task: lowercase letters, digits, - and _.")],
    file: Annotated[Path, Argument(help="Labeled rows: .csv, .tsv, .jsonl, .json or .parquet.")],
    kind: Annotated[str | None, Option(help="classify, instruct or dpo; detected by default.")] = None,
    text: Annotated[list[str] | None, Option(help="An input column, if not detected; can be given twice.")] = None,
    label: Annotated[str | None, Option(help="The column of labels or answers.")] = None,
    base: Annotated[Path, Option(help="The Hugging Face folder to finetune.")] = opt.EXPORT,
    header: opt.Header = True,
    split: Annotated[
        str | None, Option(help="The column with train, val and test, or none for a random split; detected by default.")
    ] = None,
    on_error: Annotated[str, Option(help="fail, or skip: invalid rows are dropped and counted.")] = "fail",
    encoding: opt.Encoding = None,
    params: opt.ParamsFile = opt.PARAMS,
) -> None:
    """Add a finetuning task for a file of labeled rows to params.yaml, and print how to run it."""
    from llm.commands.add_task import add_task as add
    from llm.commands.check import check_params

    check_params(params)
    lines = add(params, name, file, kind, text or [], label, base, header, split, on_error, encoding)
    typer.echo("\n".join(lines))


def summary(metrics: Annotated[Path, Argument(help="The folder of metrics.")] = opt.METRICS) -> None:
    """Show the metrics of the last run and texts of the model; exits with 1 if there are none."""
    typer.echo(_describe_run(metrics))


def figures(
    pages: Annotated[list[Path], Argument(help="Pages with blocks of figures.")] = opt.PAGES,
    metrics: Annotated[Path, Option(help="The folder of metrics.")] = opt.METRICS,
    reports: Annotated[Path, Option(help="The folder of reports.")] = opt.REPORTS,
) -> None:
    """Write the metrics, texts and pictures of the last run into README.md and docs/."""
    from llm.report.figures import write_figures, write_pictures

    for page in pages:
        write_figures(page, metrics, _describe_run(metrics))
        typer.echo(f"written: {page}")
    for picture in write_pictures(metrics, reports, Path("docs/pictures")):
        typer.echo(f"written: {picture}")


def _describe_run(metrics: Path) -> str:
    from llm.report.summary import describe_run

    found = describe_run(metrics, Path("models"))
    if not found:
        typer.echo(f"{metrics}: expected metrics of a run, got none; make repro trains and measures a model", err=True)
        raise typer.Exit(1)
    return found
