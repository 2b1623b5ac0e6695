"""The command line: `python -m llm COMMAND`. Commands import heavy libraries themselves, so that help is instant."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from llm.core.errors import UserError, one_line_errors
from llm.core.openmp import limit_spinning

app = typer.Typer(
    help="Groundup: a language model from the ground up. `dvc repro` trains it; these commands inspect and use it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

EXPORT, TOKENIZER = Path("models/export/hf"), Path("data/tokenizer/tokenizer.json")
TEST, WINDOWS = Path("data/corpus/test.parquet"), Path("data/windows")
PARAMS, METRICS, REPORTS = Path("params.yaml"), Path("metrics"), Path("reports")
PAGES = [Path("README.md"), Path("docs/questions.md")]
MAX_SEED = 2**63 - 1  # as in params.yaml; torch takes no larger one

ParamsFile = Annotated[Path, Option("--params", help="The params file.")]
ModelFolder = Annotated[Path, Option(help="A Hugging Face folder, or weights such as models/pretrained.")]
LanguageModel = Annotated[Path, Argument(help="A Hugging Face folder of a language model.")]
TokenizerFile = Annotated[Path, Option(help="The tokenizer.json of weights without a tokenizer.")]
Converted = Annotated[Path | None, Option(help="Folder of its GGUF and ONNX files, such as models/converted/NAME.")]
MetricsFolder = Annotated[Path, Option(help="The folder of metrics.")]
CorpusTable = Annotated[Path, Option(help="A corpus table.")]
Encoding = Annotated[str | None, Option(help="Encoding of a text file, such as cp1252; detected by default.")]
Header = Annotated[bool, Option(help="Whether a .csv or .tsv file has a header; else columns are 1, 2, …")]
MaxTokens = Annotated[int, Option(min=1, help="Maximum number of new tokens.")]
Temperature = Annotated[float, Option(min=0, help="Sampling temperature; 0 is greedy decoding.")]
Seed = Annotated[int, Option(min=0, max=MAX_SEED, help="Seed of the random generator.")]
TopP = Annotated[
    float | None,
    Option(min=0, max=1, help="Nucleus sampling: smallest set of tokens with cumulative probability of at least P."),
]


@app.command()
def generate(
    prompt: Annotated[str, Argument(help="The text to continue.")],
    model: ModelFolder = EXPORT,
    tokenizer: TokenizerFile = TOKENIZER,
    max_tokens: MaxTokens = 100,
    temperature: Temperature = 0.8,
    top_k: Annotated[int, Option(min=1, help="Sample from the K most probable tokens.")] = 50,
    top_p: TopP = None,
    min_p: Annotated[
        float | None, Option(min=0, max=1, help="Minimum probability, as a fraction of the most probable token's.")
    ] = None,
    repetition_penalty: Annotated[float, Option(min=1, help="Above 1, tokens of the context are less probable.")] = 1.0,
    stop: Annotated[list[str] | None, Option(help="Stop before this text; can be repeated.")] = None,
    seed: Seed = 1,
) -> None:
    """Continue a text."""
    from llm.commands.inspect import continue_text

    pieces = continue_text(
        model, tokenizer, prompt, max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop or [], seed
    )
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()


@app.command()
def serve(
    folder: Annotated[Path, Argument(help="A Hugging Face folder, such as models/finetuned/docstring.")] = EXPORT,
    port: Annotated[int, Option(min=0, max=65535, help="0 takes a free port, which is printed.")] = 8000,
    slots: Annotated[int, Option(min=1, max=4096, help="Sequences decoded in parallel; others wait.")] = 32,
    host: Annotated[str, Option(help="The address to listen on.")] = "127.0.0.1",
    public: Annotated[bool, Option("--public", help="Allow a host that other machines can reach.")] = False,
) -> None:
    """Serve a model over HTTP with the API of OpenAI: completions, chat completions, models."""
    from llm.serve.run import serve as serve_folder

    serve_folder(folder, host, port, slots, public)


@app.command()
def chat(
    folder: Annotated[Path, Argument(help="A Hugging Face folder of an instruction-tuned model.")],
    message: Annotated[str | None, Argument(help="Answer this message only; by default, one per line.")] = None,
    temperature: Temperature = 0.8,
    top_p: TopP = None,
    seed: Seed = 1,
    max_tokens: MaxTokens = 200,
    system: Annotated[str | None, Option(help="The system message.")] = None,
) -> None:
    """Chat with a model in the terminal; a pipe is read line by line."""
    from llm.serve.terminal import Manner
    from llm.serve.terminal import chat as run_chat

    if message is not None and not message.strip():
        raise UserError("MESSAGE: expected a text, got an empty one")
    run_chat(folder, Manner(temperature, top_p, max_tokens, seed, system), sys.stdin, sys.stdout, message)


@app.command()
def neighbours(
    word: Annotated[str, Argument(help="A word, case-sensitive.")],
    model: ModelFolder = EXPORT,
    tokenizer: TokenizerFile = TOKENIZER,
    top: Annotated[int, Option(min=1, help="Number of neighbors.")] = 10,
) -> None:
    """List the tokens whose embeddings have the highest cosine similarity to a word's."""
    from llm.commands.inspect import list_neighbors

    typer.echo("\n".join(list_neighbors(model, tokenizer, word, top)))


@app.command()
def windows(
    show: Annotated[int, Option(min=1, help="Number of input and target rows.")] = 5,
    split: Annotated[str, Option(help="train, val, test, or a segmentation such as train-1.")] = "train",
    window: Annotated[int, Option(min=0, help="Number of the window, from 0.")] = 0,
    folder: Annotated[Path, Option(help="The windows of the stage sample.")] = WINDOWS,
    tokenizer: Annotated[Path, Option(help="A tokenizer.json.")] = TOKENIZER,
) -> None:
    """Show training examples: rows of input and target, as ids and as text."""
    from llm.commands.inspect import show_window

    typer.echo("\n".join(show_window(folder, tokenizer, split, window, show)))


@app.command()
def compare_models(
    folders: Annotated[list[Path], Argument(help="Hugging Face folders of language models, or models/pretrained.")],
    text: CorpusTable = TEST,
    max_bytes: Annotated[int | None, Option(min=1, help="Maximum bytes of it to score.")] = None,
    tokenizer: TokenizerFile = TOKENIZER,
) -> None:
    """Compare models by bits per byte of the same text, each with its own tokenizer."""
    from llm.core.device import Machine
    from llm.experiments.compare_models import compare, read_texts

    typer.echo(compare(folders, read_texts(text, max_bytes), Machine.find(), tokenizer))


@app.command()
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


@app.command()
def trace(target: Annotated[Path, Argument(help="An exported model, or another output of a stage.")] = EXPORT) -> None:
    """Trace a model back to the raw text, and check every file and param on the way.

    Exits with 1 and names the differences if something differs from dvc.lock.
    """
    from llm.report.trace import differences, render, trace_back

    steps = trace_back(target, Path())
    typer.echo(render(steps))
    raise typer.Exit(1 if differences(steps) else 0)


@app.command()
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


@app.command()
def verify_export(
    folder: Annotated[Path, Argument(help="An export, or a Hugging Face folder.")] = EXPORT.parent,
    seed: Seed = 1,
    text: CorpusTable = TEST,
    converted: Converted = None,
) -> None:
    """Load an export with Transformers, llama.cpp and ONNX Runtime, and compare each with our model."""
    from llm.experiments.compare_models import read_texts
    from llm.export.clients import verify_export as measure
    from llm.finetune.shared.chat import chat_to_verify

    corpus = "\n".join(read_texts(text)) if text.exists() else ""
    table, wrong = measure(folder, seed, corpus, chat_to_verify, converted)
    typer.echo(table)
    if wrong:
        raise UserError(f"{folder}: expected differences within the table's limits, got more for {', '.join(wrong)}")


@app.command()
def push(
    folder: Annotated[Path, Argument(help="An export: models/export, or models/finetuned/NAME.")],
    repo: Annotated[str, Argument(help="OWNER/NAME on the Hugging Face Hub.")],
    private: Annotated[bool, Option("--private", help="Create a private repository.")] = False,
    revision: Annotated[str, Option(help="The branch; created if missing.")] = "main",
    message: Annotated[str | None, Option(help="The commit message.")] = None,
    yes: Annotated[bool, Option("--yes", help="Do not ask for confirmation.")] = False,
    converted: Converted = None,
    card: Annotated[Path | None, Option(help="Its card, such as models/cards/NAME/README.md.")] = None,
) -> None:
    """Upload an export to the Hugging Face Hub, after listing the files."""
    from llm.export import push as hub

    files = hub.files_to_push(folder, converted, card)
    hub.check_repo(repo)
    token = hub.find_token()
    typer.echo(hub.describe_upload(files, repo, private=private, revision=revision))
    if not yes and not sys.stdin.isatty():
        raise UserError("--yes: expected without a terminal to confirm in; nothing was uploaded")
    if not yes and not typer.confirm("Upload?"):
        raise typer.Exit(1)
    typer.echo(hub.push(files, repo, token, private=private, revision=revision, message=message))


@app.command()
def harness(
    folder: LanguageModel = EXPORT,
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


@app.command()
def add_task(
    name: Annotated[str, Argument(help="Name of the task: lowercase letters, digits, - and _.")],
    file: Annotated[Path, Argument(help="Labeled rows: .csv, .tsv, .jsonl, .json or .parquet.")],
    kind: Annotated[str | None, Option(help="classify, instruct or dpo; detected by default.")] = None,
    text: Annotated[list[str] | None, Option(help="An input column, if not detected; can be given twice.")] = None,
    label: Annotated[str | None, Option(help="The column of labels or answers.")] = None,
    base: Annotated[Path, Option(help="The Hugging Face folder to finetune.")] = EXPORT,
    header: Header = True,
    split: Annotated[
        str | None, Option(help="The column with train, val and test, or none for a random split; detected by default.")
    ] = None,
    on_error: Annotated[str, Option(help="fail, or skip: invalid rows are dropped and counted.")] = "fail",
    encoding: Encoding = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Add a finetuning task for a file of labeled rows to params.yaml, and print how to run it."""
    from llm.commands.add_task import add_task as add
    from llm.commands.check import check_params

    check_params(params)
    lines = add(params, name, file, kind, text or [], label, base, header, split, on_error, encoding)
    typer.echo("\n".join(lines))


@app.command()
def predict(
    folder: Annotated[Path, Argument(help="A classifier, such as models/finetuned/library.")],
    file: Annotated[Path, Argument(help="Rows with texts: .csv, .tsv, .jsonl, .json or .parquet, of any size.")],
    out: Annotated[Path | None, Option(help="Output file; FILE.predictions beside the file by default.")] = None,
    text: Annotated[
        list[str] | None, Option(help="An input column, if named differently than in training; can be given twice.")
    ] = None,
    every_label: Annotated[bool, Option("--all", help="Add the probability of each label.")] = False,
    header: Header = True,
    encoding: Encoding = None,
) -> None:
    """Add a finetuned classifier's predictions to the rows of a file."""
    from llm.core.device import Machine
    from llm.finetune.classify.predict import predict_file

    found = predict_file(
        folder, file, out, text or [], Machine.find(), every_label=every_label, header=header, encoding=encoding
    )
    without = f", {found.without_text:,} of them without text and prediction" if found.without_text else ""
    typer.echo(f"{found.out}: {found.rows:,} rows{without}")
    if found.encoding:
        typer.echo(f"{file}: detected the encoding {found.encoding}; --encoding sets another")


@app.command()
def learning_curve(
    task: Annotated[str, Argument(help="A classification task of params.yaml.")] = "library",
    shares: Annotated[
        list[float], Option(help="Fraction of the labeled rows; can be repeated; 0.01, 0.05, 0.25 and 1 by default.")
    ] = [0.01, 0.05, 0.25, 1.0],  # noqa: B006 (typer copies it)
    seeds: Annotated[int, Option(min=1, help="Runs of each point.")] = 3,
    params_file: ParamsFile = PARAMS,
) -> None:
    """Measure the accuracy of a task against its number of labeled rows, with and without pretraining."""
    from llm.experiments.learning_curve import write_learning_curve

    typer.echo(write_learning_curve(params_file, task, shares, seeds))


@app.command()
def check(params: ParamsFile = PARAMS) -> None:
    """Check params.yaml and name every invalid key."""
    from llm.commands.check import check_params

    check_params(params)


@app.command()
def preset(name: Annotated[str, Argument(help="The name of a file in presets/.")], params: ParamsFile = PARAMS) -> None:
    """Set the values of a preset in params.yaml."""
    from llm.commands.presets import apply_preset

    changes = apply_preset(Path("presets") / f"{name}.yaml", params)
    typer.echo("\n".join(changes) or f"{params} already has the values of {name}")


@app.command()
def summary(metrics: Annotated[Path, Argument(help="The folder of metrics.")] = METRICS) -> None:
    """Show the metrics of the last run and texts of the model; exits with 1 if there are none."""
    typer.echo(_describe_run(metrics))


@app.command()
def figures(
    pages: Annotated[list[Path], Argument(help="Pages with blocks of figures.")] = PAGES,
    metrics: MetricsFolder = METRICS,
    reports: Annotated[Path, Option(help="The folder of reports, whose pictures are copied to docs/.")] = REPORTS,
) -> None:
    """Write the metrics, texts and pictures of the last run into README.md and docs/."""
    from llm.report.figures import copy_pictures, write_figures

    for page in pages:
        write_figures(page, metrics, _describe_run(metrics))
        typer.echo(f"written: {page}")
    for picture in copy_pictures(reports, Path("docs")):
        typer.echo(f"written: {picture}")


def _describe_run(metrics: Path) -> str:
    from llm.report.summary import describe_run

    found = describe_run(metrics, Path("models"))
    if not found:
        typer.echo(f"{metrics}: expected metrics of a run, got none; make repro trains and measures a model", err=True)
        raise typer.Exit(1)
    return found


def run() -> None:
    """Run a command; a user's error is one line and exit code 2."""
    limit_spinning()
    try:
        with one_line_errors(written=[Path(), Path(tempfile.gettempdir())]):
            app()
    except UserError as error:
        print(f"llm: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
