"""The command line: `python -m llm COMMAND`. Heavy imports stand inside the commands, so that help is instant."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from llm.errors import UserError

app = typer.Typer(
    help="Groundup: a language model from the ground up. `dvc repro` makes it; these look at it and use it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ParamsFile = Annotated[Path, typer.Option("--params", help="The params file.")]


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    model: Annotated[Path, typer.Option(help="A Hugging Face folder, such as models/export.")] = Path("models/export"),
    max_tokens: Annotated[int, typer.Option(min=1, help="At most so many new tokens.")] = 100,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=1, help="Draw among the so many likeliest tokens.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same text.")] = 1,
) -> None:
    """Continue a text."""
    import torch

    from llm.export.huggingface import read_folder
    from llm.model.generate import generate as continue_ids
    from llm.model.generate import greedy, sampler
    from llm.text.tokenizer import Tokenizer

    gpt = read_folder(model)
    tokenizer = Tokenizer.load(model / "tokenizer.json")
    choose = sampler(temperature, top_k, torch.Generator().manual_seed(seed)) if temperature else greedy
    ids = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
    sys.stdout.write(prompt)
    written, shown = [], ""
    for token in continue_ids(gpt, ids, max_tokens, choose, stop=frozenset({tokenizer.end_of_text})):
        written.append(token)
        text = tokenizer.decode(written)
        # A character may be split over tokens: its bytes are held back until they are whole.
        if not text.endswith("\ufffd"):
            sys.stdout.write(text[len(shown) :])
            sys.stdout.flush()
            shown = text
    sys.stdout.write(tokenizer.decode(written)[len(shown) :] + "\n")


@app.command()
def windows(
    show: Annotated[int, typer.Option(min=1, help="How many rows of input and target.")] = 5,
    split: Annotated[str, typer.Option(help="train, val, test, or a segmentation such as train-1.")] = "train",
    window: Annotated[int, typer.Option(min=0, help="Which window, from 0.")] = 0,
    folder: Annotated[Path, typer.Option(help="What the stage sample wrote.")] = Path("data/windows"),
    tokenizer: Annotated[Path, typer.Option(help="A tokenizer.json.")] = Path("data/tokenizer/tokenizer.json"),
) -> None:
    """Show what the model learns from: rows of input and target, as ids and as text."""
    from llm.text.show import window_rows
    from llm.text.tokenizer import Tokenizer
    from llm.text.windows import read_info, read_windows

    info = read_info(folder)
    wanted = read_windows(folder, split)
    if window >= len(wanted.starts):
        raise UserError(f"--window: wanted below the {len(wanted.starts)} windows of {split}, given {window}")
    context, stride = info.context_length, info.stride
    typer.echo(f"{split}: {len(wanted.starts):,} windows of up to {context} tokens, stride {stride}")
    typer.echo(f"window {window} begins at token {wanted.starts[window]:,} of {len(wanted.stream):,}")
    typer.echo("\n".join(window_rows(wanted, window, show, Tokenizer.load(tokenizer))))


@app.command()
def check(params: ParamsFile = Path("params.yaml")) -> None:
    """Check all of params.yaml, and name every key that is wrong."""
    from llm.check import check_params

    check_params(params)


@app.command()
def preset(
    name: Annotated[str, typer.Argument(help="The name of a file in presets/.")],
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Set the knobs of params.yaml to a preset."""
    from llm.presets import apply_preset

    changes = apply_preset(Path("presets") / f"{name}.yaml", params)
    typer.echo("\n".join(changes) or f"{params} has the values of {name} already")


@app.command()
def library_changed(
    metrics: Annotated[Path, typer.Argument(help="The metrics of prepare.")], params: ParamsFile = Path("params.yaml")
) -> None:
    """Exit with 0 if the standard library that the corpus was made of is another one now, with 1 if not.

    DVC cannot watch the standard library; `make repro` asks here whether prepare has to run again.
    """
    from llm.check import check_params
    from llm.text.params import PythonSource
    from llm.text.sources import library_hash

    if not any(isinstance(source, PythonSource) for source in check_params(params).prepare.sources):
        raise typer.Exit(1)
    if not metrics.is_file():
        raise typer.Exit(1)
    recorded = json.loads(metrics.read_text(encoding="utf-8")).get("python", {}).get("library_sha256")
    raise typer.Exit(1 if recorded in (None, library_hash()) else 0)


@app.command()
def summary(metrics: Annotated[Path, typer.Argument(help="The folder of metrics.")] = Path("metrics")) -> None:
    """Show what the last run came to."""
    from llm.summary import summarise_run

    typer.echo(summarise_run(metrics))
    typer.echo('The model is in models/export. Try it:\n  python -m llm generate "import " --model models/export')


def run() -> None:
    """Run a command; a user's mistake is one line and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"llm: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
