"""The command line: `python -m llm COMMAND`. Heavy imports stand inside the commands, so that help is instant."""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm.core.errors import UserError, one_line_errors
from llm.core.openmp import limit_spinning

if TYPE_CHECKING:
    from llm.model.gpt import GPT
    from llm.tokens.tokenizer import Tokenizer

app = typer.Typer(
    help="Groundup: a language model from the ground up. `dvc repro` makes it; these look at it and use it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ParamsFile = Annotated[Path, typer.Option("--params", help="The params file.")]
ModelFolder = Annotated[Path, typer.Option(help="A Hugging Face folder, or weights such as models/pretrained.")]
TokenizerFile = Annotated[Path, typer.Option(help="The tokenizer.json of weights that come without one.")]
Encoding = Annotated[str | None, typer.Option(help="Of a text file, such as cp1252; found otherwise.")]
MAX_SEED = 2**63 - 1  # as in params.yaml; torch counts no further
EXPORT, TOKENIZER = Path("models/export"), Path("data/tokenizer/tokenizer.json")


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    model: ModelFolder = EXPORT,
    tokenizer: TokenizerFile = TOKENIZER,
    max_tokens: Annotated[int, typer.Option(min=1, help="At most so many new tokens.")] = 100,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=1, help="Draw among the so many likeliest tokens.")] = 50,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Draw among the likeliest that are this probable together.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Draw among those this share as probable as the likeliest.")
    ] = None,
    repetition_penalty: Annotated[float, typer.Option(min=1, help="Above 1 what was read is less likely.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given several times.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The same seed draws the same text.")] = 1,
) -> None:
    """Continue a text."""
    import torch

    from llm.model.generate import generate as continue_ids
    from llm.model.generate import greedy, sampler, stream_text

    if stop and not all(stop):
        raise UserError("--stop: wanted a text, given an empty one")
    gpt, tokens = _load(model, tokenizer)
    drawn = torch.Generator().manual_seed(seed)
    choose = sampler(temperature, top_k, drawn, top_p, min_p) if temperature else greedy
    ids = tokens.prompt(prompt)
    sys.stdout.write(prompt)
    for piece in stream_text(
        continue_ids(gpt, ids, max_tokens, choose, tokens.eos_ids, repetition_penalty), tokens.decode, tuple(stop or ())
    ):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="A Hugging Face folder, such as models/finetuned/docstring.")] = EXPORT,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one, which is printed.")] = 8000,
    slots: Annotated[int, typer.Option(min=1, max=4096, help="So many texts go on at once; the others wait.")] = 32,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    public: Annotated[bool, typer.Option("--public", help="Allow a host that other machines reach.")] = False,
) -> None:
    """Serve a model over HTTP, as OpenAI's clients know it: completions, chat completions, models."""
    from llm.serve.run import serve as serve_folder

    serve_folder(folder, host, port, slots, public)


@app.command()
def chat(
    folder: Annotated[Path, typer.Argument(help="The Hugging Face folder of a model that was finetuned to answer.")],
    message: Annotated[
        str | None, typer.Argument(help="Answer this alone; without it, answer line after line.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")] = 0.8,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Draw among the likeliest that are this probable together.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="The same seed and the same messages draw the same answers.")
    ] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="At most so many tokens an answer.")] = 200,
    system: Annotated[str | None, typer.Option(help="What stands before the conversation.")] = None,
) -> None:
    """Talk with a model in the terminal; a pipe is read line by line."""
    from llm.serve.terminal import Manner
    from llm.serve.terminal import chat as talk

    if message is not None and not message.strip():
        raise UserError("MESSAGE: expected a text, got an empty one")
    talk(folder, Manner(temperature, top_p, max_tokens, seed, system), sys.stdin, sys.stdout, message)


@app.command()
def neighbours(
    word: Annotated[str, typer.Argument(help="A word, with its capitals.")],
    model: ModelFolder = EXPORT,
    tokenizer: TokenizerFile = TOKENIZER,
    top: Annotated[int, typer.Option(min=1, help="How many.")] = 10,
) -> None:
    """List the tokens whose learned embeddings are nearest to a word's, by cosine."""
    from llm.model.embeddings import nearest

    if not word:
        raise UserError("WORD: wanted a text, given an empty one")
    gpt, tokens = _load(model, tokenizer)
    # A word in the middle of a text mostly begins with its space: that is another token, with another row.
    spelled = [tokens.encode(text) for text in (word, f" {word}")]
    found = list(dict.fromkeys(ids[0] for ids in spelled if len(ids) == 1))
    if not found:
        parts = " ".join(repr(tokens.decode([token])) for token in spelled[0])
        typer.echo(f"{word!r} is {len(spelled[0])} tokens: {parts}; the neighbours are of the last one")
        found = spelled[0][-1:]
    for token in found:
        typer.echo(f"{tokens.decode([token])!r}, id {token}")
        for other, cosine in nearest(gpt.embedding.weight.detach(), token, top):
            typer.echo(f"  {cosine:6.3f}  {tokens.decode([other])!r}")


def _load(model: Path, tokenizer: Path) -> "tuple[GPT, Tokenizer]":
    """The model of a folder, and its tokenizer. Our own weights stand there without one."""
    from llm.export.hf.base import open_model
    from llm.model.weights import load_model
    from llm.tokens.tokenizer import Tokenizer

    if (model / "tokenizer.json").exists() or not (model / "model.safetensors").exists():
        return open_model(model)
    return load_model(model), Tokenizer.load(tokenizer)


@app.command()
def windows(
    show: Annotated[int, typer.Option(min=1, help="How many rows of input and target.")] = 5,
    split: Annotated[str, typer.Option(help="train, val, test, or a segmentation such as train-1.")] = "train",
    window: Annotated[int, typer.Option(min=0, help="Which window, from 0.")] = 0,
    folder: Annotated[Path, typer.Option(help="What the stage sample wrote.")] = Path("data/windows"),
    tokenizer: Annotated[Path, typer.Option(help="A tokenizer.json.")] = Path("data/tokenizer/tokenizer.json"),
) -> None:
    """Show what the model learns from: rows of input and target, as ids and as text."""
    from llm.tokens.show import window_rows
    from llm.tokens.tokenizer import Tokenizer
    from llm.tokens.windows import read_info, read_windows

    info = read_info(folder)
    wanted = read_windows(folder, split)
    if window >= len(wanted.starts):
        raise UserError(f"--window: wanted below the {len(wanted.starts)} windows of {split}, given {window}")
    context, stride = info.context_length, info.stride
    typer.echo(f"{split}: {len(wanted.starts):,} windows of up to {context} tokens, stride {stride}")
    typer.echo(f"window {window} begins at token {wanted.starts[window]:,} of {len(wanted.stream):,}")
    typer.echo("\n".join(window_rows(wanted, window, show, Tokenizer.load(tokenizer))))


@app.command()
def compare_models(
    folders: Annotated[list[Path], typer.Argument(help="Local Hugging Face folders of causal language models.")],
    text: Annotated[Path, typer.Option(help="A corpus table.")] = Path("data/corpus/test.parquet"),
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Score so many bytes of it at most.")] = None,
) -> None:
    """Bits per byte of several models on the same text, each with its own tokenizer."""
    from llm.core.device import Machine
    from llm.experiments.compare_models import compare, read_texts
    from llm.export.hf.native import open_native

    typer.echo(compare(folders, read_texts(text, max_bytes), Machine.find(), open_native))


@app.command()
def compare(
    revisions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[REV]...",
            help="Commits, branches, experiments of dvc exp, or workspace. None: HEAD; one is held against workspace.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture of the learning curves.")] = Path("reports/compare.svg"),
) -> None:
    """Show experiments side by side: params and metrics that differ, learning curves, samples."""
    from llm.report.compare_runs import compare_runs

    typer.echo(compare_runs(revisions or [], Path(), out))


@app.command()
def trace(
    target: Annotated[Path, typer.Argument(help="An exported model, or whatever else a stage makes.")] = EXPORT,
) -> None:
    """Walk from a model back to the raw text, and check every file and param on the way.

    Exits with 0 if all is as dvc.lock recorded it, with 1 if something differs; each thing that does is named.
    """
    from llm.report.trace import differences, render, trace_back

    steps = trace_back(target, Path())
    typer.echo(render(steps))
    raise typer.Exit(1 if differences(steps) else 0)


@app.command()
def scaling(
    setting: Annotated[str, typer.Argument(help="A ladder of scaling.yaml.")] = "tiny",
) -> None:
    """Train a ladder of sizes and budgets, fit how the loss falls, and hold a larger size against the prediction.

    Each run is an experiment of DVC in a copy of the repository; those that are made already are not made again.
    """
    from llm.experiments.scaling import PAGE, PICTURE, commands_in, run_ladder

    page, failed = run_ladder(setting, Path(), commands_in(Path()))
    typer.echo(f"{page}\nwritten: {PAGE}, {PICTURE}")
    if failed:
        raise UserError(f"scaling: wanted every run, {len(failed)} failed: {', '.join(failed)}")


@app.command()
def verify_export(
    folder: Annotated[Path, typer.Argument(help="A Hugging Face folder of a language model.")] = EXPORT,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the prompts.")] = 1,
    text: Annotated[Path, typer.Option(help="A corpus table, whose ids are compared.")] = Path(
        "data/corpus/test.parquet"
    ),
) -> None:
    """Load an export with Transformers, llama.cpp and ONNX Runtime, and measure how far each is from our model."""
    from llm.experiments.compare_models import read_texts
    from llm.export.clients import verify_export as measure
    from llm.finetune.shared.chat import chat_to_verify

    table, wrong = measure(folder, seed, "\n".join(read_texts(text)) if text.exists() else "", chat_to_verify)
    typer.echo(table)
    if wrong:
        raise UserError(f"{folder}: wanted what the table allows, {', '.join(wrong)} is not within it")


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A Hugging Face folder, such as models/export.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str, typer.Option(help="The branch; made where it is missing.")] = "main",
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Upload an export to the Hugging Face Hub, after showing what goes there."""
    from llm.export import push as hub

    names = hub.files_to_push(folder)
    hub.check_repo(repo)
    token = hub.find_token()
    typer.echo(hub.plan(folder, names, repo, private=private, revision=revision))
    if not yes and not sys.stdin.isatty():
        raise UserError("--yes: wanted it where no terminal can be asked; nothing was uploaded")
    if not yes and not typer.confirm("Upload?"):
        raise typer.Exit(1)
    typer.echo(hub.push(folder, names, repo, token, private=private, revision=revision, message=message))


@app.command()
def harness(
    folder: Annotated[Path, typer.Argument(help="A Hugging Face folder of a language model.")] = EXPORT,
    tasks: Annotated[Path, typer.Option(help="What the stage cloze wrote.")] = Path("data/cloze"),
) -> None:
    """Score the cloze tasks with lm-evaluation-harness, and hold its accuracies against ours.

    Exits with 0 if they are the same, with 1 if not.
    """
    from llm.experiments.harness import compare as hold_against
    from llm.export.hf.folder import read_folder
    from llm.tokens.tokenizer import Tokenizer

    table, other = hold_against(folder, read_folder(folder), Tokenizer.load(folder / "tokenizer.json"), tasks)
    typer.echo(table)
    if other:
        typer.echo(f"not the same: {', '.join(other)}")
    raise typer.Exit(1 if other else 0)


@app.command()
def add_task(
    name: Annotated[str, typer.Argument(help="What the task is to be called: small letters, digits, - and _.")],
    file: Annotated[Path, typer.Argument(help="Labeled rows: .csv, .tsv, .jsonl, .json or .parquet.")],
    kind: Annotated[str | None, typer.Option(help="classify, instruct or prefer; guessed otherwise.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A column that is read, where it cannot be guessed; may be given twice.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="The column with what is to be said of it.")] = None,
    base: Annotated[Path, typer.Option(help="The Hugging Face folder to start from.")] = EXPORT,
    header: Annotated[bool, typer.Option(help="Whether a .csv or .tsv has one; else columns are 1, 2, …")] = True,
    split: Annotated[
        str | None, typer.Option(help="The column with train, val and test; none draws splits; guessed otherwise.")
    ] = None,
    on_error: Annotated[
        str, typer.Option(help="fail, or skip: rows with a problem are left out and counted.")
    ] = "fail",
    encoding: Encoding = None,
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Add a task for a file of labeled rows to params.yaml, and say how to run it."""
    from llm.commands.add_task import add_task as add
    from llm.commands.check import check_params

    check_params(params)
    lines = add(params, name, file, kind, text or [], label, base, header, split, on_error, encoding)
    typer.echo("\n".join(lines))


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(help="A classifier, such as models/finetuned/library.")],
    file: Annotated[Path, typer.Argument(help="Rows with texts: .csv, .tsv, .jsonl, .json or .parquet, of any size.")],
    out: Annotated[Path | None, typer.Option(help="Where to; FILE.predictions beside the file otherwise.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A column with a text, where it is not called as in training; or two.")
    ] = None,
    every_label: Annotated[bool, typer.Option("--all", help="Add the probability of each label.")] = False,
    header: Annotated[bool, typer.Option(help="Whether a .csv or .tsv has one; else columns are 1, 2, …")] = True,
    encoding: Encoding = None,
) -> None:
    """Add a finetuned classifier's predictions to a file's rows."""
    from llm.core.device import Machine
    from llm.finetune.classify.predict import predict_file

    found = predict_file(
        folder, file, out, text or [], Machine.find(), every_label=every_label, header=header, encoding=encoding
    )
    without = f", {found.without_text:,} of them without a text and so without a prediction"
    typer.echo(f"{found.out}: {found.rows:,} rows{without if found.without_text else ''}")
    if found.encoding:
        typer.echo(f"{file}: read as {found.encoding}; --encoding names another one")


@app.command()
def learning_curve(
    task: Annotated[str, typer.Argument(help="A classification task of params.yaml.")] = "library",
    shares: Annotated[list[float], typer.Option(help="Of the labeled rows; may be given several times.")] = [  # noqa: B006 (typer copies it)
        0.01,
        0.05,
        0.25,
        1.0,
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each point.")] = 3,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Measure a task against its number of labeled rows, with pretraining and without."""
    from llm.experiments import learning_curve as curve

    outcomes = curve.run_learning_curve(*curve.read_task(params_file, task), shares=shares, n_seeds=seeds)
    lines = curve.summarise(outcomes)
    metrics, picture = Path(f"metrics/learning_curve/{task}.json"), Path(f"plots/learning_curve/{task}.svg")
    curve.write_metrics(metrics, task, lines)
    curve.draw(picture, task, lines)
    typer.echo(f"{curve.as_table(lines)}\nwritten: {metrics}, {picture}")


@app.command()
def check(params: ParamsFile = Path("params.yaml")) -> None:
    """Check all of params.yaml, and name every key that is wrong."""
    from llm.commands.check import check_params

    check_params(params)


@app.command()
def preset(
    name: Annotated[str, typer.Argument(help="The name of a file in presets/.")],
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Set the knobs of params.yaml to a preset."""
    from llm.commands.presets import apply_preset

    changes = apply_preset(Path("presets") / f"{name}.yaml", params)
    typer.echo("\n".join(changes) or f"{params} has the values of {name} already")


@app.command()
def summary(
    metrics: Annotated[Path, typer.Argument(help="The folder of metrics.")] = Path("metrics"),
    reports: Annotated[Path, typer.Option(help="The folder of reports.")] = Path("reports"),
) -> None:
    """Show what the last run came to: figures, and texts of the model.

    Exits with 1 if nothing was measured yet.
    """
    typer.echo(_describe_run(metrics, reports))


@app.command()
def figures(
    pages: Annotated[
        list[Path] | None, typer.Argument(help="Pages with blocks of figures; README.md and docs.")
    ] = None,
    metrics: Annotated[Path, typer.Option(help="The folder of metrics.")] = Path("metrics"),
    reports: Annotated[Path, typer.Option(help="The folder of reports.")] = Path("reports"),
) -> None:
    """Write the figures and texts of the last run into README.md and docs/."""
    from llm.report.figures import write_figures

    for page in pages or [Path("README.md"), Path("docs/questions.md")]:
        write_figures(page, metrics, _describe_run(metrics, reports))
        typer.echo(f"written: {page}")


def _describe_run(metrics: Path, reports: Path) -> str:
    from llm.report.summary import describe_run

    found = describe_run(metrics, reports, EXPORT)
    if not found:
        typer.echo(f"{metrics}: expected metrics of a run, got none; make repro trains and measures a model", err=True)
        raise typer.Exit(1)
    return found


def run() -> None:
    """Run a command; a user's mistake is one line and exit code 2."""
    limit_spinning()
    try:
        with one_line_errors(written=[Path(), Path(tempfile.gettempdir())]):
            app()
    except UserError as error:
        print(f"llm: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
