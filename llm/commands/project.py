"""Commands that measure models, and edit or describe the project."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from llm.commands import options as opt
from llm.core.errors import UserError

HEAD = ["HEAD"]
FRACTIONS = [0.01, 0.05, 0.25, 1.0]
PAGES = [Path("README.md"), Path("docs/questions.md")]


def compare_models(
    folders: Annotated[list[Path], Argument(help="Hugging Face folders of language models, or models/pretrained.")],
    text: opt.CorpusTable = opt.TEST,
    max_bytes: Annotated[int | None, Option(min=1, help="Maximum bytes of it to score.")] = None,
    tokenizer: opt.TokenizerFile = opt.TOKENIZER,
) -> None:
    """Compare models by bits per byte of the same text, each with its own tokenizer."""
    from llm.core.device import Machine
    from llm.experiments.compare_models import compare, read_texts

    print(compare(folders, read_texts(text, max_bytes), Machine.find(), tokenizer))


def compare(
    revisions: Annotated[list[str], Argument(help="Commits, branches, experiments, or workspace.")] = HEAD,
    out: Annotated[Path, Option(help="The picture of the learning curves.")] = Path("plots/compare.svg"),
) -> None:
    """Compare experiments: params and metrics that differ, learning curves, samples.

    One revision is compared with the workspace; without any, HEAD is.
    """
    from llm.report.compare_runs import compare_runs

    print(compare_runs(revisions, Path(), out))


def trace(
    target: Annotated[Path, Argument(help="An exported model, or another output of a stage.")] = opt.EXPORT,
) -> None:
    """Trace a model back to the raw text, and check every file and param on the way.

    Exits with 1 and names the differences if something differs from dvc.lock.
    """
    from llm.report.trace import differences, render, trace_back

    steps = trace_back(target, Path())
    print(render(steps))
    raise typer.Exit(1 if differences(steps) else 0)


def verify_export(
    folder: Annotated[Path, Argument(help="An export, or a Hugging Face folder.")] = opt.EXPORT.parent,
    seed: opt.Seed = 1,
    text: opt.CorpusTable = opt.TEST,
    converted: opt.Converted = None,
) -> None:
    """Load an export with Transformers, llama.cpp and ONNX Runtime, and compare each with our model."""
    from llm.experiments.compare_models import read_texts
    from llm.export.convert import verify_export as verify
    from llm.finetune.shared.chat import chat_to_verify

    content = "\n".join(read_texts(text)) if text.exists() else ""
    table, wrong = verify(folder, seed, content, chat_to_verify, converted)
    print(table)
    if wrong:
        raise UserError(f"{folder}: expected differences within the table's limits, exceeded by {', '.join(wrong)}")


def harness(
    folder: Annotated[Path, Argument(help="A Hugging Face folder of a language model.")] = opt.EXPORT,
    tasks: Annotated[Path, Option(help="The tasks of the stage cloze.")] = Path("data/cloze"),
) -> None:
    """Score the cloze tasks with lm-evaluation-harness; exits with 1 if its accuracies differ from ours."""
    from llm.experiments.harness import compare as compare_with_harness

    table, differing = compare_with_harness(folder, tasks)
    print(table)
    if differing:
        print(f"not the same: {', '.join(differing)}")
        raise typer.Exit(1)


def scaling(setting: Annotated[str, Argument(help="A ladder of scaling.yaml.")] = "tiny") -> None:
    """Train a ladder of sizes and budgets, fit a scaling law, and compare its prediction with a larger model.

    Each run is a DVC experiment in a copy of the repository; existing runs are reused.
    """
    from llm.experiments.scaling import PAGE, PICTURE, run_ladder

    page, failed = run_ladder(setting, Path())
    print(f"{page}\nwritten: {PAGE}, {PICTURE}")
    if failed:
        raise UserError(f"scaling: expected no failed run, got {len(failed)}: {', '.join(failed)}")


def learning_curve(
    task: Annotated[str, Argument(help="A classification task of params.yaml.")] = "library",
    fraction: Annotated[list[float], Option(help="Fraction of the labeled rows; can be repeated.")] = FRACTIONS,
    seeds: Annotated[int, Option(min=1, help="Runs of each point.")] = 3,
    params: opt.ParamsFile = opt.PARAMS,
) -> None:
    """Measure the accuracy of a task against its number of labeled rows, with and without pretraining."""
    from llm.experiments.learning_curve import write_learning_curve

    print(write_learning_curve(params, task, fraction, seeds))


def check(
    params: opt.ParamsFile = opt.PARAMS,
    cost: Annotated[bool, Option(help="Time training steps, and print what the run costs on this machine.")] = True,
) -> None:
    """Check params.yaml, name every invalid key, and print the time and memory that `dvc repro` takes.

    A run that does not fit into the memory is refused, with the key to change.
    """
    from llm.commands.check import check_params

    check_params(params)
    if cost:
        from llm.commands.cost import predict

        print(predict(params))


def plan(
    minutes: Annotated[float | None, Option(min=0.1, help="Minutes that `dvc repro` may take on this machine.")] = None,
    hours: Annotated[float | None, Option(min=0.01, help="The same in hours.")] = None,
    until: Annotated[str | None, Option(help="A stage: the minutes are those of `dvc repro STAGE`.")] = None,
    target_bytes: Annotated[int | None, Option(min=1, help="Maximum size of the exported weights.")] = None,
    candidate: Annotated[str, Option(help="smaller, recommended or larger: which one is written.")] = "recommended",
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print the candidates and leave the params file as it is.")
    ] = False,
    params: opt.ParamsFile = opt.PARAMS,
) -> None:
    """Choose model, steps and finetuning lengths for your text and so much time, and write them into params.yaml.

    Trains a small model on the text, twice for some seconds, and times steps of other shapes.
    """
    from llm.commands.plan import NAMES, Budget, make_plan, write_plan
    from llm.core.device import Machine

    if (minutes is None) == (hours is None):
        raise UserError("plan: expected --minutes or --hours")
    if candidate not in NAMES:
        raise UserError(f"--candidate: expected one of {', '.join(NAMES)}, got {candidate}")
    seconds = (minutes or 0) * 60 + (hours or 0) * 3600
    found = make_plan(params, Budget(seconds, until, target_bytes), Machine.find())
    print(f"{found.table()}\n{found.basis}")
    if candidate not in found.candidates:
        raise UserError(f"--candidate: expected one of {', '.join(found.candidates)}, got {candidate}")
    if not dry_run:
        print("\n".join(write_plan(params, found.candidates[candidate])) or f"{params} has these settings already")


def doctor() -> None:
    """Check packages, compiler, device, disk, memory, Git, DVC and params; exits with 2 if no run can work."""
    from llm.commands.doctor import examine, show

    findings = examine()
    print(show(findings))
    raise typer.Exit(2 if any(found.state == "FAIL" for _, found in findings) else 0)


def show_params(params: opt.ParamsFile = opt.PARAMS) -> None:
    """Print params.yaml with all values that the stages use, derived ones and defaults included."""
    from llm.commands.effective import effective_params

    print(effective_params(params), end="")


def preset(
    name: Annotated[str, Argument(help="The name of a file in presets/.")],
    params: opt.ParamsFile = opt.PARAMS,
) -> None:
    """Set the values of a preset in params.yaml."""
    from llm.commands.presets import apply_preset

    changes = apply_preset(Path("presets") / f"{name}.yaml", params)
    print("\n".join(changes) or f"{params} already has the values of {name}")


def use_text(
    paths: Annotated[list[Path], Argument(help="Folders or files under data/raw.")],
    params: opt.ParamsFile = opt.PARAMS,
) -> None:
    """Make your own files the text of the pipeline: write them into params.yaml in place of the sources there."""
    from llm.commands.use_text import use_text as use

    print(*use(params, paths), sep="\n")


def add_task(
    name: Annotated[str, Argument(help="Name of the task: lowercase letters, digits, - and _.")],
    file: Annotated[Path, Argument(help="Labeled rows: .csv, .tsv, .jsonl, .json or .parquet.")],
    kind: Annotated[str | None, Option(help="classify, instruct or dpo; detected by default.")] = None,
    text: opt.TextColumns = None,
    label: Annotated[str | None, Option(help="The column of labels or answers.")] = None,
    base: Annotated[Path, Option(help="The Hugging Face folder to finetune.")] = opt.EXPORT,
    header: opt.Header = True,
    split: Annotated[str | None, Option(help="The column of splits; none draws them; detected by default.")] = None,
    on_error: Annotated[str, Option(help="fail, or skip: invalid rows are dropped and counted.")] = "fail",
    encoding: opt.Encoding = None,
    params: opt.ParamsFile = opt.PARAMS,
) -> None:
    """Add a finetuning task for a file of labeled rows to params.yaml, and print how to run it."""
    from llm.commands.add_task import add_task as add
    from llm.commands.check import check_params

    check_params(params)
    print(*add(params, name, file, kind, text or [], label, base, header, split, on_error, encoding), sep="\n")


def summary(metrics: Annotated[Path, Argument(help="The folder of metrics.")] = opt.METRICS) -> None:
    """Show the metrics of the last run and texts of the model; exits with 1 if there are none."""
    from llm.commands.plan import compare_with_outcome

    print(_describe_run(metrics))
    if planned := compare_with_outcome(opt.PARAMS, metrics):
        print(f"\n{planned}")


def figures(
    pages: Annotated[list[Path], Argument(help="Pages with blocks of figures.")] = PAGES,
    metrics: opt.MetricsFolder = opt.METRICS,
    reports: Annotated[Path, Option(help="The folder of reports.")] = Path("reports"),
) -> None:
    """Write the metrics, texts and pictures of the last run into README.md and docs/."""
    from llm.report.figures import write_figures, write_pictures

    for page in pages:
        write_figures(page, metrics, _describe_run(metrics))
    for path in [*pages, *write_pictures(metrics, reports, Path("docs/pictures"))]:
        print(f"written: {path}")


def _describe_run(metrics: Path) -> str:
    from llm.report.summary import describe_run

    if found := describe_run(metrics, Path("models")):
        return found
    typer.echo(f"{metrics}: expected metrics of a run, got none; make repro trains and measures a model", err=True)
    raise typer.Exit(1)
